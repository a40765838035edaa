"""A fixed date for chat templates that print the present one, as those of Llama 3 do.

Training data, scores and evaluation must not depend on the day on which a stage runs: nothing of
the day is in the content keys.
"""

import re
from datetime import UTC, datetime

PINNED_DATE = datetime(2024, 7, 26, tzinfo=UTC)
"""The date that Llama 3's chat template itself falls back to."""

_CALL = re.compile(r"""\bstrftime_now\(\s*(["'])(?P<format>[^"'\\]*)\1\s*\)""")
# Takes the place of the function where a template computes the format.
_MACRO = "{%- macro strftime_now(format) -%}" + PINNED_DATE.date().isoformat() + "{%- endmacro -%}"


def with_pinned_date(template: str) -> str:
    """Return a chat template that prints `PINNED_DATE` wherever it would print the present date."""
    pinned = _CALL.sub(lambda call: f'"{PINNED_DATE.strftime(call["format"])}"', template)
    return _MACRO + pinned if re.search(r"\bstrftime_now\s*\(", pinned) else pinned
