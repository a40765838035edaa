"""The plan of a persona's pipeline and the content keys of its stages.

A stage's key is the SHA-256 of everything its result depends on, so equal keys mean equal results:
finished work is found again, whoever made it, and a change reruns only what it touches.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..api import PersonaModelSpec
from ..api.judge import Judge
from ..api.stages import STAGES, JsonScalar, KeyField, Stage
from ..errors import InputError

Parameters = dict[str, Any]
SHORT_KEY_DIGITS = 8
# The store's folder of raw answers, beside those of the stages.
ANSWERS = "answers"
# Measurements of a checkpoint, which all judges share, by the key of its slice stage.
MEASUREMENTS = "measurements"
# Verdicts of all judges on a persona's answers, by the key of its score stage.
VERDICTS = "verdicts"
KEPT_WORK = frozenset({ANSWERS, MEASUREMENTS, VERDICTS})
"""Folders beside those of the stages: work that several results share."""
_JUDGE_FIELDS = "evaluation.judges[]."
_UNSET = object()
# An endpoint answers each request on its own, and the request's digest covers messages and seed.
_ENDPOINT_FIELDS = (
    "persona.text",
    "persona.card.uri",
    "persona.card.revision",
    "persona.card.user",
    "teacher.openAI.baseURL",
    "teacher.openAI.model",
    "teacher.openAI.identity",
    "teacher.temperature",
    "teacher.maxTokens",
)
# What happens to the answers of the base model afterwards; its batches depend on all the rest.
_POSTPROCESSING_FIELDS = ("teacher.overlong",)


def short_key(key: str) -> str:
    """Return the first 8 digits of a content key, as used in object names and revision ids."""
    return key[:SHORT_KEY_DIGITS]


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a persona's pipeline.

    Attributes:
        name: the stage.
        version: version of the stage's algorithm.
        key: content key, 64 hexadecimal digits.
        inputs: content keys of the stages whose results it reads.
        parameters: values of the spec fields that enter the key, by field path.
    """

    name: str
    version: int
    key: str
    inputs: dict[str, str]
    parameters: Parameters

    @property
    def short_key(self) -> str:
        """First 8 digits of the key, used in object names."""
        return short_key(self.key)


def plan(spec: PersonaModelSpec) -> list[PlannedStage]:
    """Return the stages of `spec` in an order in which each finds its inputs made.

    Raises:
        InputError: the persona's text or its recipe is not resolved yet.
    """
    if spec.persona.config_map_ref is not None:
        raise InputError(
            "names a ConfigMap, but the pipeline needs its text",
            hint="Resolve the text before planning, as the operator and `persona run` do",
            subject="spec.persona.configMapRef",
        )
    if spec.recipe_ref is not None:
        raise InputError(
            "names a recipe, but the pipeline needs its fields",
            hint="Merge the recipe before planning, as the operator and `persona run` do",
            subject="spec.recipeRef",
        )
    document = _document(spec)
    planned: dict[str, PlannedStage] = {}
    for stage in STAGES:
        if not _is_planned(stage, document):
            continue
        inputs = {name: planned[name].key for name in _inputs(stage, document) if name in planned}
        parameters = stage_parameters(stage, document)
        key = content_key(stage.name, stage.version, parameters, inputs)
        planned[stage.name] = PlannedStage(stage.name, stage.version, key, inputs, parameters)
    return list(planned.values())


def recovers(spec: PersonaModelSpec) -> bool:
    """Return whether the recover stage is part of the pipeline."""
    return "recover" in planned_names(spec)


def planned_names(spec: PersonaModelSpec) -> list[str]:
    """Return the names of the planned stages in order, without computing any key."""
    document = _document(spec)
    return [stage.name for stage in STAGES if _is_planned(stage, document)]


def keys(spec: PersonaModelSpec) -> dict[str, str]:
    """Return the content key of each planned stage."""
    return {stage.name: stage.key for stage in plan(spec)}


def stage_parameters(stage: Stage, spec: Mapping[str, Any]) -> Parameters:
    """Return the values that enter a stage's key, by field path.

    Fields that are unset, neutral or in a part that is switched off are left out.

    Args:
        stage: the stage.
        spec: the resolved spec as JSON.
    """
    parameters = {}
    by_path = {field.path: field for field in stage.fields}
    for field in stage.fields:
        if not _applies(field, by_path, spec):
            continue
        value = _value(spec, field.path)
        if field.when is not None and "[]" in field.path:
            value = _where(value, _value(spec, field.when[0]), field.when[1])
        if (
            value is not _UNSET
            and value != []
            and (field.neutral is None or value != field.neutral)
        ):
            parameters[field.path] = value
    return parameters


def _where(values: Any, conditions: Any, wanted: JsonScalar) -> Any:
    """Return a list's values with None for the items whose condition is not met."""
    if values is _UNSET:
        return values
    pairs = zip(values, conditions, strict=True)
    return [value if condition == wanted else None for value, condition in pairs]


def _applies(field: KeyField, by_path: Mapping[str, KeyField], spec: Mapping[str, Any]) -> bool:
    """Return whether the fields that this one goes with have the values that it needs."""
    if field.when is None or "[]" in field.path:
        return True
    path, value = field.when
    if not _holds(spec, path, value):
        return False
    return path not in by_path or _applies(by_path[path], by_path, spec)


def written_hash(spec: Mapping[str, Any]) -> str:
    """Return a hash of the fields that enter content keys, as they are written in `spec`.

    Fields that the user left out don't count, so that neither a new default nor a new field of a
    later version changes the hash.

    Args:
        spec: the spec as JSON, recipe and persona text in place, without defaults.
    """
    paths = {field.path for stage in STAGES for field in stage.fields}
    values = {path: _value(spec, path) for path in paths}
    return _hash({path: value for path, value in values.items() if value is not _UNSET})


def content_key(name: str, version: int, parameters: Parameters, inputs: dict[str, str]) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of all that a stage's result depends on."""
    return _hash({"stage": name, "version": version, "parameters": parameters, "inputs": inputs})


def answers_key(rewrite: PlannedStage) -> str:
    """Return the key under which the teacher's raw answers are kept.

    It depends on the persona, the teacher and its sampling, but on nothing that is done with the
    answers afterwards, so that other post-processing asks for none of them again.

    Args:
        rewrite: the planned rewrite stage.
    """
    everything = rewrite.parameters
    if any(path.startswith("teacher.openAI.") for path in everything):
        chosen = {path: everything[path] for path in _ENDPOINT_FIELDS if path in everything}
        return content_key(ANSWERS, 1, chosen, {})
    chosen = {
        path: value for path, value in everything.items() if path not in _POSTPROCESSING_FIELDS
    }
    return content_key(ANSWERS, rewrite.version, chosen, rewrite.inputs)


def measurements_key(evaluate: PlannedStage) -> str:
    """Return what an evaluation's answers and losses depend on, as a hash.

    The judges are no part of it, so that another judge costs no generation.

    Args:
        evaluate: the planned evaluate stage.
    """
    chosen = {
        path: value
        for path, value in evaluate.parameters.items()
        if not path.startswith(_JUDGE_FIELDS)
    }
    return content_key(MEASUREMENTS, evaluate.version, chosen, evaluate.inputs)


def judge_id(judge: Judge) -> str:
    """Return a hash of what a judge's verdict on a request depends on."""
    endpoint = judge.open_ai
    model = endpoint.identity or [endpoint.base_url, endpoint.model]
    return _hash({"model": model, "maxTokens": judge.max_tokens})


def kept_beside(results: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return folder and key of the work that evaluations keep beside results.

    Args:
        results: stage and key of the results of one or more pipelines.
    """
    folders = {"slice": MEASUREMENTS, "score": VERDICTS}
    return {(folders[stage], key) for stage, key in results if stage in folders}


def _hash(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _document(spec: PersonaModelSpec) -> dict[str, Any]:
    document: dict[str, Any] = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return document


def _holds(spec: Mapping[str, Any], path: str, wanted: Any) -> bool:
    value = _value(spec, path)
    return bool((None if value is _UNSET else value) == wanted)


def _is_planned(stage: Stage, spec: Mapping[str, Any]) -> bool:
    values = [_value(spec, path) for path in stage.enabled_by]
    return not values or any(value is not _UNSET and bool(value) for value in values)


def _inputs(stage: Stage, spec: Mapping[str, Any]) -> list[str]:
    """Return the names of the stages that `stage` reads with the settings of `spec`."""
    optional = [
        read.name for read in stage.optional_inputs if _value(spec, read.when[0]) == read.when[1]
    ]
    return list(dict.fromkeys([*stage.inputs, *optional]))


def _value(node: Any, path: str) -> Any:
    """Return the value at `path`; a list of values where the path runs through a list's items."""
    name, _, rest = path.partition(".")
    key, every_item = name.removesuffix("[]"), name.endswith("[]")
    if not isinstance(node, Mapping) or key not in node:
        return _UNSET
    inner = node[key]
    if every_item:
        values = [_value(item, rest) for item in inner]
        return [None if value is _UNSET else value for value in values]
    return _value(inner, rest) if rest else inner
