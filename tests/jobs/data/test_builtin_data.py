"""The format of the built-in instruction set and reference personas."""

import json
import string
from importlib.resources import files
from typing import Any

import pytest

DATA = files("persona_jobs") / "data"
INSTRUCTIONS = "instructions.jsonl"
PERSONAS = "reference_personas.jsonl"
KEYS = {INSTRUCTIONS: {"instruction", "input", "output"}, PERSONAS: {"name", "text"}}


def read_rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def normalize(text: str) -> str:
    """Return lower-case text without punctuation, with single spaces."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


@pytest.mark.parametrize("name", [INSTRUCTIONS, PERSONAS])
def test_file_is_ascii_with_unix_line_ends(name: str) -> None:
    raw = (DATA / name).read_bytes()
    assert raw.isascii()
    assert b"\r" not in raw
    assert raw.endswith(b"}\n")


@pytest.mark.parametrize("name", [INSTRUCTIONS, PERSONAS])
def test_every_line_has_exactly_the_expected_string_columns(name: str) -> None:
    for row in read_rows(name):
        assert set(row) == KEYS[name], row
        assert all(isinstance(value, str) for value in row.values()), row
        # Alpaca's `input` column is the only one that may be empty.
        assert all(value.strip() for key, value in row.items() if key != "input"), row
        # ASCII characters only, also behind JSON escapes.
        assert all(value.isascii() and value == value.strip() for value in row.values()), row


def test_counts() -> None:
    assert len(read_rows(INSTRUCTIONS)) >= 300
    assert len(read_rows(PERSONAS)) == 10


def test_instructions_are_unique_after_normalization() -> None:
    seen: dict[str, str] = {}
    for row in read_rows(INSTRUCTIONS):
        key = normalize(row["instruction"])
        assert key not in seen, (row["instruction"], seen.get(key))
        seen[key] = row["instruction"]


def test_answers_are_unique_and_of_bounded_length() -> None:
    answers = [row["output"] for row in read_rows(INSTRUCTIONS)]
    assert len({normalize(answer) for answer in answers}) == len(answers)
    for answer in answers:
        assert 3 <= len(answer.split()) <= 80, answer


def test_some_instructions_come_with_an_input() -> None:
    rows = read_rows(INSTRUCTIONS)
    assert sum(bool(row["input"].strip()) for row in rows) >= 20
    # Users may take the first lines only: the kind is met there too.
    assert any(row["input"].strip() for row in rows[:100])


def test_reference_personas_are_distinct_second_person_texts() -> None:
    rows = read_rows(PERSONAS)
    assert len({normalize(row["name"]) for row in rows}) == len(rows)
    assert len({normalize(row["text"]) for row in rows}) == len(rows)
    for row in rows:
        assert row["text"].startswith("You are "), row["name"]
        assert 30 <= len(row["text"].split()) <= 60, row["name"]
        # The example persona of the documentation is a ship's captain.
        assert not {"captain", "sailor"} & set(normalize(row["text"]).split()), row["name"]
