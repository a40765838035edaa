"""The quality benchmark at a tiny setting: it measures, resumes and writes its table."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.endpoint import Reply, completion, running_endpoint, user_text
from support.local_pipeline import environment, write_instructions
from support.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[2]
METHODS = ("random", "weight-norm", "activation-norm", "wanda", "taylor", "straight-through-ce")
METHODS += ("straight-through-kl", "straight-through-kl-scales", "optimal-brain-surgeon")


def in_character(_number, body):
    question = user_text(body).split("<question>")[-1].split("</question>")[0].strip()
    return Reply(completion(f"Arr! Ye ask me of {question} The tide of {len(question)} knows."))


@pytest.fixture(scope="module")
def teacher():
    with running_endpoint() as endpoint:
        endpoint.behave = in_character
        yield endpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory, teacher):
    folder = tmp_path_factory.mktemp("quality")
    tiny_checkpoint(folder / "base", intermediate_size=64)
    write_instructions(folder / "instructions.jsonl")
    learning = {"steps": 2, "batchSize": 4, "evaluateEvery": 1}
    spec = {
        "baseModel": {"uri": f"file://{folder}/base"},
        "instructions": {"uri": f"file://{folder}/instructions.jsonl"},
        "referencePersonas": {"count": 2},
        "teacher": {"openAI": {"baseURL": teacher.url, "model": "m"}, "minYieldPercent": 20},
        "pruning": {"method": "StraightThrough", "straightThrough": learning},
        "recovery": {"fineTune": {"enabled": False}},
        "compute": {"device": "CPU", "dtype": "Float32"},
    }
    settings = {
        "title": "Tiny",
        "personas": 2,
        "sparsityPercents": [50],
        "methods": list(METHODS),
        "pool": True,
        "notes": ["A tiny model."],
        "rolePlayQuestions": 3,
        "answerTokens": 8,
        "spec": spec,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    data = folder / "data"
    data.mkdir()
    for number in range(2):
        for source in ("persona_alpaca", "rolebench"):
            for kind in ("general", "specific"):
                document = {
                    "persona_description": f"Sailor number {number}.",
                    "system_prompt": f"Play {source} number {number}.",
                    "questions": [f"What of {source} {kind} {n}?" for n in range(2)],
                }
                file = data / f"{source}_{kind}_user_{number}.json"
                file.write_text(json.dumps(document), encoding="utf-8")
    return folder


def command(folder, work, *options):
    return [
        sys.executable,
        "-m",
        "benchmarks.quality",
        str(folder / "tiny.yaml"),
        "--work",
        str(folder / work),
        "--data",
        str(folder / "data"),
        "--docs",
        str(folder / f"{work}-docs"),
        *options,
    ]


def start(folder, work, *options):
    return subprocess.Popen(
        command(folder, work, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment(folder),
    )


def results(folder, work):
    """The measured losses by persona, method and recovery, without times."""
    return {
        f"{cell['persona']} {cell['method']} {cell['recovery']}": cell["sets"]
        for cell in cells(folder, work, "persona-*")
    }


def cells(folder, work, where):
    return [
        json.loads(file.read_text())
        for file in (folder / work / "results").rglob(f"{where}/*.json")
    ]


@pytest.fixture(scope="module")
def whole(folder):
    process = start(folder, "whole")
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    return output


def test_every_method_is_measured_on_every_persona_with_the_same_recoveries(folder, whole):
    found = results(folder, "whole")
    assert len(found) == 2 * len(METHODS) * 2
    for sets in found.values():
        assert set(sets) == {"persona", "rolePlay", "generic"}
        for losses in sets.values():
            assert losses["kl"]
            assert all(value > 0 for value in losses["kl"])
            assert len(losses["crossEntropy"]) == len(losses["kl"])


def test_the_table_holds_the_means_and_the_paired_differences(folder, whole):
    table = (folder / "whole-docs" / "quality-tiny.md").read_text()
    assert len(re.findall(r"^\| Taylor \|", table, flags=re.MULTILINE)) == 2
    assert "A tiny model." in table
    without_recovery = table.split("## ")[1]
    sets = results(folder, "whole")

    def mean(method):
        values = [
            value
            for number in range(2)
            for value in sets[f"persona-{number} {method} none"]["persona"]["kl"]
        ]
        return sum(values) / len(values)

    row = next(line for line in without_recovery.splitlines() if line.startswith("| Wanda"))
    figure, difference = re.match(r"\| Wanda \| ([\d.]+) \(([+-][\d.]+)[,)]", row).groups()
    assert float(figure) == pytest.approx(mean("wanda"), abs=6e-4)
    expected = mean("wanda") - mean("activation-norm")
    assert float(difference) == pytest.approx(expected, abs=6e-4)
    baseline = next(line for line in table.splitlines() if line.startswith("| activation norm"))
    assert "(" not in baseline
    assert (folder / "whole-docs" / "quality-tiny.svg").read_text().count("<circle") == 2 + 2 * len(
        METHODS
    )


def test_slices_for_several_personas_are_measured_on_each_of_them(folder, whole):
    found = {(cell["persona"], cell["method"]): cell for cell in cells(folder, "whole", "pool-*")}
    personas = ("persona-0", "persona-1")
    assert set(found) == {(p, s) for p in personas for s in ("all", "others", "others-equal-data")}
    own = {
        cell["persona"]: cell
        for cell in cells(folder, "whole", "persona-*")
        if (cell["method"], cell["recovery"]) == ("optimal-brain-surgeon", "full")
    }
    for persona, other in (personas, personas[::-1]):
        together = found[persona, "all"]
        alone, less = found[persona, "others"], found[persona, "others-equal-data"]
        assert together["trainAnswers"] > alone["trainAnswers"]
        # With two personas there is one other, and it has about as much data.
        assert less["trainAnswers"] == min(alone["trainAnswers"], own[persona]["trainAnswers"])
        assert alone["trainAnswers"] <= own[other]["trainAnswers"]
        kl = [cell["sets"]["persona"]["kl"] for cell in (own[persona], together, alone)]
        assert len({len(row) for row in kl}) == 1
        assert len({tuple(row) for row in kl}) == 3
    page = (folder / "whole-docs" / "quality-tiny.md").read_text()
    pool = page.split("## A slice that has never seen the persona")[1]
    row = next(line for line in pool.splitlines() if line.startswith("| a slice from the others"))
    values = [v for p in personas for v in found[p, "others"]["sets"]["persona"]["kl"]]
    mean = sum(values) / len(values)
    assert float(row.split(" | ")[1].split()[0]) == pytest.approx(mean, abs=6e-4)


def test_the_results_file_holds_what_the_page_is_made_from(folder, whole):
    document = json.loads((folder / "whole-docs" / "quality-tiny.json").read_text())
    assert len(document["methods"]) == 2 * len(METHODS) * 2
    assert len(document["pool"]) == 6
    recorded = {
        f"{cell['persona']} {cell['method']} {cell['recovery']}": cell["sets"]
        for cell in document["methods"]
    }
    assert recorded == results(folder, "whole")


def test_an_interrupted_run_continues_to_the_same_results(folder, whole):
    process = start(folder, "stopped")
    for line in process.stdout:
        if line.startswith("persona-0 wanda 50 % none"):
            break
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    before = {
        file: os.stat(file).st_mtime_ns for file in (folder / "stopped").rglob("results/**/*.json")
    }
    assert 0 < len(before) < 2 * len(METHODS) * 2
    process = start(folder, "stopped", "--report")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    page = (folder / "stopped-docs" / "quality-tiny.md").read_text()
    assert len(re.findall(r"^\| random \|", page, flags=re.MULTILINE)) == 2
    assert "Wanda" in page
    assert "Taylor" not in page
    process = start(folder, "stopped")
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    assert {file: os.stat(file).st_mtime_ns for file in before} == before, (
        "nothing is measured twice"
    )
    assert results(folder, "stopped") == results(folder, "whole")
