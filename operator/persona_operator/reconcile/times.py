"""RFC 3339 times as the API server writes them."""

from datetime import UTC, datetime

EPOCH = datetime.fromtimestamp(0, UTC)


def parse_time(text: object, default: datetime = EPOCH) -> datetime:
    """Return an RFC 3339 time as a datetime, `default` for anything else."""
    if isinstance(text, datetime):
        return text
    if not isinstance(text, str):
        return default
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return default
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def format_time(moment: datetime) -> str:
    """Return an RFC 3339 time in whole seconds."""
    return moment.astimezone(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
