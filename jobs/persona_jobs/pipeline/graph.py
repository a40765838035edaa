"""The stage graph and the content keys. Imports no torch: the operator reads it too.

A stage's key is the SHA-256 of everything its result depends on, so equal keys mean equal results:
finished work is found again, whoever made it, and a change reruns only what it touches.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..api import PersonaModelSpec
from ..api.execution import StageName
from ..errors import InputError

Parameters = dict[str, Any]

STAGES: tuple[StageName, ...] = (
    "reference",
    "score",
    "rewrite",
    "mask",
    "recover",
    "slice",
    "evaluate",
)
# Raised whenever a stage computes something else from the same parameters.
STAGE_VERSIONS: dict[StageName, int] = dict.fromkeys(STAGES, 1)


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a persona's pipeline.

    Attributes:
        name: the stage.
        version: version of the stage's algorithm.
        key: content key, 64 hexadecimal digits.
        inputs: content keys of the stages whose results it reads.
        parameters: the part of the spec it reads.
    """

    name: StageName
    version: int
    key: str
    inputs: dict[StageName, str]
    parameters: Parameters

    @property
    def short_key(self) -> str:
        """First 8 digits of the key, used in object names."""
        return self.key[:8]


def plan(spec: PersonaModelSpec) -> list[PlannedStage]:
    """The stages of `spec` in an order in which each finds its inputs made.

    Raises:
        InputError: the persona's text is not resolved yet.
    """
    if spec.persona.text is None:
        raise InputError(
            "names a ConfigMap, but the pipeline needs its text",
            hint="Resolve it first (the operator and `persona run` do)",
            subject="spec.persona.configMapRef",
        )
    keys: dict[StageName, str] = {}
    planned = []
    for name in STAGES:
        if name == "recover" and not recovers(spec):
            continue
        inputs = {stage: keys[stage] for stage in _inputs(name, spec)}
        parameters = _PARAMETERS[name](spec)
        version = STAGE_VERSIONS[name]
        keys[name] = content_key(name, version, parameters, inputs, _base_model(spec))
        planned.append(PlannedStage(name, version, keys[name], inputs, parameters))
    return planned


def recovers(spec: PersonaModelSpec) -> bool:
    """Whether the recover stage is part of the pipeline."""
    return spec.recovery.refit.enabled or spec.recovery.fine_tune.enabled


def keys(spec: PersonaModelSpec) -> dict[StageName, str]:
    """Content key of each planned stage."""
    return {stage.name: stage.key for stage in plan(spec)}


def content_key(
    name: str, version: int, parameters: Parameters, inputs: dict[Any, str], base_model: Parameters
) -> str:
    """SHA-256 (hex) of the canonical JSON of all that a stage's result depends on."""
    document = {
        "stage": name,
        "version": version,
        "parameters": parameters,
        "inputs": inputs,
        "baseModel": base_model,
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _inputs(name: StageName, spec: PersonaModelSpec) -> tuple[StageName, ...]:
    recovered: tuple[StageName, ...] = ("recover",) if recovers(spec) else ()
    graph: dict[StageName, tuple[StageName, ...]] = {
        "reference": (),
        "score": ("reference",),
        "rewrite": ("score",),
        "mask": ("rewrite",),
        "recover": ("mask", "rewrite", "score"),
        "slice": ("mask", *recovered),
        "evaluate": ("slice", "mask", *recovered, "rewrite", "score", "reference"),
    }
    return graph[name]


def _dump(model: Any, *exclude: str) -> Parameters:
    dumped: Parameters = model.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude=set(exclude)
    )
    return dumped


def _base_model(spec: PersonaModelSpec) -> Parameters:
    return _dump(spec.base_model, "token_secret_ref")


def _reference(spec: PersonaModelSpec) -> Parameters:
    return {
        "instructions": _dump(spec.instructions),
        "referencePersonas": _dump(spec.reference_personas),
        "scoring": _dump(spec.scoring, "keep_percent"),
        "dtype": spec.compute.dtype,
    }


def _score(spec: PersonaModelSpec) -> Parameters:
    return {"persona": spec.persona.text, "keepPercent": spec.scoring.keep_percent}


def _rewrite(spec: PersonaModelSpec) -> Parameters:
    teacher = _dump(spec.teacher)
    if "openAI" in teacher:
        # How the endpoint is reached decides nothing about what it answers.
        teacher["openAI"] = {name: teacher["openAI"][name] for name in ("baseURL", "model")}
    return {
        "persona": spec.persona.text,
        "teacher": teacher,
        "dataset": _dump(spec.dataset),
        "questionFiles": [_dump(file) for file in spec.evaluation.question_files],
        "seed": spec.seed,
    }


def _mask(spec: PersonaModelSpec) -> Parameters:
    pruning = _dump(spec.pruning)
    del pruning["microBatchSize"]
    return {"pruning": pruning, "seed": spec.seed}


def _recover(spec: PersonaModelSpec) -> Parameters:
    recovery = _dump(spec.recovery)
    del recovery["fineTune"]["microBatchSize"]
    if not spec.recovery.fine_tune.enabled:
        recovery["fineTune"] = {"enabled": False}
    if not spec.recovery.refit.enabled:
        recovery["refit"] = {"enabled": False}
    return {"recovery": recovery, "seed": spec.seed}


def _slice(spec: PersonaModelSpec) -> Parameters:
    return {"persona": spec.persona.text}


def _evaluate(spec: PersonaModelSpec) -> Parameters:
    # The gate judges the result; it is no part of it.
    return {
        "persona": spec.persona.text,
        "evaluation": _dump(spec.evaluation, "gate"),
        "seed": spec.seed,
    }


_PARAMETERS: dict[StageName, Callable[[PersonaModelSpec], Parameters]] = {
    "reference": _reference,
    "score": _score,
    "rewrite": _rewrite,
    "mask": _mask,
    "recover": _recover,
    "slice": _slice,
    "evaluate": _evaluate,
}
