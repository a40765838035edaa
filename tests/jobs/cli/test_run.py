"""`persona run` as a user starts it: whole pipeline, reuse, edits, bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from persona_jobs.cli.run import open_pipeline
from persona_jobs.models import mask_file
from persona_jobs.pipeline.references import read_references
from persona_jobs.store import FileStore
from support.local_pipeline import PERSONA, environment, manifest, persona, write_manifest
from support.stage_names import DEFAULT_STAGES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("persona")


@pytest.fixture(scope="module")
def first_run(folder, teacher):
    file = write_manifest(folder, manifest(folder, teacher.url))
    result = persona(folder, "run", file, "-o", "json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def outcomes(document):
    return {stage["stage"]: stage["outcome"] for stage in document["stages"]}


def test_every_stage_is_made_and_told(first_run, folder):
    assert outcomes(first_run) == dict.fromkeys(DEFAULT_STAGES, "made")
    assert first_run["store"] == f"file://{folder}/.persona/store"
    for stage in first_run["stages"]:
        made = Path(stage["path"].removeprefix("file://"))
        assert (made / "manifest.json").is_file()
        assert stage["metrics"]
    sliced = next(s for s in first_run["stages"] if s["stage"] == "slice")["metrics"]
    assert sliced["width"] == 48
    assert sliced["parameters"] < sliced["denseParameters"]


def test_runs_and_stages_say_in_the_store_what_they_use(first_run, folder, tmp_path):
    store = FileStore(folder / ".persona" / "store")
    used = {(stage["stage"], stage["key"]) for stage in first_run["stages"]}
    (by_the_run,) = read_references(store).values()
    assert used < by_the_run
    assert {stage for stage, _ in by_the_run - used} == {"answers"}
    pinned = tmp_path / "manifest.json"
    resource = open_pipeline(folder / "persona.yaml", first_run["store"]).resource
    pinned.write_text(json.dumps(resource.manifest()))
    process = subprocess.run(
        [sys.executable, "-m", "persona_jobs", "slice", "--manifest", str(pinned),
         "--store", first_run["store"]],
        env={**environment(folder), "PERSONA_OWNER": "uid-1", "PERSONA_SCRATCH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert read_references(store)["uid-1"] == by_the_run


def test_the_checkpoint_loads_in_plain_transformers(first_run, folder):
    path = next(s["path"] for s in first_run["stages"] if s["stage"] == "slice")
    code = (
        "import sys\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "print(model.config.intermediate_size)\n"
        "turns = [{'role': 'user', 'content': 'Hello'}]\n"
        "print(tokenizer.apply_chat_template(turns, tokenize=False))\n"
        "print([name for name in sys.modules if name.startswith('persona_jobs')])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, path.removeprefix("file://")],
        capture_output=True,
        text=True,
        check=True,
        env=environment(folder),
    )
    width, *prompt, modules = result.stdout.splitlines()
    assert width == "48"
    assert PERSONA in "\n".join(prompt)
    assert modules == "[]"


def test_no_machine_path_and_no_secret_is_in_the_artifacts(first_run, folder):
    for stage in first_run["stages"]:
        for file in Path(stage["path"].removeprefix("file://")).rglob("*"):
            if file.is_file():
                content = file.read_bytes()
                assert b"sk-secret" not in content, file
                if stage["stage"] == "slice" and file.name != "manifest.json":
                    assert str(folder).encode() not in content, file


def test_a_second_run_reuses_everything(first_run, folder):
    result = persona(folder, "run", folder / "persona.yaml", "-o", "json")
    document = json.loads(result.stdout)
    assert outcomes(document) == dict.fromkeys(DEFAULT_STAGES, "reused")
    assert [s["key"] for s in document["stages"]] == [s["key"] for s in first_run["stages"]]


def test_the_table_shows_variants_answers_and_paths(first_run, folder):
    result = persona(folder, "run", folder / "persona.yaml")
    assert result.returncode == 0
    for word in ("dense", "masked", "sliced", "recovered", "baseline", "report.html", "Checkpoint"):
        assert word in result.stdout
    for question in ("Who are you, and how", "I had a bad day."):
        assert question[:12] in result.stdout
    assert result.stdout.splitlines()[-1].startswith("Smaller: ")
    report = result.stdout.split("Report")[1].split()[0]
    assert "Captain Flint" in Path(report).read_text("utf-8")


def test_another_sparsity_reruns_mask_and_later_only(first_run, folder, teacher):
    asked = len(teacher.requests)
    other = manifest(folder, teacher.url, pruning={"sparsityPercent": 50})
    file = folder / "half.yaml"
    file.write_text(json.dumps(other), encoding="utf-8")
    document = json.loads(persona(folder, "run", file, "-o", "json").stdout)
    assert outcomes(document) == {
        **dict.fromkeys(DEFAULT_STAGES[:3], "reused"),
        **dict.fromkeys(DEFAULT_STAGES[3:], "made"),
    }
    assert len(teacher.requests) == asked, "the teacher was not asked again"
    record = json.loads((folder / ".persona/store/personas/default/captain.json").read_text())
    assert [revision["sparsity_percent"] for revision in record["revisions"]] == [50, 25]


@pytest.mark.parametrize("method", ["ActivationNorm", "OptimalBrainSurgeon"])
def test_a_method_without_learning_keeps_its_first_mask(first_run, folder, teacher, method):
    pruning = {"method": method, "straightThrough": None}  # null: not set
    other = manifest(folder, teacher.url, pruning=pruning)
    file = folder / f"{method}.yaml"
    file.write_text(json.dumps(other), encoding="utf-8")
    document = json.loads(persona(folder, "run", file, "-o", "json").stdout)
    assert outcomes(document)["mask"] == "made"
    (mask,) = [stage for stage in document["stages"] if stage["stage"] == "mask"]
    assert (mask["metrics"]["steps"], mask["metrics"]["channelsChanged"]) == (0, 0)


def test_learned_factors_reach_the_sliced_model(first_run, folder, teacher):
    learning = {"steps": 4, "initialization": "OptimalBrainSurgeon", "scales": True}
    other = manifest(
        folder, teacher.url, pruning={"method": "StraightThrough", "straightThrough": learning}
    )
    file = folder / "factors.yaml"
    file.write_text(json.dumps(other), encoding="utf-8")
    document = json.loads(persona(folder, "run", file, "-o", "json").stdout)
    # The evaluation compares the sliced checkpoint with the mask and its factors.
    assert outcomes(document)["evaluate"] == "made"
    (made,) = [stage for stage in document["stages"] if stage["stage"] == "mask"]
    mask = folder / ".persona/store/stages/mask" / made["key"] / "mask.safetensors"
    assert mask_file.load(mask).scales is not None


def test_an_edited_instruction_file_is_noticed(first_run, folder):
    keys = persona(folder, "keys", folder / "persona.yaml").stdout
    file = folder / "instructions.jsonl"
    before = file.read_bytes()
    try:
        file.write_bytes(before + b'\n{"instruction": "New?", "output": "Yes."}')
        assert persona(folder, "keys", folder / "persona.yaml").stdout != keys
    finally:
        file.write_bytes(before)
    assert persona(folder, "keys", folder / "persona.yaml").stdout == keys


def test_chat_answers_from_the_checkpoint(first_run, folder):
    result = persona(
        folder, "chat", folder / "persona.yaml", "--max-tokens", "5", input_text="Hello\n\n"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_chat_without_a_checkpoint_says_what_to_run(folder, teacher):
    file = folder / "other.yaml"
    document = manifest(folder, teacher.url, pruning={"sparsityPercent": 75})
    file.write_text(json.dumps(document), encoding="utf-8")
    result = persona(folder, "chat", file)
    assert result.returncode == 2
    assert "persona run" in result.stderr


def test_a_damaged_artifact_is_named(first_run, folder):
    path = Path(next(s["path"] for s in first_run["stages"] if s["stage"] == "mask")[7:])
    victim = path / "mask.safetensors"
    whole = victim.read_bytes()
    evaluate = Path(next(s["path"] for s in first_run["stages"] if s["stage"] == "slice")[7:])
    manifest_file = evaluate / "manifest.json"
    record = manifest_file.read_bytes()
    try:
        victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        manifest_file.unlink()
        result = persona(folder, "run", folder / "persona.yaml")
        assert result.returncode == 2
        assert "mask.safetensors" in result.stderr
        assert "Traceback" not in result.stderr
    finally:
        victim.write_bytes(whole)
        manifest_file.write_bytes(record)


def test_validate_prints_every_error(folder, teacher):
    document = manifest(folder, teacher.url, pruning={"sparsityPercent": 95, "typo": 1})
    file = folder / "bad.yaml"
    file.write_text(json.dumps(document), encoding="utf-8")
    good = folder / "good.yaml"
    good.write_text(json.dumps(manifest(folder, teacher.url)), encoding="utf-8")
    elsewhere = folder / "elsewhere.yaml"
    remote = manifest(folder, teacher.url, baseModel={"uri": "hf://org/model"})
    elsewhere.write_text(json.dumps(remote), encoding="utf-8")
    result = persona(folder, "validate", file, good, elsewhere)
    assert result.returncode == 2
    assert "spec.pruning.sparsityPercent" in result.stderr
    assert "spec.pruning.typo" in result.stderr
    assert result.stdout.splitlines() == [
        f"{good}: PersonaModel captain is valid",
        f"{elsewhere}: PersonaModel captain is valid; its base model hf://org/model is not "
        "checked: it is not on this machine",
    ]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"baseModel": {"uri": "file:///absent/model"}}, "/absent/model"),
        ({"instructions": {"uri": "file:///absent.jsonl"}}, "absent.jsonl"),
        ({"scoring": {"firstBlock": 7}}, "spec.scoring"),
        ({"referencePersonas": {"count": 50}}, "10 different reference personas instead of 50"),
    ],
)
def test_wrong_sources_end_in_one_line_and_exit_code_2(folder, teacher, sections, message):
    file = folder / "wrong.yaml"
    file.write_text(json.dumps(manifest(folder, teacher.url, **sections)), encoding="utf-8")
    result = persona(folder, "run", file)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
