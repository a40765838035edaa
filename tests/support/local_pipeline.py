"""A persona on a tiny random model, with a real HTTP endpoint as teacher."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from support.tiny import tiny_checkpoint

PERSONA = "You are Captain Flint, an old sailor who says 'arr'."


def write_instructions(path: Path, count: int = 60) -> None:
    lines = [
        {"instruction": f"What about {word} {n}?", "input": "", "output": f"{word} {n} is common."}
        for n, word in enumerate(["rum", "tea", "rain", "wood", "salt"] * (count // 5))
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")


def manifest(directory: Path, teacher_url: str, **sections: Any) -> dict[str, Any]:
    """A PersonaModel whose files all lie in `directory`."""
    if not (directory / "base").exists():
        tiny_checkpoint(directory / "base", intermediate_size=64)
        write_instructions(directory / "instructions.jsonl")
    spec: dict[str, Any] = {
        "persona": {"text": PERSONA},
        "baseModel": {"uri": f"file://{directory}/base"},
        "instructions": {"uri": f"file://{directory}/instructions.jsonl"},
        "referencePersonas": {"count": 2},
        "teacher": {"openAI": {"baseURL": teacher_url, "model": "m"}, "minYieldPercent": 20},
        "pruning": {
            "method": "StraightThrough",
            "straightThrough": {"steps": 4, "batchSize": 8, "evaluateEvery": 2},
        },
        "recovery": {
            "reconstruct": {"steps": 4, "batchTokens": 64},
            "fineTune": {"enabled": True, "steps": 2, "batchSize": 4, "evaluateEvery": 1},
        },
        "evaluation": {"maxQueries": 3, "maxAnswerTokens": 8, "genericSamples": 4},
        "compute": {"device": "CPU", "dtype": "Float32"},
    }
    for name, value in sections.items():
        spec[name] = {**spec.get(name, {}), **value} if isinstance(value, dict) else value
    return {
        "apiVersion": "persona-pruner.io/v1alpha1",
        "kind": "PersonaModel",
        "metadata": {"name": "captain"},
        "spec": spec,
    }


def write_manifest(directory: Path, document: dict[str, Any]) -> Path:
    path = directory / "persona.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "from persona_jobs.cli import main; main()", *map(str, arguments)]


def environment(directory: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PERSONA_CACHE": str(directory / "cache"),
        "OPENAI_API_KEY": "sk-secret-0123456789",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def persona(
    directory: Path, *arguments: str | Path, input_text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        command(*arguments),
        input=input_text,
        capture_output=True,
        text=True,
        timeout=240,
        cwd=directory,
        env=environment(directory),
        check=False,
    )
