"""`persona plan`: what runs, what is reused, and what it takes, before anything is loaded."""

import json
import subprocess
import sys

import pytest

from support.local_pipeline import environment, manifest, persona, write_manifest
from support.stage_names import DEFAULT_STAGES


@pytest.fixture(scope="module")
def folder(tmp_path_factory, teacher):
    folder = tmp_path_factory.mktemp("plan")
    write_manifest(folder, manifest(folder, teacher.url))
    return folder


def planned(folder, *options):
    result = persona(folder, "plan", folder / "persona.yaml", "-o", "json", *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def states(document):
    return {stage["stage"]: stage["state"] for stage in document["stages"]}


def test_what_is_in_the_store_is_reused_and_the_rest_is_summed_up(folder):
    before = planned(folder)
    assert states(before) == dict.fromkeys(DEFAULT_STAGES, "runs")
    assert before["assumed"]["instructions"] == "60 instructions"
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from persona_jobs.cli.run import open_pipeline, _run\n"
        "from persona_jobs.pipeline.context import SilentProgress\n"
        "pipeline = open_pipeline(Path(sys.argv[1]), None)\n"
        "for stage in pipeline.stages[:2]: _run(pipeline, stage, SilentProgress())\n"
    )
    command = [sys.executable, "-c", code, str(folder / "persona.yaml")]
    subprocess.run(command, check=True, env=environment(folder), cwd=folder, timeout=120)
    after = planned(folder)
    assert states(after) == {
        **dict.fromkeys(DEFAULT_STAGES, "runs"),
        "reference": "reused",
        "score": "reused",
    }
    ahead = [stage for stage in after["stages"] if stage["state"] != "reused"]
    for name in ("seconds", "storeBytes", "endpointTokens"):
        assert after["total"][name] == pytest.approx(sum(s[name] for s in ahead), abs=5)
    for name in ("memoryBytes", "scratchBytes"):
        assert after["total"][name] == max(s[name] for s in ahead)


def test_the_table_names_every_stage_and_what_was_assumed(folder):
    result = persona(
        folder,
        "plan",
        folder / "persona.yaml",
        "--store",
        f"file://{folder}/empty",
        "--teraflops",
        "2",
    )
    assert result.returncode == 0, result.stderr
    for stage in DEFAULT_STAGES:
        assert f"\n {stage} " in result.stdout
    assert "7 of 7 stages are ahead" in result.stdout
    assert "60 instructions at 2 TFLOP/s" in result.stdout
    assert not (folder / "empty").exists(), "a plan writes nothing"


def test_a_faster_machine_takes_less_time(folder):
    slow, fast = (planned(folder, "--teraflops", t)["total"]["seconds"] for t in ("0.001", "100"))
    assert slow > fast


def test_torch_is_not_loaded(folder):
    code = (
        "import sys\nfrom pathlib import Path\nfrom persona_jobs.cli.plan import print_plan\n"
        "print_plan(Path(sys.argv[1]), None, teraflops=None, as_json=True)\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(folder / "persona.yaml")]
    subprocess.run(command, check=True, env=environment(folder), cwd=folder, timeout=120)


def test_a_model_that_cannot_be_pruned_is_refused(folder):
    config = json.loads((folder / "base" / "config.json").read_text())
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    file = folder / "other.json"
    document = manifest(
        folder, "http://127.0.0.1:9/v1", baseModel={"uri": f"file://{folder}/other"}
    )
    file.write_text(json.dumps(document))
    result = persona(folder, "plan", file)
    assert result.returncode == 2
    assert "mamba" in result.stderr
    assert "Traceback" not in result.stderr
