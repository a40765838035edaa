"""Structured logs."""

import json
import logging

from persona_operator.log import JsonFormatter


def test_logs_are_json_with_persona_and_stage() -> None:
    logger = logging.getLogger("test")
    info = (ValueError, ValueError("boom"), None)
    record = logger.makeRecord(
        "test", logging.INFO, "f", 1, "Job %s", ("x",), info,
        extra={"namespace": "stories", "persona": "captain", "stage": "mask"},
    )  # fmt: skip
    line = json.loads(JsonFormatter().format(record))
    assert line["message"] == "Job x"
    assert (line["namespace"], line["persona"], line["stage"]) == ("stories", "captain", "mask")
    assert "boom" in line["exception"]
