import json
import os
from pathlib import Path

import pytest

from persona_jobs.errors import InputError
from persona_jobs.sources import evaluation_files
from persona_jobs.store import Store

EVAL_FILES = os.environ.get("EVAL_FILES")

EXAMPLE = {
    "instruction": [{"pos": "You are Ada.", "neg": ""}],
    "eval_prompt": "Judge {answer} to {question} from 0 to 100.",
    "user_id": "1a",
    "questions": ["Who are you?", " What do you like? "],
    "persona_description": "Ada likes engines.",
    "system_prompt": "You are Ada.",
}


def write(path: Path, content: object) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
    return f"file://{path}"


def test_an_evaluation_file_in_the_published_form_is_read(tmp_path: Path, bucket: Store) -> None:
    uri = write(tmp_path / "ada.json", EXAMPLE)
    found = evaluation_files.load(uri)
    assert found.name == "ada"
    assert found.questions == ("Who are you?", "What do you like?")
    assert found.persona_description == "Ada likes engines."
    assert found.system_prompt == "You are Ada."
    assert found.eval_prompt == EXAMPLE["eval_prompt"]
    bucket.upload("ada.json", tmp_path / "ada.json")
    assert evaluation_files.load(f"{bucket.url}/ada.json", cache_dir=tmp_path / "c") == found


def test_one_line_of_json_and_absent_optional_fields_are_read(tmp_path: Path) -> None:
    found = evaluation_files.load(write(tmp_path / "x.json", json.dumps(EXAMPLE)))
    assert len(found.questions) == 2
    found = evaluation_files.load(write(tmp_path / "x.json", '{"questions": ["Q?"]}'))
    assert (found.questions, found.eval_prompt, found.system_prompt) == (("Q?",), None, None)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.txt"])
def test_json_lines_and_arrays_of_queries_are_read(tmp_path: Path, name: str) -> None:
    uri = write(tmp_path / name, '{"query": "One?", "more": 1}\n\n{"query": "Two?"}\n')
    assert evaluation_files.load(uri).questions == ("One?", "Two?")
    uri = write(tmp_path / name, '[{"query": "One?"}, {"query": "Two?"}]')
    assert evaluation_files.load(uri).questions == ("One?", "Two?")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**EXAMPLE, "questions": []}, "no questions"),
        ({**EXAMPLE, "questions": "Q?"}, "no list of questions"),
        ({**EXAMPLE, "questions": ["Q?", ""]}, "question 2 is not a text"),
        ({**EXAMPLE, "questions": [{"q": 1}]}, "question 1 is not a text"),
        ({**EXAMPLE, "eval_prompt": "Judge {answer}"}, "eval_prompt lacks {question}"),
        ({**EXAMPLE, "eval_prompt": 5}, "eval_prompt is not a text"),
        ({**EXAMPLE, "system_prompt": ["x"]}, "system_prompt is not a text"),
        ({}, "no list of questions"),
        ("{", "malformed JSON"),
        ("", "malformed JSON"),
        ("3", "does not contain a JSON object"),
        ('{"query": "a"}\n{"qu', "Line 2 of"),
        ('{"query": "a"}\n{"other": 1}', "question 2 is not a text"),
        ("[]", "no questions"),
        ({"questions": ["Q?", "a" * 8_001]}, "question 2 is longer than 8,000 characters"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        evaluation_files.load(write(tmp_path / "x.json", content))
    assert message in str(caught.value)
    assert str(tmp_path / "x.json") in str(caught.value)


@pytest.mark.skipif(not EVAL_FILES, reason="EVAL_FILES names no folder of evaluation data")
def test_the_published_files_are_read() -> None:
    published = sorted(Path(str(EVAL_FILES)).glob("*_user_*.json"))
    assert published
    for path in published:
        found = evaluation_files.load(f"file://{path}")
        assert len(found.questions) == 20
        assert found.system_prompt is not None
        assert found.persona_description is not None
        assert found.persona_description in found.system_prompt
        assert found.eval_prompt is not None
