"""Measure, and write the table and the plot of all that is measured so far."""

import argparse
import hashlib
import json
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from persona_jobs.api import PersonaModelSpec
from persona_jobs.cli.local import default_cache
from persona_jobs.models.compute import resolve
from persona_jobs.models.loading import load as load_model
from persona_jobs.sources import base_model
from persona_jobs.stages.common import hub_revision

from . import data, pools, report, settings
from .cells import RECOVERIES, Cell, Place, make


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("settings", type=Path, help="YAML file: what is measured")
    parser.add_argument("--work", type=Path, required=True, help="folder for all intermediate data")
    parser.add_argument("--data", type=Path, help="folder of evaluation files, else built-in texts")
    parser.add_argument("--docs", type=Path, help="folder for the page, the plot and the results")
    parser.add_argument(
        "--report", action="store_true", help="write the page of what is measured; measure nothing"
    )
    options = parser.parse_args()
    chosen = settings.load(options.settings)
    personas = (
        data.from_folder(options.data, chosen.personas)
        if options.data
        else data.built_in(chosen.personas)
    )
    run = Run(chosen, personas, options.work, measuring=not options.report)
    folder = options.docs or options.work
    cells: list[Cell] = []
    pool: list[Cell] = []

    def publish() -> str:
        name = f"quality-{options.settings.stem}"
        page = report.markdown(chosen, cells, pool, model_name(chosen), f"{name}.svg")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(page, encoding="utf-8")
        (folder / f"{name}.svg").write_text(report.plot(chosen, cells), encoding="utf-8")
        (folder / f"{name}.json").write_text(report.results(cells, pool), encoding="utf-8")
        return page

    for persona in personas:
        cells += run.measure(persona)
        publish()
    if chosen.pool:
        for one in pools.slices([persona.name for persona in personas]):
            pool += run.measure_pool(one)
            publish()
    print(publish())


def model_name(chosen: settings.Settings) -> str:
    return str(chosen.spec["baseModel"]["uri"]).rsplit("/", 1)[-1]


class Run:
    """What is measured, with the dense model and the personas' texts loaded when first needed."""

    def __init__(
        self,
        chosen: settings.Settings,
        personas: list[data.Persona],
        work: Path,
        *,
        measuring: bool,
    ) -> None:
        self._chosen, self._personas, self._work = chosen, personas, work
        self._measuring = measuring
        self._results = work / "results" / model_name(chosen)

    def measure(self, persona: data.Persona) -> list[Cell]:
        """Make what is missing of a persona's cells and return all of them."""
        chosen = self._chosen
        wanted = [
            (m, percent) for percent in chosen.sparsity_percents for m in chosen.all_methods()
        ]
        with tempfile.TemporaryDirectory() as scratch:
            place = Place(persona.name, self._folder(persona), Path(scratch))
            files = [
                place.cell(method, percent, recovery)
                for method, percent in wanted
                for recovery in RECOVERIES
            ]
            if self._measuring and not all(file.exists() for file in files):
                loaded = data.load(*self._dense, self._texts(persona))
                for method, percent in wanted:
                    make(place, self._dense[0], loaded, method, percent)
            return [read(file) for file in files if file.exists()]

    def measure_pool(self, one: pools.Slice) -> list[Cell]:
        """Make a slice for several personas if it is missing, and return its cells."""
        digests = "".join(digest(self._chosen, persona) for persona in self._personas)
        folder = self._results / f"pool-{hashlib.sha256(digests.encode()).hexdigest()[:8]}"
        files = [pools.cell_file(folder, one.source, name) for name in one.measured]
        if self._measuring and not all(file.exists() for file in files):
            texts = {persona.name: self._texts(persona) for persona in self._personas}
            percent = self._chosen.sparsity_percents[0]
            with tempfile.TemporaryDirectory() as scratch:
                pools.make(folder, one, *self._dense, texts, percent, Path(scratch))
        return [read(file) for file in files if file.exists()]

    @cached_property
    def _dense(self) -> tuple[Any, Any]:
        persona = self._personas[0]
        spec = self._spec(persona)
        directory = base_model.resolve(
            spec.base_model.uri,
            hub_revision(spec.base_model.uri, spec.base_model.revision),
            cache_dir=default_cache(),
        )
        return load_model(directory, resolve(spec.compute.device, spec.compute.dtype))

    def _spec(self, persona: data.Persona) -> PersonaModelSpec:
        return self._chosen.resource(persona.name, persona.text, persona.question_files).spec

    def _folder(self, persona: data.Persona) -> Path:
        return self._results / f"{persona.name}-{digest(self._chosen, persona)}"

    def _texts(self, persona: data.Persona) -> data.Texts:
        spec = self._spec(persona)
        folders = data.run_stages(spec, self._work)
        role_play = self._folder(persona) / "role-play.jsonl"
        return data.read(self._chosen, persona, spec, folders, *self._dense, role_play)


def read(file: Path) -> Cell:
    return Cell.model_validate_json(file.read_text(encoding="utf-8"))


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
