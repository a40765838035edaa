"""Structured logs: one JSON object per line, with the persona and the stage where there is one."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_FIELDS = ("namespace", "persona", "stage", "store")


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        reference = getattr(record, "k8s_ref", None)
        if isinstance(reference, dict):
            line.setdefault("namespace", reference.get("namespace"))
            line.setdefault("persona", reference.get("name"))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str) -> None:
    """Send all logs as JSON to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # These log every request.
    for name in ("urllib3", "aiohttp.access", "kopf.objects", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
