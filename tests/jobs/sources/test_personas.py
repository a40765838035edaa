import json
import os
from pathlib import Path

import pytest

from persona_jobs.dataset import ReferencePersona
from persona_jobs.errors import InputError
from persona_jobs.sources import personas

EVAL_FILES = os.environ.get("EVAL_FILES")


def write(path: Path, *records: object) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return f"file://{path}"


def test_ten_varied_personas_are_built_in() -> None:
    found = personas.load("builtin://general", count=10)
    assert len({persona.name for persona in found}) == 10
    assert len({persona.text for persona in found}) == 10
    assert personas.load("builtin://general", count=3) == found[:3]


def test_objects_and_plain_strings_are_read(tmp_path: Path) -> None:
    uri = write(tmp_path / "p.jsonl", {"name": "Ada", "text": " You are Ada. "}, "You are Bo.")
    assert personas.load(uri, count=2) == [
        ReferencePersona(name="Ada", text="You are Ada."),
        ReferencePersona(name="Reference 2", text="You are Bo."),
    ]
    assert len(personas.load(uri)) == 2


def test_duplicates_do_not_count(tmp_path: Path) -> None:
    uri = write(tmp_path / "p.jsonl", "You are Bo.", "You are Bo.", "You are Cy.")
    assert [persona.text for persona in personas.load(uri)] == ["You are Bo.", "You are Cy."]
    with pytest.raises(
        InputError, match=r"p\.jsonl has 2 different reference personas instead of 3"
    ):
        personas.load(uri, count=3)


@pytest.mark.parametrize(
    "record",
    [1, None, [], {}, "", "  ", {"name": "x"}, {"text": 3}, {"name": 3, "text": "x"}, "a\0b"],
)
def test_malformed_records_are_named(tmp_path: Path, record: object) -> None:
    uri = write(tmp_path / "p.jsonl", "You are Bo.", record)
    with pytest.raises(InputError, match=r"ecord 2 of .*p\.jsonl"):
        personas.load(uri)


def test_a_text_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="longer than"):
        personas.load(write(tmp_path / "p.jsonl", "x" * (1 << 20)))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 different reference personas instead of 1"):
        personas.load(write(tmp_path / "p.jsonl"))


@pytest.mark.skipif(not EVAL_FILES, reason="EVAL_FILES names no folder of evaluation data")
def test_the_published_file_is_read() -> None:
    found = personas.load(f"file://{EVAL_FILES}/reference_personas.jsonl", count=10)
    assert all(len(persona.text) > 100 for persona in found)
