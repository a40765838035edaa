"""Chat records in the forms that data sets have."""

import json
from pathlib import Path
from typing import Any

import pytest

from persona_jobs.errors import InputError
from persona_jobs.sources import instructions

QUESTION, ANSWER = "Name a color.", "Blue."


def read(tmp_path: Path, *records: dict[str, Any]) -> list[tuple[str, str]]:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return [(item.query, item.answer) for item in instructions.load(f"file://{path}").instructions]


def message(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [message("user", QUESTION), message("assistant", ANSWER)]},
        {
            "messages": [
                message("system", "You are a painter."),
                message("user", [{"type": "text", "text": QUESTION}]),
                message("assistant", f"<think>Sky?</think>{ANSWER}"),
                message("user", "Another?"),
                message("assistant", "Red."),
            ]
        },
        {
            "conversations": [
                {"from": "system", "value": "You are a painter."},
                {"from": "human", "value": QUESTION},
                {"from": "gpt", "value": ANSWER},
            ]
        },
        {"prompt": QUESTION, "completion": ANSWER},
        {"prompt": [message("user", QUESTION)], "completion": [message("assistant", ANSWER)]},
        {"prompt": QUESTION, "messages": [message("user", QUESTION), message("assistant", ANSWER)]},
        # The columns of the spec come first.
        {"instruction": QUESTION, "output": ANSWER, "messages": [message("user", "Else?")]},
        # The first answer is a tool call, which is no text.
        {
            "messages": [
                message("user", "What is the weather?"),
                message("assistant", None),
                message("tool", "Sunny"),
                message("assistant", "It is sunny."),
                message("user", QUESTION),
                message("assistant", ANSWER),
            ]
        },
    ],
)
def test_the_first_question_and_its_answer_are_read(tmp_path: Path, record: dict[str, Any]):
    assert read(tmp_path, record) == [(QUESTION, ANSWER)]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "text",
        [message("user", QUESTION)],
        [message("assistant", ANSWER)],
        [message("user", None), message("assistant", ANSWER)],
        [None, 1, {"role": 3}],
    ],
)
def test_conversations_without_an_answer_are_counted(tmp_path: Path, messages: object):
    with pytest.raises(InputError, match="too few usable instructions: 0"):
        read(tmp_path, {"messages": messages})


def test_other_columns_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"no column instruction .*it has: text"):
        read(tmp_path, {"text": "Once upon a time."})
