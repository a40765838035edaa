"""Content keys: what changes them and what doesn't."""

import copy
from importlib.util import find_spec

import pytest
from pydantic import BaseModel

from persona_jobs.api import STAGES, PersonaModelSpec
from persona_jobs.api.stages import UNKEYED_FIELDS, KeyField, Stage
from persona_jobs.errors import InputError
from persona_jobs.pipeline.graph import answers_key, keys, measurements_key, plan, stage_parameters
from support.stage_names import DEFAULT_STAGES

SPEC = {
    "persona": {"text": "You are a captain."},
    "baseModel": {"uri": "hf://org/model", "revision": "abc"},
}


LEARNED = {**SPEC, "pruning": {"method": "StraightThrough"}}


def spec_for(path):
    """The simplest spec in which the field can be set."""
    return LEARNED if path.startswith("pruning.straightThrough") else SPEC


def with_change(path, value):
    document = copy.deepcopy(spec_for(path))
    *parents, last = path.split(".")
    node = document
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return PersonaModelSpec.model_validate(document)


def keys_before(path):
    return keys(PersonaModelSpec.model_validate(spec_for(path)))


def rerun_by(path, value):
    before, after = keys_before(path), keys(with_change(path, value))
    return [stage for stage in DEFAULT_STAGES if before.get(stage) != after.get(stage)]


@pytest.mark.parametrize(
    ("path", "value", "first"),
    [
        ("baseModel.uri", "hf://org/other", "reference"),
        ("baseModel.revision", "def", "reference"),
        ("instructions.maxSamples", 100, "reference"),
        ("referencePersonas.count", 5, "reference"),
        ("compute.dtype", "Float32", "reference"),
        ("persona.text", "You are a monk.", "score"),
        ("scoring.keepPercent", 30, "score"),
        ("persona.examples", [{"turns": [{"query": "q", "answer": "a"}]}], "rewrite"),
        ("teacher.strategy", "Answer", "rewrite"),
        ("dataset.testPercent", 20, "rewrite"),
        ("seed", 1, "rewrite"),
        ("pruning.sparsityPercent", 50, "mask"),
        ("pruning.straightThrough.steps", 10, "mask"),
        ("pruning.straightThrough.scales", True, "mask"),
        ("pruning.straightThrough.initialization", "OptimalBrainSurgeon", "mask"),
        ("pruning.method", "ActivationNorm", "mask"),
        ("pruning.method", "StraightThrough", "mask"),
        ("pruning.optimalBrainSurgeon.ridge", "0.2", "mask"),
        ("recovery.refit.ridge", "0.2", "recover"),
        ("recovery.genericPercent", 40, "mask"),
        ("recovery.reconstruct.steps", 7, "recover"),
        ("recovery.fineTune.enabled", True, "recover"),
        ("evaluation.maxQueries", 7, "evaluate"),
    ],
)
def test_a_change_reruns_its_stage_and_all_that_read_it(path, value, first):
    assert rerun_by(path, value) == list(DEFAULT_STAGES[DEFAULT_STAGES.index(first) :])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("serving.replicas", 5),
        ("evaluation.gate.thresholds", [{"name": "x", "metric": "personaScore", "min": 50}]),
        ("pruning.straightThrough.microBatchSize", 1),
        ("recovery.fineTune.microBatchSize", 1),
        ("execution.profile", "large"),
        ("compute.device", "CPU"),
        ("storage.uri", "s3://bucket/x"),
        ("suspend", True),
        ("artifactPolicy", "Delete"),
        ("baseModel.endpoint", "https://hub.example"),
        ("baseModel.credentialsSecretRef", {"name": "hub"}),
    ],
)
def test_what_decides_no_result_reruns_nothing(path, value):
    assert rerun_by(path, value) == []


def test_how_a_teacher_is_reached_decides_nothing():
    teacher = {"baseURL": "http://teacher/v1", "model": "m"}
    slow = {**teacher, "timeoutSeconds": 5, "apiKeySecretRef": {"name": "a", "key": "b"}}
    assert keys(with_change("teacher.openAI", teacher)) == keys(with_change("teacher.openAI", slow))
    other = {**teacher, "model": "n"}
    assert (
        keys(with_change("teacher.openAI", teacher))["rewrite"]
        != keys(with_change("teacher.openAI", other))["rewrite"]
    )


def teacher_keys(**endpoint):
    given = {"baseURL": "http://one/v1", "model": "default", **endpoint}
    planned = plan(with_change("teacher.openAI", given))
    rewrite = next(stage for stage in planned if stage.name == "rewrite")
    return rewrite.key, answers_key(rewrite)


def test_one_model_name_at_two_urls_is_two_models():
    here, there = teacher_keys(), teacher_keys(baseURL="http://two/v1")
    assert here[0] != there[0]
    assert here[1] != there[1]


def test_a_teachers_identity_takes_the_place_of_its_url_and_name():
    here = teacher_keys(identity="org/large@1")
    assert here == teacher_keys(identity="org/large@1", baseURL="http://two/v1", model="m")
    other = teacher_keys(identity="org/large@2")
    assert here[0] != other[0]
    assert here[1] != other[1]
    assert here[0] != teacher_keys()[0]


def judged_keys(*endpoints, **settings):
    judges = [
        {"name": f"judge-{n}", "openAI": {"baseURL": "http://one/v1", "model": "m", **endpoint}}
        | settings
        for n, endpoint in enumerate(endpoints)
    ]
    spec = with_change("evaluation.judges", judges)
    evaluate = next(stage for stage in plan(spec) if stage.name == "evaluate")
    return evaluate.key, measurements_key(evaluate)


def test_a_judge_reruns_the_evaluation_and_keeps_its_measurements():
    none, one, two = judged_keys(), judged_keys({}), judged_keys({}, {"model": "n"})
    assert none[0] == keys(PersonaModelSpec.model_validate(SPEC))["evaluate"]
    assert len({none[0], one[0], two[0]}) == 3
    assert none[1] == one[1] == two[1]
    assert rerun_by("evaluation.judges", []) == []


def test_a_judge_is_its_model_wherever_that_is_served():
    assert judged_keys({"baseURL": "http://two/v1"})[0] != judged_keys({})[0]
    assert judged_keys({"timeoutSeconds": 5})[0] == judged_keys({})[0]
    moved = {"identity": "org/judge@1", "baseURL": "http://two/v1"}
    assert judged_keys({}, moved)[0] == judged_keys({}, {"identity": "org/judge@1"})[0]
    assert judged_keys({}, moved)[0] != judged_keys({"baseURL": "http://two/v1"}, moved)[0]
    assert judged_keys({}, maxTokens=500)[0] != judged_keys({})[0]


def test_every_stage_comes_after_its_inputs():
    seen = {}
    for stage in plan(PersonaModelSpec.model_validate(SPEC)):
        assert {name: seen[name] for name in stage.inputs} == stage.inputs
        seen[stage.name] = stage.key
        assert len(stage.key) == 64
    assert tuple(seen) == DEFAULT_STAGES


def test_without_recovery_its_stage_is_left_out():
    spec = with_change(
        "recovery", {part: {"enabled": False} for part in ("refit", "reconstruct", "fineTune")}
    )
    names = [stage.name for stage in plan(spec)]
    assert "recover" not in names
    assert all("recover" not in stage.inputs for stage in plan(spec))


def test_without_exports_their_stage_is_left_out():
    spec = PersonaModelSpec.model_validate(SPEC)
    assert "export" not in keys(spec)
    assert "export" not in keys(with_change("exports", []))
    exported = keys(with_change("exports", [{"format": "GGUF"}]))
    assert list(exported) == [*DEFAULT_STAGES, "export"]
    assert {name: exported[name] for name in DEFAULT_STAGES} == keys(spec)


def test_an_exports_key_holds_what_is_written():
    def key(*quantizations, **more):
        exports = [{"format": "GGUF", "quantization": name} for name in quantizations]
        document = {**SPEC, "exports": exports, **more}
        return keys(PersonaModelSpec.model_validate(document))["export"]

    default = keys(with_change("exports", [{"format": "GGUF"}]))["export"]
    assert key("Q8_0") == default
    found = {key("Q8_0"), key("Q4_0"), key("F16", "Q8_0")}
    assert len(found | {key("Q8_0", persona={"text": "You are a monk."})}) == 4
    assert key("Q8_0", evaluation={"maxQueries": 7}) == default


def test_the_same_export_twice_is_refused():
    with pytest.raises(ValueError, match="more than once"):
        with_change("exports", [{"format": "GGUF"}, {"format": "GGUF", "quantization": "Q8_0"}])


def test_settings_of_a_part_that_is_off_decide_nothing():
    off = {"fineTune": {"enabled": False}}
    other = {"fineTune": {"enabled": False, "steps": 7}}
    assert keys(with_change("recovery", off)) == keys(with_change("recovery", other))


def test_the_rank_counts_only_where_adapters_are_trained():
    tuned = {"enabled": True, "weights": "LoRA", "loraRank": 8}
    ranks = [with_change("recovery", {"fineTune": {**tuned, "loraRank": n}}) for n in (8, 4)]
    assert keys(ranks[0])["recover"] != keys(ranks[1])["recover"]
    off = [{"fineTune": {**more, "enabled": False}} for more in ({}, tuned)]
    assert keys(with_change("recovery", off[0])) == keys(with_change("recovery", off[1]))
    default = with_change("recovery", {"fineTune": {"enabled": True, "weights": "LoRA"}})
    written = with_change("recovery", {"fineTune": {**tuned, "loraRank": 16}})
    assert keys(default) == keys(written)


def test_default_settings_written_out_are_the_same_keys():
    written = with_change("pruning", {"method": "OptimalBrainSurgeon", "optimalBrainSurgeon": {}})
    assert keys(written) == keys(PersonaModelSpec.model_validate(SPEC))


@pytest.mark.parametrize(
    "pruning",
    [
        {"method": "OptimalBrainSurgeon"},
        {
            "method": "StraightThrough",
            "straightThrough": {"initialization": "OptimalBrainSurgeon"},
        },
    ],
)
def test_optimal_brain_surgeon_also_reads_general_instructions(pruning):
    spec = with_change("pruning", pruning)
    planned = {stage.name: stage for stage in plan(spec)}
    assert planned["mask"].inputs == {name: planned[name].key for name in ("rewrite", "score")}
    weighted = spec.model_copy(
        update={"recovery": spec.recovery.model_copy(update={"generic_percent": 40})}
    )
    assert keys(weighted)["mask"] != planned["mask"].key


def test_other_methods_read_no_general_instructions():
    for method in ("StraightThrough", "ActivationNorm"):
        planned = {stage.name: stage for stage in plan(with_change("pruning.method", method))}
        assert list(planned["mask"].inputs) == ["rewrite"]
        assert "recovery.genericPercent" not in planned["mask"].parameters


def test_the_surgeons_ridge_decides_its_mask():
    keys_by_ridge = {
        keys(
            with_change(
                "pruning",
                {"method": "OptimalBrainSurgeon", "optimalBrainSurgeon": {"ridge": ridge}},
            )
        )["mask"]
        for ridge in ("0.3", "1")
    }
    assert len(keys_by_ridge) == 2


def test_an_unresolved_persona_has_no_keys():
    spec = PersonaModelSpec.model_validate(
        {**SPEC, "persona": {"configMapRef": {"name": "a", "key": "b"}}}
    )
    with pytest.raises(InputError, match="configMapRef"):
        plan(spec)


CARD = {"uri": "s3://cards/captain.png", "revision": "sha256:" + "1" * 64}


def card_keys(**fields):
    return keys(PersonaModelSpec.model_validate({**SPEC, "persona": {"card": {**CARD, **fields}}}))


@pytest.mark.parametrize(
    ("field", "value"),
    [("revision", "sha256:" + "2" * 64), ("user", "sailor"), ("uri", "s3://b/c")],
)
def test_a_card_is_the_persona_by_its_content_and_by_what_user_becomes(field, value):
    before, after = card_keys(), card_keys(**{field: value})
    changed = [stage for stage in DEFAULT_STAGES if before.get(stage) != after.get(stage)]
    assert changed == list(DEFAULT_STAGES)[1:]
    assert card_keys(endpoint="https://s3.example") == before


def test_the_teachers_answers_belong_to_the_card():
    first, second = (
        plan(
            PersonaModelSpec.model_validate(
                {
                    **SPEC,
                    "persona": {"card": {**CARD, "revision": "sha256:" + digit * 64}},
                    "teacher": {"openAI": {"baseURL": "http://teacher/v1", "model": "m"}},
                }
            )
        )[2]
        for digit in "12"
    )
    assert first.name == "rewrite"
    assert answers_key(first) != answers_key(second)


def spec_fields(model=PersonaModelSpec, prefix=""):
    """Paths of all fields below the spec that hold a value of their own."""
    for name, field in model.model_fields.items():
        path = prefix + (field.alias or name)
        nested = [t for t in type_arguments(field.annotation) if is_model(t)]
        lists = "list" in str(field.annotation)
        if nested:
            yield from spec_fields(nested[0], f"{path}[]." if lists else f"{path}.")
        else:
            yield path


def type_arguments(annotation):
    yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from type_arguments(argument)


def is_model(candidate):
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


def is_unkeyed(path):
    return any(
        path.startswith(entry) if entry.endswith(".") else path == entry for entry in UNKEYED_FIELDS
    )


def test_every_spec_field_enters_a_key_or_is_listed_with_a_reason():
    keyed = {field.path for stage in STAGES for field in stage.fields}
    fields = set(spec_fields())
    assert len(fields) > 80
    assert keyed <= fields
    unlisted = {path for path in fields - keyed if not is_unkeyed(path.replace("[]", ""))}
    assert unlisted == set()
    assert {path for path in keyed if is_unkeyed(path)} == set()
    assert all(
        any(path.replace("[]", "").startswith(entry) for path in fields) for entry in UNKEYED_FIELDS
    )


def test_every_stage_has_a_module():
    for stage in STAGES:
        assert find_spec(f"persona_jobs.stages.{stage.name}") is not None


def test_a_neutral_value_is_left_out_of_the_key():
    stage = Stage("x", 1, (), (KeyField("a.b", neutral=0), KeyField("c")))
    assert stage_parameters(stage, {"a": {"b": 0}, "c": 1}) == {"c": 1}
    assert stage_parameters(stage, {"a": {"b": 2}, "c": 1}) == {"a.b": 2, "c": 1}
