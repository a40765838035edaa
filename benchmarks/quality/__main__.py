"""Measure, and write the table and the plot of all that is measured so far."""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

from persona_jobs.cli.local import default_cache
from persona_jobs.models.compute import resolve
from persona_jobs.models.loading import load as load_model
from persona_jobs.sources import base_model
from persona_jobs.stages.common import hub_revision

from . import data, report, settings
from .cells import Cell, Place, make


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("settings", type=Path, help="YAML file: what is measured")
    parser.add_argument("--work", type=Path, required=True, help="folder for all intermediate data")
    parser.add_argument("--data", type=Path, help="folder of evaluation files, else built-in texts")
    parser.add_argument("--docs", type=Path, help="folder for the table and the plot")
    options = parser.parse_args()
    chosen = settings.load(options.settings)
    personas = (
        data.from_folder(options.data, chosen.personas)
        if options.data
        else data.built_in(chosen.personas)
    )
    cells: list[Cell] = []
    for persona in personas:
        cells += measure(chosen, persona, options.work)
        documents = {
            f"{options.settings.stem}.md": report.markdown(chosen, cells, model_name(chosen)),
            f"{options.settings.stem}.svg": report.plot(chosen, cells),
        }
        folder = options.docs or options.work
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in documents.items():
            (folder / name).write_text(text, encoding="utf-8")
    print(report.markdown(chosen, cells, model_name(chosen)))


def model_name(chosen: settings.Settings) -> str:
    return str(chosen.spec["baseModel"]["uri"]).rsplit("/", 1)[-1]


def measure(chosen: settings.Settings, persona: data.Persona, work: Path) -> list[Cell]:
    """Make what is missing of a persona's cells and return all of them."""
    spec = chosen.resource(persona.name, persona.text, persona.question_files).spec
    folder = work / "results" / model_name(chosen) / f"{persona.name}-{digest(chosen, persona)}"
    wanted = [
        (method, percent) for percent in chosen.sparsity_percents for method in chosen.all_methods()
    ]
    with tempfile.TemporaryDirectory() as scratch:
        place = Place(persona.name, folder, Path(scratch))
        files = [
            place.cell(method, percent, recovery)
            for method, percent in wanted
            for recovery in ("none", "full")
        ]
        if not all(file.exists() for file in files):
            folders = data.run_stages(spec, work)
            directory = base_model.resolve(
                spec.base_model.uri,
                hub_revision(spec.base_model.uri, spec.base_model.revision),
                cache_dir=default_cache(),
            )
            dense, tokenizer = load_model(
                directory, resolve(spec.compute.device, spec.compute.dtype)
            )
            role_play = folder / "role-play.jsonl"
            loaded = data.load(chosen, persona, spec, folders, dense, tokenizer, role_play)
            for method, percent in wanted:
                make(place, dense, loaded, method, percent)
        return [Cell.model_validate_json(file.read_text(encoding="utf-8")) for file in files]


def digest(chosen: settings.Settings, persona: data.Persona) -> str:
    """Return a hash of all that changes a persona's results, so that other settings start anew."""
    document = {
        "spec": chosen.spec,
        "questions": chosen.role_play_questions,
        "tokens": chosen.answer_tokens,
        "persona": [persona.text, persona.role, persona.role_questions],
    }
    text = json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


if __name__ == "__main__":
    main()
