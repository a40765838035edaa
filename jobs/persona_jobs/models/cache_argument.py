"""The name under which the installed transformers takes a cache of keys and values."""

import inspect
from typing import Any


def cache_argument(model: Any, cache: Any) -> dict[str, Any]:
    """Return the cache as keyword argument of the model's `forward` and `generate`.

    `past_key_values` was renamed to `cache`; the old name warns, and later it is gone.
    """
    current = "cache" in inspect.signature(model.forward).parameters
    return {"cache" if current else "past_key_values": cache}
