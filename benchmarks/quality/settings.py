"""What is measured, from a YAML file."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from persona_jobs.api import PersonaModel, parse_resource
from persona_jobs.cli.local import resolved

from .methods import METHODS

Recovery = Literal["none", "full"]
BASELINE = "activation-norm"


class Settings(BaseModel):
    """The settings file.

    Attributes:
        title: heading of the table.
        personas: how many personas are measured.
        sparsity_percents: shares of the channels that are removed.
        methods: names of `methods.METHODS`; the baseline is always measured.
        pool: whether slices for several personas are measured too (see `pools`).
        notes: paragraphs for the page, such as what was left out and why.
        role_play_questions: questions per persona that the dense model answers in another role.
        answer_tokens: longest of these answers.
        spec: fields of a PersonaModel's spec for all personas; `recovery` is the full recovery.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)

    title: str
    personas: Annotated[int, Field(ge=1)]
    sparsity_percents: Annotated[list[int], Field(min_length=1)]
    methods: list[str] = list(METHODS)
    pool: bool = False
    notes: list[str] = []
    role_play_questions: Annotated[int, Field(ge=1)] = 40
    answer_tokens: Annotated[int, Field(ge=1)] = 64
    spec: dict[str, Any]

    def all_methods(self) -> list[str]:
        """Return the methods with the baseline first."""
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise SystemExit(f"Unknown methods: {', '.join(unknown)}. Known: {', '.join(METHODS)}")
        return list(dict.fromkeys([BASELINE, *self.methods]))

    def resource(self, name: str, text: str, question_files: list[Path]) -> PersonaModel:
        """Return the resolved PersonaModel of one persona."""
        evaluation = dict(self.spec.get("evaluation", {}))
        if question_files:
            evaluation["questionFiles"] = [{"uri": file.as_uri()} for file in question_files]
        spec = {**self.spec, "persona": {"text": text}, "evaluation": evaluation}
        document = {
            "apiVersion": "persona-pruner.io/v1alpha1",
            "kind": "PersonaModel",
            "metadata": {"name": name},
            "spec": spec,
        }
        return resolved(parse_resource(document))


def load(file: Path) -> Settings:
    return Settings.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
