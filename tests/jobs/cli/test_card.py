"""`persona import`, and a card as the persona of `persona run`."""

import json
import re
import signal
import subprocess
from pathlib import Path

import openai
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_jobs.api import load_resource
from persona_jobs.cli import card as card_module
from persona_jobs.dataset import Example, read_jsonl
from support.cards import TEXT, card, charx, json_bytes, png, text_chunk
from support.local_pipeline import command, environment, manifest, persona, write_manifest

NAMES = [
    ("Elias Marlowe", "elias-marlowe"),
    ("Élodie d'Artagnan", "elodie-d-artagnan"),
    ("7 of 9", "persona-7-of-9"),
    ("船長", "persona"),
    ("  --  ", "persona"),
    ("A" * 39 + " B", "a" * 39),
]


@pytest.mark.parametrize(("name", "expected"), NAMES)
def test_the_objects_name_is_made_of_the_cards(name, expected):
    assert card_module.object_name(name) == expected


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("c.png", png(text_chunk(card()))),
        ("c d.json", json_bytes(card(3))),
        ("c.charx", charx(card(3))),
    ],
)
def test_a_card_becomes_a_file_that_the_other_commands_read(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    done = persona(tmp_path, "import", name, "-o", "captain.yaml")
    assert done.returncode == 0, done.stderr
    assert "captain.yaml holds the PersonaModel elias-marlowe." in done.stderr
    assert "lorebook (1 entry) is not used" in done.stderr
    resource = load_resource(tmp_path / "captain.yaml")
    assert resource.metadata.name == "elias-marlowe"
    assert resource.spec.persona.text == TEXT
    assert [len(each.turns) for each in resource.spec.persona.examples] == [2, 1]
    checked = persona(tmp_path, "validate", "captain.yaml")
    assert "PersonaModel elias-marlowe is valid" in checked.stdout


def test_the_options_and_the_output(tmp_path):
    (tmp_path / "c.json").write_bytes(json_bytes(card(mes_example="")))
    uri = (tmp_path / "c.json").as_uri()
    options = ("--user", "matey", "--base-model", "hf://org/model")
    done = persona(tmp_path, "import", uri, *options)
    spec = yaml.safe_load(done.stdout)["spec"]
    assert "He calls matey sailor." in spec["persona"]["text"]
    assert "examples" not in spec["persona"]
    assert spec["baseModel"] == {"uri": "hf://org/model"}


def test_a_file_that_exists_stays_as_it_is(tmp_path):
    (tmp_path / "c.json").write_bytes(json_bytes(card()))
    (tmp_path / "mine.yaml").write_text("mine")
    done = persona(tmp_path, "import", "c.json", "-o", "mine.yaml")
    assert done.returncode == 2
    assert "mine.yaml exists already. Choose another name" in done.stderr
    assert (tmp_path / "mine.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("c.png", None, "does not exist. Correct the path"),
        ("c.png", png(), "c.png: The image holds no character card. Export"),
        ("c.json", b"{", "c.json: The card's JSON is malformed in line 1: "),
        ("c.json", json_bytes(card(scenario="\x07")), "field data.scenario has the control char"),
    ],
)
def test_a_bad_card_is_one_line(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    done = persona(tmp_path, "import", name, "-o", "captain.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "captain.yaml").exists()


@pytest.mark.parametrize(
    ("uri", "code", "message"),
    [
        ("good.json", 0, "captain is valid;"),
        ("bad.json", 2, "bad.json: The JSON is no character card"),
        ("none.json", 0, "none.json is not checked: it is not on this machine"),
        ("s3://cards/a.png", 0, "card s3://cards/a.png is not checked: it is not on this machine"),
    ],
)
def test_validate_checks_a_card_on_this_machine(tmp_path, uri, code, message):
    (tmp_path / "good.json").write_bytes(json_bytes(card()))
    (tmp_path / "bad.json").write_bytes(b"{}")
    source = uri if "://" in uri else (tmp_path / uri).as_uri()
    document = {
        "apiVersion": "persona-pruner.io/v1alpha1",
        "kind": "PersonaModel",
        "metadata": {"name": "captain"},
        "spec": {"persona": {"card": {"uri": source}}, "baseModel": {"uri": "hf://org/model"}},
    }
    done = persona(tmp_path, "validate", write_manifest(tmp_path, document))
    assert done.returncode == code
    assert message in done.stdout + done.stderr


@settings(max_examples=300, deadline=None)
@given(
    st.text(
        st.sampled_from("a: #-|>'\"%&*!{}[]\n\t\\ \u2028\u2029\x85\ufeff船🚢\u200b"), max_size=40
    )
)
def test_any_text_survives_the_file(text):
    document = {"spec": {"text": text}}
    assert yaml.safe_load(card_module.as_yaml(document)) == document


@pytest.mark.slow
def test_a_card_becomes_a_served_persona_that_answers(tmp_path, teacher):
    (tmp_path / "captain.png").write_bytes(png(text_chunk(card())))
    source = {"uri": (tmp_path / "captain.png").as_uri()}
    document = manifest(tmp_path, teacher.url, persona={"card": source})
    del document["spec"]["persona"]["text"]
    file = write_manifest(tmp_path, document)
    done = persona(tmp_path, "run", file, "-o", "json")
    assert done.returncode == 0, done.stderr
    assert "lorebook (1 entry) is not used" in done.stderr
    stages = {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}
    folders = {name: Path(stage["path"].removeprefix("file://")) for name, stage in stages.items()}
    data = {
        name: read_jsonl(folders["rewrite"] / f"{name}.jsonl", Example)
        for name in ("train", "validation", "test")
    }
    assert {example.system for part in data.values() for example in part} == {TEXT}
    own = {name: [e for e in part if not e.reference] for name, part in data.items()}
    assert stages["rewrite"]["metrics"]["given"] == {name: len(own[name]) for name in own}
    assert len(own["train"]) + len(own["test"]) == 3
    # The later question of a conversation is measured, but asked only where it was said.
    samples = (folders["evaluate"] / "samples.jsonl").read_text().splitlines()
    questions = {json.loads(line)["query"] for line in samples}
    assert {e.query for e in own["test"] if not e.history} & questions
    assert not {e.query for e in own["test"] if e.history} & questions
    process = subprocess.Popen(
        command("serve", file, "--port", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(tmp_path),
    )
    try:
        line = process.stdout.readline()
        address = re.search(r"Chat with captain at .* API is at (http://\S+)", line)
        assert address, (line, process.poll() is not None and process.stderr.read())
        api = openai.OpenAI(base_url=address[1], api_key="none", max_retries=0)
        answer = api.chat.completions.create(
            model="captain", messages=[{"role": "user", "content": "Ahoy"}], max_tokens=3
        )
        assert answer.usage.completion_tokens <= 3
        assert answer.usage.prompt_tokens > len(TEXT) // 8
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
