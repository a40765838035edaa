"""Stopping a run at any moment: Ctrl-C, SIGTERM and SIGKILL lose nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.local_pipeline import command, environment, manifest, persona, write_manifest

LEARNING = {"steps": 40, "batchSize": 16, "evaluateEvery": 2, "patience": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, teacher):
    folder = tmp_path_factory.mktemp("interrupted")
    document = manifest(
        folder,
        teacher.url,
        pruning={"method": "StraightThrough", "straightThrough": LEARNING},
        evaluation={"baseline": False, "maxQueries": 1},
    )
    write_manifest(folder, document)
    return folder


def start(folder, store):
    return subprocess.Popen(
        command(
            "run", folder / "persona.yaml", "--store", f"file://{folder}/{store}", "-o", "json"
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(folder),
    )


def wait_for(process, text, seconds=120):
    """Read standard error until `text` is in it."""
    seen = ""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        line = process.stderr.readline()
        seen += line
        if text in line:
            return seen
        if not line and process.poll() is not None:
            break
    raise AssertionError(f"{text!r} never came:\n{seen}")


def files(folder, store):
    root = Path(folder) / store / "stages"
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.name in ("mask.safetensors", "scores.safetensors", "recovered.safetensors")
    }


@pytest.fixture(scope="module")
def whole(folder):
    result = persona(
        folder, "run", folder / "persona.yaml", "--store", f"file://{folder}/whole", "-o", "json"
    )
    assert result.returncode == 0, result.stderr
    return files(folder, "whole")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_mask_stage_resumes_to_the_same_result(folder, whole, stop):
    store = f"stopped-{stop.name}"
    process = start(folder, store)
    wait_for(process, "mask: mask steps")
    process.send_signal(stop)
    stdout, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    document = json.loads(stdout)
    assert [stage["stage"] for stage in document["stages"]] == ["reference", "score", "rewrite"]
    assert document["error"]["class"] == "StageInterruptedError"
    states = list((folder / store).glob("stages/mask/*/resume/*/state.json"))
    step = max(json.loads(path.read_text())["step"] for path in states)
    assert 0 <= step < LEARNING["steps"], "a step that was interrupted is taken again"
    result = persona(
        folder, "run", folder / "persona.yaml", "--store", f"file://{folder}/{store}", "-o", "json"
    )
    assert result.returncode == 0, result.stderr
    assert f"resuming after step {step}" in result.stderr
    assert [s["outcome"] for s in json.loads(result.stdout)["stages"]][:3] == ["reused"] * 3
    assert files(folder, store) == whole
    left = {path.parts[-4] for path in (folder / store).glob("stages/*/*/resume/*")}
    assert left == {"answers", "measurements"}, "resume states are removed, answers are kept"


@pytest.mark.parametrize("moment", ["score: queries", "recover: refitted"])
def test_a_killed_run_loses_no_finished_stage(folder, whole, moment):
    store = f"killed-{moment.split(':')[0]}"
    process = start(folder, store)
    wait_for(process, moment)
    process.kill()
    process.communicate(timeout=60)
    result = persona(
        folder, "run", folder / "persona.yaml", "--store", f"file://{folder}/{store}", "-o", "json"
    )
    assert result.returncode == 0, result.stderr
    outcomes = [stage["outcome"] for stage in json.loads(result.stdout)["stages"]]
    assert outcomes[0] == "reused"
    assert files(folder, store) == whole


def stage_process(folder, stage, store, **variables):
    return subprocess.run(
        [sys.executable, "-m", "persona_jobs", stage],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **environment(folder),
            "PERSONA_MANIFEST": str(folder / "persona.yaml"),
            "PERSONA_STORE": f"file://{folder}/{store}",
            "PERSONA_SCRATCH": str(folder),
            "PERSONA_TERMINATION_MESSAGE": str(folder / "message"),
            **variables,
        },
    )


COMPARED = {
    "reference": ("reference.safetensors", "queries.jsonl"),
    "score": ("queries.jsonl", "block_scores.safetensors"),
    "rewrite": ("train.jsonl", "validation.jsonl", "test.jsonl"),
    "mask": ("scores.safetensors", "curve.jsonl"),
    "recover": ("recovered.safetensors",),
    "slice": ("model.safetensors",),
    "evaluate": ("samples.jsonl",),
}


def result(folder, store, stage):
    (key,) = (folder / store / "stages" / stage).iterdir()
    return {name: (key / name).read_bytes() for name in COMPARED[stage]}


def test_every_stage_ends_within_ten_seconds_of_sigterm_and_is_completed_later(folder, whole):
    """The tiny model's short stages may be done before the signal; the others are stopped."""
    variables = {
        **environment(folder),
        "PERSONA_MANIFEST": str(folder / "persona.yaml"),
        "PERSONA_STORE": f"file://{folder}/signals",
        "PERSONA_SCRATCH": str(folder),
    }
    for stage in COMPARED:
        process = subprocess.Popen(
            [sys.executable, "-m", "persona_jobs", stage],
            stderr=subprocess.PIPE,
            text=True,
            env=variables,
        )
        wait_for(process, f"{stage}: ")
        process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        process.communicate(timeout=30)
        assert time.monotonic() - sent < 10, stage
        assert process.returncode in ((143,) if stage in ("mask", "evaluate") else (0, 143)), stage
        done = stage_process(folder, stage, "signals")
        assert done.returncode == 0, done.stderr
        assert result(folder, "signals", stage) == result(folder, "whole", stage), stage


def message(folder):
    return json.loads((folder / "message").read_text())


def test_a_stage_process_tells_its_outcome(folder):
    made = stage_process(folder, "reference", "process")
    assert made.returncode == 0, made.stderr
    assert message(folder)["outcome"] == "Done"
    assert message(folder)["metrics"]["queries"] == 60
    again = stage_process(folder, "reference", "process")
    assert again.returncode == 0
    assert message(folder)["outcome"] == "Reused"


def test_a_stage_without_its_inputs_fails_with_exit_code_2(folder):
    result = stage_process(folder, "mask", "empty")
    assert result.returncode == 2
    assert message(folder)["outcome"] == "Failed"
    assert "rewrite" in message(folder)["failure"]["message"]


def test_a_missing_setting_is_named(folder):
    result = stage_process(folder, "score", "process", PERSONA_MANIFEST="")
    assert result.returncode == 2
    assert "PERSONA_MANIFEST" in message(folder)["failure"]["message"]


def test_an_unwritable_store_may_be_retried(folder):
    (folder / "a-file").write_text("")
    result = stage_process(folder, "reference", "a-file")
    assert result.returncode == 1
    assert "a-file" in message(folder)["failure"]["message"]
    assert os.path.getsize(folder / "message") <= 4096
