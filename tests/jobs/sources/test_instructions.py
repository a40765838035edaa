import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from persona_jobs.dataset import Instruction, normalize_query
from persona_jobs.errors import CorruptArtifactError, InputError, StoreError
from persona_jobs.sources import instructions
from persona_jobs.sources.instructions import Columns
from persona_jobs.store import Store

ALPACA = [
    {"instruction": "Name a color.", "input": "", "output": "Blue."},
    {"instruction": "Translate to French.", "input": "Good morning", "output": "Bonjour"},
    {"instruction": "Why is the sky blue?", "output": "Rayleigh scattering."},
]
EXPECTED = [
    Instruction(query="Name a color.", answer="Blue."),
    Instruction(query="Translate to French.\n\nGood morning", answer="Bonjour"),
    Instruction(query="Why is the sky blue?", answer="Rayleigh scattering."),
]


def write(path: Path, content: object) -> str:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    return f"file://{path}"


def lines(records: list[object]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def write_form(form: str, folder: Path) -> Path:
    path = folder / f"data.{form}"
    if form == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(ALPACA), path)
    elif form == "json":
        path.write_text(json.dumps(ALPACA, indent=1))
    else:
        path.write_text("\ufeff" + lines([*ALPACA]).replace("\n", "\r\n\r\n"), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["json", "jsonl", "parquet"])
def test_every_file_format_gives_the_same_instructions(form: str, tmp_path: Path) -> None:
    found = instructions.load(f"file://{write_form(form, tmp_path)}")
    assert found.instructions == EXPECTED
    assert (found.report.read, found.report.kept) == (3, 3)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_instructions_are_fetched_from_a_bucket(form: str, bucket: Store, tmp_path: Path) -> None:
    bucket.upload(f"sets/data.{form}", write_form(form, tmp_path))
    uri = f"{bucket.url}/sets/data.{form}"
    assert instructions.load(uri, cache_dir=tmp_path / "c").instructions == EXPECTED
    with pytest.raises(InputError, match=r"absent\.jsonl does not exist"):
        instructions.load(f"{bucket.url}/sets/absent.jsonl", cache_dir=tmp_path / "c")
    with pytest.raises(StoreError, match="no-such-bucket"):
        instructions.load("s3://no-such-bucket/x.jsonl", cache_dir=tmp_path / "c")


def test_a_changed_object_is_fetched_again(bucket: Store, tmp_path: Path) -> None:
    uri = f"{bucket.url}/data.jsonl"
    bucket.write_bytes("data.jsonl", lines([ALPACA[0]]).encode())
    assert instructions.load(uri, cache_dir=tmp_path).instructions == EXPECTED[:1]
    bucket.write_bytes("data.jsonl", lines([ALPACA[2]]).encode())
    assert instructions.load(uri, cache_dir=tmp_path).instructions == EXPECTED[2:]


def test_the_built_in_set_is_large_and_clean() -> None:
    found = instructions.load("builtin://general", minimum=300)
    report = found.report
    assert (report.without_query, report.without_answer, report.duplicates) == (0, 0, 0)
    with pytest.raises(InputError, match="There is no built-in set"):
        instructions.load("builtin://other")


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    uri = write(tmp_path / "x.jsonl", '{"question": "Q?", "context": "C", "reply": "A."}\n')
    columns = Columns(instruction="question", input="context", output="reply")
    assert instructions.load(uri, columns=columns).instructions == [
        Instruction(query="Q?\n\nC", answer="A.")
    ]
    columns = Columns(instruction="question", input=None, output="reply")
    assert instructions.load(uri, columns=columns).instructions == [
        Instruction(query="Q?", answer="A.")
    ]
    with pytest.raises(
        InputError, match="has no column instruction and no column output"
    ) as caught:
        instructions.load(uri)
    assert "question, context, reply" in str(caught.value)


def test_unusable_records_are_dropped_and_counted(tmp_path: Path) -> None:
    uri = write(
        tmp_path / "x.jsonl",
        lines(
            [
                {"instruction": "No answer"},
                {"instruction": "Empty answer", "output": "  \n"},
                {"instruction": "Number", "output": 42},
                {"instruction": "Null", "output": None},
                {"instruction": "", "output": "No question"},
                {"instruction": None, "output": "No question"},
                {"instruction": "What is  rain?", "output": "Water."},
                {"instruction": "WHAT IS RAIN", "output": "Again."},
                {"instruction": "what is, rain?!", "output": "And again."},
            ]
        ),
    )
    found = instructions.load(uri)
    assert found.instructions == [Instruction(query="What is  rain?", answer="Water.")]
    report = found.report
    assert (report.read, report.kept, report.duplicates) == (9, 1, 2)
    assert (report.without_answer, report.without_query) == (4, 2)
    with pytest.raises(InputError) as caught:
        instructions.load(uri, minimum=2)
    message = str(caught.value)
    assert f"{tmp_path}/x.jsonl has too few usable instructions: 1 instead of 2" in message
    assert "4 without an answer, 0 longer than 8,000 characters, 2 duplicates" in message


def test_the_limit_bounds_the_usable_instructions(tmp_path: Path) -> None:
    uri = write(tmp_path / "x.jsonl", lines([*ALPACA]))
    assert instructions.load(uri, limit=2).instructions == EXPECTED[:2]


@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
def test_data_without_usable_instructions_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match="too few usable instructions: 0 instead of 1"):
        instructions.load(write(tmp_path / "x.jsonl", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"instruction": "a", "output": "b"}\n{"instruction": \n',
            "Line 2 of {} is malformed JSON",
        ),
        ('[{"instruction": "a",\n "output": "b"},\n {"instr', "Line 3 of {} is malformed JSON"),
        ("instruction,output\na,b\n", "Line 1 of {} is malformed JSON"),
        ('"just a text"\n', "Record 1 of {} is not an object"),
        ('[["a", "b"]]', "Record 1 of {} is not an object"),
        ("[" * 100_000, "Line 1 of {} is malformed JSON"),
        ('{"instruction": ' + "[" * 100_000 + "\n", "Line 1 of {} is malformed JSON"),
    ],
)
def test_malformed_files_are_named_with_their_line(
    tmp_path: Path, content: str, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        instructions.load(write(tmp_path / "x.jsonl", content))
    assert message.format(tmp_path / "x.jsonl") in str(caught.value)


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"instruction": "a", "output": "b"}\n{"instruction": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"Line 2 of .*x\.jsonl is not UTF-8"):
        instructions.load(f"file://{path}")


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write_form("parquet", tmp_path)
    data = path.read_bytes()
    for kept in (0, 3, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:kept])
        with pytest.raises(CorruptArtifactError, match=r"data\.parquet is truncated"):
            instructions.load(f"file://{path}")


@pytest.mark.parametrize("uri", ["", "x.jsonl", "file:///no/such.jsonl", "file:///tmp", "ftp://x"])
def test_wrong_uris_are_refused(uri: str) -> None:
    with pytest.raises(InputError) as caught:
        instructions.load(uri)
    assert caught.value.hint


def test_broken_unicode_is_repaired(tmp_path: Path) -> None:
    uri = write(tmp_path / "x.jsonl", '{"instruction": "a\\ud800b\\u0000", "output": "c"}\n')
    (found,) = instructions.load(uri).instructions
    assert found.query == "a?b"
    found.query.encode()


@given(st.text(max_size=60))
def test_normalizing_twice_changes_nothing(text: str) -> None:
    once = normalize_query(text)
    assert normalize_query(once) == once
    assert bool(once) == bool(text.strip())
    assert normalize_query(f"  {text}\n") == once


def test_the_offline_hub_is_an_input_error(tmp_path: Path) -> None:
    script = (
        "from persona_jobs.errors import PersonaError\n"
        "from persona_jobs.sources import instructions\n"
        "try:\n    instructions.load('hf://org/set')\n"
        "except PersonaError as exc:\n    print(exc.exit_code, exc)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("2 hf://org/set is not in the local cache, and HF_HUB_OFFLINE")


def test_a_hub_name_with_too_many_parts_is_refused() -> None:
    with pytest.raises(InputError, match="organization"):
        instructions.load("hf://a/b/c/d")


def test_longer_records_than_the_bound_are_left_out_and_counted(tmp_path: Path) -> None:
    bound = instructions.MAX_CHARACTERS
    records: list[object] = [
        {"instruction": "Fits", "output": "a" * (bound - 4)},
        {"instruction": "Long", "output": "a" * (bound - 3)},
        {"instruction": "Chapter", "input": "The tide came in. " * 5_000, "output": "Tide."},
    ]
    found = instructions.load(write(tmp_path / "x.jsonl", lines(records)))
    assert [kept.query for kept in found.instructions] == ["Fits"]
    assert (found.report.read, found.report.kept, found.report.too_long) == (3, 1, 2)


def test_reasoning_in_answers_is_left_out(tmp_path: Path) -> None:
    records = [
        {"instruction": "One?", "output": "<think>Hm.</think>\n\nBlue."},
        {"instruction": "Two?", "output": "Hm.\n</think>\nRed."},
        {"instruction": "Three?", "output": "<think>Hm, the"},
    ]
    found = instructions.load(write(tmp_path / "data.jsonl", lines([*records])))
    assert [item.answer for item in found.instructions] == ["Blue.", "Red."]
    assert found.report.without_answer == 1
