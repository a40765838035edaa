"""Stages run in this process on a persona of a tiny model, and progress that stops them."""

from pathlib import Path
from typing import Any

from persona_jobs.api import PersonaModelSpec, parse_resource
from persona_jobs.pipeline.context import SilentProgress, StopFlag
from persona_jobs.pipeline.graph import plan
from persona_jobs.pipeline.runner import StageReport, run_stage
from persona_jobs.store import StageArtifacts, open_store
from support.local_pipeline import manifest


def spec_of(folder: Path, teacher_url: str, **sections: Any) -> PersonaModelSpec:
    """The spec of a persona whose files lie in `folder`."""
    return parse_resource(manifest(folder, teacher_url, **sections)).spec


class StopAfter(SilentProgress):
    """Progress that requests a stop after some units of one part, and remembers all notes."""

    def __init__(self, what: str = "", units: int = 0) -> None:
        self.stop = StopFlag()
        self.notes: list[str] = []
        self.parts: list[str] = []
        self._what, self._left = what, units

    def begin(self, what: str, total: int) -> None:
        self.parts.append(what)

    def advance(self, count: int = 1) -> None:
        if self.parts[-1] == self._what:
            self._left -= count
            if self._left <= 0:
                self.stop.request()

    def note(self, message: str) -> None:
        self.notes.append(message)


class Stages:
    """Runs the stages of a spec, one after the other, in one store."""

    def __init__(self, spec: PersonaModelSpec, folder: Path, store: str) -> None:
        self.spec, self.folder = spec, folder
        self.artifacts = StageArtifacts(open_store(f"file://{folder / store}"))
        self.planned = {stage.name: stage for stage in plan(spec)}

    def run(self, name: str, progress: StopAfter | None = None) -> StageReport:
        progress = progress or StopAfter()
        return run_stage(
            self.spec,
            self.planned[name],
            self.artifacts,
            cache=self.folder / "cache",
            progress=progress,
            stop=progress.stop,
        )

    def run_before(self, name: str) -> None:
        for stage in self.planned:
            if stage == name:
                return
            self.run(stage)

    def files(self, name: str) -> dict[str, bytes]:
        """The files of a finished stage, without its record."""
        folder = self.artifacts.local_dir(name, self.planned[name].key)
        return {
            path.name: path.read_bytes()
            for path in sorted(folder.iterdir())
            if path.is_file() and path.name != "manifest.json"
        }
