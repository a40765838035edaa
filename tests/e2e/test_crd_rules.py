"""The CustomResourceDefinition on a real API server: every rule and bound, defaults, subresources.

Each manifest is also given to `parse_resource`: both must agree, because the same file goes to
`kubectl apply` and to `persona run`.
"""

import copy
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from persona_jobs.api import GROUP, PLURAL, VERSION, PersonaModelSpec, parse_resource
from persona_jobs.errors import InputError
from persona_operator.crd import CRD_NAME, custom_resource_definition
from support.cluster import MERGE, Cluster, run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="KUBECONFIG names no cluster"),
]

CRD_FILE = Path(__file__).parents[2] / "crds" / f"{CRD_NAME}.yaml"
ROOT = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC = ROOT["properties"]["spec"]
CAPTAIN = "You are the captain of a whaling ship."

Schema = dict[str, Any]


def manifest(name: str = "ship-captain", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "PersonaModel",
        "metadata": {"name": name},
        "spec": {"persona": {"text": CAPTAIN}, "baseModel": {"uri": "hf://org/model"}} | spec,
    }


CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
APPLY = {"Content-Type": "application/apply-patch+yaml"}


@pytest.fixture(scope="module")
def api() -> Iterator[httpx.Client]:
    """Return an HTTP client for the API server that KUBECONFIG names."""
    with Cluster().http as http:
        yield http


@pytest.fixture(scope="module")
def objects(api: httpx.Client) -> Iterator[str]:
    """Return the URL of the PersonaModels of a new namespace, with the checked-in definition."""
    api.patch(
        f"{CRDS}/{CRD_NAME}",
        params={"fieldManager": "crd-rules-test", "force": "true"},
        headers=APPLY,
        content=CRD_FILE.read_bytes(),
    ).raise_for_status()
    deadline = time.monotonic() + 60
    while True:
        status = api.get(f"{CRDS}/{CRD_NAME}").json().get("status", {})
        conditions = {c["type"]: c["status"] for c in status.get("conditions") or []}
        if conditions.get("Established") == "True":
            break
        assert time.monotonic() < deadline, status
        time.sleep(0.2)
    name = f"crd-rules-{uuid.uuid4().hex[:8]}"
    api.post("/api/v1/namespaces", json={"metadata": {"name": name}}).raise_for_status()
    yield f"/apis/{GROUP}/{VERSION}/namespaces/{name}/{PLURAL}"
    api.delete(f"/api/v1/namespaces/{name}").raise_for_status()


def create(
    api: httpx.Client, objects: str, body: dict[str, Any], *, dry_run: bool = True
) -> httpx.Response:
    params = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
    return api.post(objects, params=params, json=body)


def refused_by_both(api: httpx.Client, objects: str, body: dict[str, Any]) -> str:
    """Return the server's message for a manifest that both it and the models must refuse."""
    answer = create(api, objects, body)
    assert answer.status_code in (400, 422), answer.text
    with pytest.raises(InputError):
        parse_resource(copy.deepcopy(body))
    return str(answer.json()["message"])


def accepted_by_both(api: httpx.Client, objects: str, body: dict[str, Any]) -> None:
    answer = create(api, objects, body)
    assert answer.status_code == 201, answer.text
    parse_resource(copy.deepcopy(body))


def nodes(schema: Schema, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Schema]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, (*path, name))
    if "items" in schema:
        yield from nodes(schema["items"], (*path, "[]"))


VARIABLE = ("serving", "env", "[]")
JUDGE = ("evaluation", "judges", "[]")
THRESHOLD_PARTS = {"name", "metric", "judge", "wholeInterval"}
THRESHOLD = ("evaluation", "gate", "thresholds", "[]")
# Further fields that an optional object needs beside the field under test.
COMPANIONS: dict[tuple[str, ...], dict[str, Any]] = {
    ("teacher", "openAI"): {"baseURL": "https://teacher.example/v1", "model": "m"},
    ("teacher", "openAI", "apiKeySecretRef"): {"name": "s", "key": "k"},
    JUDGE: {
        "name": "a",
        "openAI": {"baseURL": "https://judge.example/v1", "model": "m"},
    },
    (*JUDGE, "openAI"): {"baseURL": "https://judge.example/v1", "model": "m"},
    (*JUDGE, "openAI", "apiKeySecretRef"): {"name": "s", "key": "k"},
    ("baseModel",): {"uri": "hf://org/model"},
    ("baseModel", "credentialsSecretRef"): {"name": "s"},
    ("instructions", "credentialsSecretRef"): {"name": "s"},
    ("referencePersonas", "credentialsSecretRef"): {"name": "s"},
    ("evaluation", "questionFiles", "[]", "credentialsSecretRef"): {"name": "s"},
    ("instructions",): {"uri": "hf://org/data"},
    ("referencePersonas",): {"uri": "s3://bucket/personas.jsonl"},
    ("persona",): {"text": CAPTAIN},
    ("persona", "configMapRef"): {"name": "c", "key": "k"},
    ("persona", "card"): {"uri": "s3://cards/captain.png"},
    ("persona", "card", "credentialsSecretRef"): {"name": "s"},
    ("persona", "examples", "[]", "turns", "[]"): {"query": "Who are you?", "answer": "A captain."},
    ("serving", "autoscaling"): {"maxReplicas": 1000},
    ("serving", "env", "[]"): {"name": "A", "value": "b"},
    ("storage", "credentialsSecretRef"): {"name": "s"},
    ("storage", "caBundleRef"): {"name": "c", "key": "k"},
    ("evaluation", "questionFiles", "[]"): {"uri": "s3://bucket/questions.json"},
    THRESHOLD: {"name": "a", "metric": "personaScore"},
    ("exports", "[]"): {"format": "GGUF"},
    ("execution", "stages", "[]"): {"name": "mask"},
    VARIABLE: {"name": "A", "value": "1"},
    (): manifest()["spec"],
}


def with_field(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return a minimal manifest whose spec has `value` at `path`."""
    for depth in range(len(path) - 1, -1, -1):
        if path[depth] == "[]":
            value = [value]
        else:
            companions = COMPANIONS.get(path[:depth], {})
            if path[depth] in THRESHOLD_PARTS and path[:depth] == THRESHOLD:
                companions = companions | {"min": 1}
            if path[depth] == "judge":
                companions = companions | {"metric": "judgeScore"}
            if path[depth] == "metric" and value == "judgeScore":
                companions = companions | {"judge": "a"}
            if path[depth] == "straightThrough":
                companions = companions | {"method": "StraightThrough"}
            if path[depth] == "loraRank":
                companions = companions | {"weights": "LoRA"}
            value = companions | {path[depth]: value}
    if path[0] == "persona" and {"configMapRef", "card"} & value["persona"].keys():
        value["persona"].pop("text", None)
    return manifest(**value)


def dotted(path: tuple[str, ...]) -> str:
    return ".".join(path).replace(".[]", "[]")


def fields(kind: str) -> list[Any]:
    return [
        pytest.param(path, node, id=dotted(path))
        for path, node in nodes(SPEC)
        if node.get("type") == kind and path
    ]


# --- rules --------------------------------------------------------------------------------------

ANSWER = {"text": CAPTAIN}
NO_LOGIN = " and hold no user name or password"
URI_MESSAGES = {
    "baseModel.uri": "must start with one of hf://, s3://, file://, pkg://",
    "instructions.uri": "must start with one of builtin://, hf://, s3://, file://",
    "referencePersonas.uri": "must start with one of builtin://, hf://, s3://, file://",
    "persona.card.uri": "must start with one of hf://, s3://, file://, pkg://",
    "evaluation.questionFiles[].uri": "must start with one of s3://, file://",
    "storage.uri": "must start with one of s3://, file://",
    **{
        f"{source}.endpoint": f"must start with one of http://, https://{NO_LOGIN}"
        for source in (
            "persona.card",
            "baseModel",
            "instructions",
            "referencePersonas",
            "evaluation.questionFiles[]",
        )
    },
    "storage.endpoint": f"must start with one of http://, https://{NO_LOGIN}",
    "evaluation.judges[].openAI.baseURL": f"must start with one of http://, https://{NO_LOGIN}",
    "teacher.openAI.baseURL": f"must start with one of http://, https://{NO_LOGIN}",
}


# Rule: (field, message) -> manifests that it accepts, manifests that it refuses.
def with_threshold(**bounds: Any) -> dict[str, Any]:
    threshold = {"name": "voice", "metric": "personaScore", **bounds}
    return {"evaluation": {"gate": {"thresholds": [threshold]}}}


def with_learning(**settings: Any) -> dict[str, Any]:
    return {"pruning": {"method": "StraightThrough", "straightThrough": settings}}


def with_surgeon(**settings: Any) -> dict[str, Any]:
    return {"pruning": {"method": "OptimalBrainSurgeon", "optimalBrainSurgeon": settings}}


def with_server(**source: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a source with an endpoint, and with a Secret."""
    return (
        {**source, "endpoint": "https://server.example"},
        {**source, "credentialsSecretRef": {"name": "s"}},
    )


def questions(uri: str) -> list[Any]:
    return [{"evaluation": {"questionFiles": [file]}} for file in with_server(uri=uri)]


SERVER = "endpoint and credentialsSecretRef go with hf:// and s3:// sources"
BUILTIN = "builtin://general"
RULES: dict[tuple[str, str], tuple[list[Any], list[Any]]] = {
    ("exports", "names the same format and quantization more than once"): (
        [{"exports": [{"format": "GGUF", "quantization": "F16"}, {"format": "GGUF"}]}],
        [
            {"exports": [{"format": "GGUF"}] * 2},
            {"exports": [{"format": "GGUF", "quantization": "Q8_0"}, {"format": "GGUF"}]},
        ],
    ),
    **{
        (name, SERVER): (
            [{name: source} for source in with_server(uri=accepted)],
            [{name: source} for source in with_server(uri=refused)],
        )
        for name, accepted, refused in (
            ("baseModel", "hf://org/model", "file:///models/base"),
            ("instructions", "s3://bucket/data.jsonl", BUILTIN),
            ("referencePersonas", "s3://bucket/personas.jsonl", BUILTIN),
        )
    },
    ("persona.card", SERVER): (
        [{"persona": {"card": card}} for card in with_server(uri="s3://cards/captain.png")],
        [{"persona": {"card": card}} for card in with_server(uri="pkg://cards/captain.png")],
    ),
    ("evaluation.questionFiles[]", SERVER): (
        questions("s3://bucket/questions.json"),
        questions("file:///questions.json"),
    ),
    ("recovery.fineTune", "loraRank goes with weights LoRA only"): (
        [
            {"recovery": {"fineTune": {"weights": "LoRA", "loraRank": 8}}},
            {"recovery": {"fineTune": {"weights": "LoRA"}}},
        ],
        [
            {"recovery": {"fineTune": {"weights": "FFN", "loraRank": 8}}},
            {"recovery": {"fineTune": {"loraRank": 8}}},
        ],
    ),
    ("persona", "set exactly one of text, configMapRef and card"): (
        [
            {"persona": ANSWER},
            {"persona": {"configMapRef": {"name": "texts", "key": "captain"}}},
            {"persona": {"card": {"uri": "s3://cards/captain.png"}}},
        ],
        [
            {"persona": {}},
            {"persona": ANSWER | {"card": {"uri": "s3://cards/captain.png"}}},
            {"persona": ANSWER | {"configMapRef": {"name": "texts", "key": "captain"}}},
        ],
    ),
    ("persona.text", "is empty: describe the persona in a sentence or more"): (
        [{"persona": {"text": " a "}}],
        [{"persona": {"text": " \n\t "}}, {"persona": {"text": "\u2003"}}],
    ),
    ("persona.text", "has control characters: remove them"): (
        [{"persona": {"text": "line\n\ttab\r\nÄußerst freundlich 船長 🚢"}}],
        [
            {"persona": {"text": f"a{character}b"}}
            for character in ("\x00", "\x08", "\x0b", "\x1b", "\x7f", "\x85", "\x9f")
        ],
    ),
    ("scoring", "lastBlock must not be before firstBlock"): (
        [{"scoring": {"firstBlock": 3, "lastBlock": 3}}, {"scoring": {"firstBlock": 9}}],
        [{"scoring": {"firstBlock": 3, "lastBlock": 2}}],
    ),
    ("dataset", "validationPercent and testPercent must leave at least 20 for training"): (
        [{"dataset": {"validationPercent": 40, "testPercent": 40}}],
        [{"dataset": {"validationPercent": 41, "testPercent": 40}}],
    ),
    (
        "evaluation.gate.thresholds[]",
        "set exactly one of min, max, maxDecrease, minRetentionPercent, maxIncreasePercent",
    ): (
        [
            with_threshold(min=0),
            with_threshold(max="0.5"),
            with_threshold(maxDecrease="2.5"),
            with_threshold(minRetentionPercent=90),
            with_threshold(maxIncreasePercent=10),
        ],
        [with_threshold(), with_threshold(min=1, max=2)],
    ),
    (
        "evaluation.gate.thresholds[]",
        "judge goes with metric judgeScore only, and is required there",
    ): (
        [with_threshold(metric="judgeScore", judge="a", min=1)],
        [with_threshold(judge="a", min=1), with_threshold(metric="judgeScore", min=1)],
    ),
    (
        "evaluation.gate.thresholds[]",
        "wholeInterval goes with min, max and maxDecrease",
    ): (
        [
            with_threshold(min=1, wholeInterval=True),
            with_threshold(maxDecrease=1, wholeInterval=True),
            with_threshold(minRetentionPercent=1, wholeInterval=False),
        ],
        [with_threshold(minRetentionPercent=1, wholeInterval=True)],
    ),
    ("pruning", "straightThrough goes with method StraightThrough only"): (
        [
            {"pruning": {"method": "StraightThrough", "straightThrough": {"steps": 3}}},
            {"pruning": {"method": "ActivationNorm"}},
        ],
        [
            {"pruning": {"straightThrough": {"steps": 3}}},
            {"pruning": {"method": "ActivationNorm", "straightThrough": {"steps": 3}}},
        ],
    ),
    ("pruning", "optimalBrainSurgeon goes with method OptimalBrainSurgeon only"): (
        [
            {"pruning": {"optimalBrainSurgeon": {"ridge": "1"}}},
            {"pruning": {"method": "OptimalBrainSurgeon"}},
            {"pruning": {"method": "OptimalBrainSurgeon", "optimalBrainSurgeon": {"ridge": "1"}}},
        ],
        [
            {"pruning": {"method": "StraightThrough", "optimalBrainSurgeon": {"ridge": "1"}}},
            {"pruning": {"method": "ActivationNorm", "optimalBrainSurgeon": {"ridge": "1"}}},
        ],
    ),
    ("pruning.optimalBrainSurgeon.ridge", "must be between 0.000001 and 1000"): (
        [with_surgeon(ridge=r) for r in ("0.000001", "0.3", "1000")],
        [with_surgeon(ridge=r) for r in ("0", "1000.1")],
    ),
    ("serving", "set replicas or autoscaling, not both"): (
        [{"serving": {"replicas": 2}}, {"serving": {"autoscaling": {"maxReplicas": 2}}}],
        [{"serving": {"replicas": 2, "autoscaling": {"maxReplicas": 2}}}],
    ),
    (
        "serving.args[]",
        "must not enable trust_remote_code: a checkpoint's own code is never run",
    ): (
        [{"serving": {"args": [a]}} for a in ("--trust-request-chat-template", "--max-queue=4")],
        [{"serving": {"args": [a]}} for a in ("--trust-remote-code", "--trust_remote=true")],
    ),
    ("serving.autoscaling", "maxReplicas must not be below minReplicas"): (
        [{"serving": {"autoscaling": {"minReplicas": 2, "maxReplicas": 2}}}],
        [{"serving": {"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}}],
    ),
    ("teacher.temperature", "must be between 0 and 2"): (
        [{"teacher": {"temperature": t}} for t in ("0", "0.7", "2", "2.000")],
        [{"teacher": {"temperature": t}} for t in ("2.1", "3")],
    ),
    ("pruning.straightThrough.learningRate", "must be between 0.000001 and 10"): (
        [with_learning(learningRate=t) for t in ("0.000001", "0.04", "10")],
        [with_learning(learningRate=t) for t in ("0", "0.0000009", "10.01")],
    ),
    ("pruning.straightThrough.beta2", "must be between 0.5 and 0.99999"): (
        [with_learning(beta2=t) for t in ("0.5", "0.99999")],
        [with_learning(beta2=t) for t in ("0.49", "1")],
    ),
    ("recovery.refit.ridge", "must be between 0.000001 and 1000"): (
        [{"recovery": {"refit": {"ridge": t}}} for t in ("0.000001", "1000")],
        [{"recovery": {"refit": {"ridge": t}}} for t in ("0", "1000.1")],
    ),
    ("recovery.reconstruct.learningRate", "must be between 0.0000001 and 1"): (
        [{"recovery": {"reconstruct": {"learningRate": t}}} for t in ("0.0000001", "1")],
        [{"recovery": {"reconstruct": {"learningRate": t}}} for t in ("0", "1.1")],
    ),
    ("recovery.fineTune.learningRate", "must be between 0.0000001 and 1"): (
        [{"recovery": {"fineTune": {"learningRate": t}}} for t in ("0.0000001", "1")],
        [{"recovery": {"fineTune": {"learningRate": t}}} for t in ("0", "1.1")],
    ),
}
for field, message in URI_MESSAGES.items():
    path = tuple(field.replace("[]", ".[]").split("."))
    listed = message.removesuffix(NO_LOGIN).split("one of")[1]
    schemes = [scheme.strip() for scheme in listed.split(",")]
    wrong = ["ftp://host/file", "org/model", schemes[0]]
    if message.endswith(NO_LOGIN):
        wrong.append("https://user:secret@host/v1")
    RULES[(field, message)] = (
        [with_field(path, f"{scheme}a/b")["spec"] for scheme in schemes],
        [with_field(path, value)["spec"] for value in wrong],
    )
IMMUTABLE = "baseModel is immutable: create another PersonaModel for another base model"
LONG_NAME = "the name must have at most 40 characters: names of Jobs and Services are made from it"
WRONG_NAME = (
    "the name must be lower-case letters, digits and '-', and begin with a letter: names of Jobs "
    "and Services are made from it"
)


def cases(which: int) -> list[Any]:
    return [
        pytest.param(field, message, spec, id=f"{field}-{number}")
        for (field, message), both in RULES.items()
        for number, spec in enumerate(both[which])
    ]


# Required fields of objects that merge with a recipe's.
REQUIRED_WITHOUT_RECIPE = (
    "baseModel",
    "baseModel.uri",
    "teacher.openAI.baseURL",
    "teacher.openAI.model",
    "serving.autoscaling.maxReplicas",
    "evaluation.gate.thresholds",
)


def test_every_rule_has_cases():
    rules = {
        (dotted(path), rule["message"])
        for path, node in nodes(SPEC)
        for rule in node.get("x-kubernetes-validations", [])
    }
    required = {("", f"{path} is required") for path in REQUIRED_WITHOUT_RECIPE}
    assert rules == set(RULES) | {("", IMMUTABLE)} | required
    named = {rule["message"] for rule in ROOT["x-kubernetes-validations"]}
    assert named == {LONG_NAME, WRONG_NAME}


@pytest.mark.parametrize(("field", "message", "spec"), cases(0))
def test_rule_accepts(api, objects, field, message, spec):
    accepted_by_both(api, objects, manifest(**spec))


@pytest.mark.parametrize(("field", "message", "spec"), cases(1))
def test_rule_refuses_with_its_message(api, objects, field, message, spec):
    refusal = refused_by_both(api, objects, manifest(**spec))
    assert message in refusal
    assert "spec." + field.replace("[]", "[0]") in refusal


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a" * 41, LONG_NAME),
        ("captain.v2", WRONG_NAME),
        ("2nd-captain", WRONG_NAME),
        ("a" * 40, None),
        ("captain-2", None),
    ],
)
def test_names(api, objects, name, message):
    if message is None:
        accepted_by_both(api, objects, manifest(name))
    else:
        assert message in refused_by_both(api, objects, manifest(name))


# --- bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "schema"), fields("integer"))
def test_integer_bounds(api, objects, path, schema):
    for value in (schema["minimum"], schema["maximum"]):
        accepted_by_both(api, objects, with_field(path, value))
    for value in (schema["minimum"] - 1, schema["maximum"] + 1, "12", True):
        refusal = refused_by_both(api, objects, with_field(path, value))
        assert path[-1] in refusal


@pytest.mark.parametrize(("path", "schema"), fields("boolean"))
def test_booleans(api, objects, path, schema):
    for value in (True, False):
        accepted_by_both(api, objects, with_field(path, value))
    for value in ("true", 1):
        assert path[-1] in refused_by_both(api, objects, with_field(path, value))


@pytest.mark.parametrize(("path", "schema"), fields("string"))
def test_strings(api, objects, path, schema):
    name = path[-1] if path[-1] != "[]" else path[-2]
    if "enum" in schema:
        for value in schema["enum"]:
            accepted_by_both(api, objects, with_field(path, value))
        refusal = refused_by_both(api, objects, with_field(path, "Nonsense"))
        assert name in refusal
        assert schema["enum"][0] in refusal
        return
    prefix = {"uri": "s3://", "endpoint": "https://", "baseURL": "https://"}.get(name, "")
    prefix = "A" if path == (*VARIABLE, "name") else prefix
    wrong = [1, "1" * (schema["maxLength"] + 1)]
    if schema.get("minLength"):
        wrong.append("")
    if "[0-9]{1,6}" in schema.get("pattern", ""):
        wrong += ["-1", "1e-3", "half", "1.", "0.5\n"]
    else:
        longest = prefix + "1" * (schema["maxLength"] - len(prefix))
        accepted_by_both(api, objects, with_field(path, longest))
        wrong.append(longest + "1")
        if path[:2] == ("persona", "examples"):
            wrong += [" \n", "a\x00b", "\x85"]
        elif path == ("persona", "card", "user"):
            wrong += ["{{char}}", "<b>", "1\n", "\x00"]
        elif "pattern" in schema:
            wrong += ["a b", "1\n", "\x00", f"{prefix}a\n"]
    for value in wrong:
        assert name in refused_by_both(api, objects, with_field(path, value)), value


def test_list_lengths(api, objects):
    file = {"uri": "s3://bucket/questions.json"}
    accepted_by_both(api, objects, manifest(evaluation={"questionFiles": [file] * 32}))
    refused_by_both(api, objects, manifest(evaluation={"questionFiles": [file] * 33}))
    turn = {"query": "q", "answer": "a"}
    for examples, accepted in (
        ([{"turns": [turn]}] * 256, True),
        ([{"turns": [turn]}] * 257, False),
        ([{"turns": [turn] * 32}], True),
        ([{"turns": [turn] * 33}], False),
        ([{"turns": []}], False),
    ):
        body = manifest(persona={"text": CAPTAIN, "examples": examples})
        (accepted_by_both if accepted else refused_by_both)(api, objects, body)


def test_a_stage_is_set_once(api, objects):
    stages = [{"name": "mask", "maxRetries": 1}, {"name": "mask", "maxRetries": 2}]
    refusal = refused_by_both(api, objects, manifest(execution={"stages": stages}))
    assert "spec.execution.stages[1]: Duplicate value" in refusal


def test_a_persona_is_required(api, objects):
    body = manifest()
    del body["spec"]["persona"]
    assert "spec.persona: Required value" in refused_by_both(api, objects, body)


@pytest.mark.parametrize("path", REQUIRED_WITHOUT_RECIPE)
def test_what_a_recipe_may_give_is_required_without_one(api, objects, path):
    *parents, last = path.split(".")
    companions = dict(COMPANIONS.get(tuple(parents), {}))
    companions.pop(last, None)
    body = with_field(tuple(parents), companions) if parents else manifest()
    if not parents:
        del body["spec"][last]
    assert f"{path} is required" in refused_by_both(api, objects, body)
    body["spec"]["recipeRef"] = {"name": "recipe"}
    assert create(api, objects, body).status_code == 201


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"prunning": {}}, "spec.prunning"),
        ({"pruning": {"sparsity": 25}}, "spec.pruning.sparsity"),
        ({"serving": {"port": 80}}, "spec.serving.port"),
    ],
)
def test_unknown_fields(api, objects, spec, field):
    assert f'unknown field "{field}"' in refused_by_both(api, objects, manifest(**spec))


# --- defaults, immutability, subresources, columns ------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"recovery": {"fineTune": {"steps": 7}}, "dataset": {"testPercent": 20}},
        {"teacher": {"openAI": {"baseURL": "http://teacher/v1", "model": "m"}}},
        {"serving": {"autoscaling": {"maxReplicas": 3}}, "scoring": {"lastBlock": 4}},
        {"execution": {"stages": [{"name": "mask", "resources": {"gpus": 1}}]}},
        {"evaluation": {"questionFiles": [{"uri": "s3://b/q.json"}]}},
    ],
)
def test_the_server_stores_a_spec_as_it_was_written(api, objects, spec):
    body = manifest(**spec)
    stored = create(api, objects, body).raise_for_status().json()["spec"]
    assert stored == body["spec"]
    PersonaModelSpec.model_validate(stored)


@pytest.fixture
def stored(api: httpx.Client, objects: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return URL and content of a stored PersonaModel that no operator reconciles."""
    body = manifest(
        f"stored-{uuid.uuid4().hex[:6]}",
        baseModel={"uri": "hf://org/model", "revision": "v1"},
        suspend=True,
    )
    answer = create(api, objects, body, dry_run=False)
    assert answer.status_code == 201, answer.text
    url = f"{objects}/{body['metadata']['name']}"
    yield url, answer.json()
    api.delete(url).raise_for_status()


def patch(api: httpx.Client, url: str, body: dict[str, Any]) -> httpx.Response:
    return api.patch(url, headers=MERGE, json=body)


@pytest.mark.parametrize(
    "base_model", [{"uri": "hf://org/other"}, {"revision": "v2"}, {"revision": None}]
)
def test_base_model_is_immutable(api, stored, base_model):
    answer = patch(api, stored[0], {"spec": {"baseModel": base_model}})
    assert answer.status_code == 422
    assert IMMUTABLE in answer.json()["message"]
    assert "spec.baseModel" in answer.json()["message"]


def test_an_object_that_the_operator_has_not_seen_is_not_ready(stored):
    assert stored[1]["status"] == {"observedGeneration": -1}
    assert run("kstatus", text=json.dumps(stored[1])).startswith("InProgress")


def test_other_fields_of_the_spec_are_mutable(api, stored):
    url, before = stored
    changed = {
        "baseModel": {"credentialsSecretRef": {"name": "hf"}},
        "persona": {"text": "You are a lighthouse keeper."},
        "pruning": {"sparsityPercent": 50},
    }
    after = patch(api, url, {"spec": changed}).raise_for_status().json()
    assert after["spec"]["pruning"]["sparsityPercent"] == 50
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1


STATUS = {
    "observedGeneration": 1,
    "conditions": [
        {
            "type": "Available",
            "status": "True",
            "lastTransitionTime": "2026-01-02T03:04:05Z",
            "reason": "Serving",
        },
        {
            "type": "Ready",
            "status": "Unknown",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-02T03:04:05Z",
            "reason": "Learning",
            "message": "The mask is being learned.",
        },
    ],
    "serving": {"revision": "0123abcd", "replicas": 2, "readyReplicas": 1, "selector": "a=b"},
    "size": "1.9 of 2.5 GiB",
    "score": "81 of 83",
    "judges": "critic 81",
    "latency": "21 of 26 ms",
    "url": "http://ship-captain.default.svc:8000",
    "baseModel": "hf://org/model",
    "sparsityPercent": 25,
    "phase": "Mask",
}


def test_status_is_a_subresource_and_columns_show_it(api, stored):
    url, before = stored
    unchanged = patch(api, url, {"status": STATUS}).raise_for_status().json()
    assert unchanged["status"] == before["status"] == {"observedGeneration": -1}
    written = patch(api, f"{url}/status", {"status": STATUS}).raise_for_status().json()
    assert written["status"] == STATUS
    assert written["metadata"]["generation"] == before["metadata"]["generation"]
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    table = api.get(url, headers=accept).json()
    names = [column["name"] for column in table["columnDefinitions"]]
    row = dict(zip(names, table["rows"][0]["cells"], strict=True))
    assert row.pop("Age")
    assert row == {
        "Name": before["metadata"]["name"],
        "Ready": "Unknown",
        "Available": "True",
        "Phase": "Mask",
        "Sparsity": 25,
        "Size": "1.9 of 2.5 GiB",
        "Score": "81 of 83",
        "URL": "http://ship-captain.default.svc:8000",
        "Base": "hf://org/model",
        "Revision": "0123abcd",
        "Judges": "critic 81",
        "Latency": "21 of 26 ms",
    }


def test_scale_subresource(api, stored):
    url, _ = stored
    patch(api, f"{url}/status", {"status": STATUS}).raise_for_status()
    scale = patch(api, f"{url}/scale", {"spec": {"replicas": 3}}).raise_for_status().json()
    assert scale["spec"]["replicas"] == 3
    assert scale["status"] == {"replicas": 2, "selector": "a=b"}
    assert api.get(url).json()["spec"]["serving"]["replicas"] == 3


def test_a_status_of_another_version_is_kept(api, stored):
    status = {
        "observedGeneration": 7,
        "conditions": [
            {"type": "New", "status": "Perhaps", "lastTransitionTime": "x", "reason": "R"}
        ],
        "further": {"field": 1},
    }
    written = patch(api, f"{stored[0]}/status", {"status": status}).raise_for_status().json()
    assert written["status"] == status


def test_short_names_and_category(api, objects):
    resources = api.get(f"/apis/{GROUP}/{VERSION}").json()["resources"]
    (main,) = [resource for resource in resources if resource["name"] == PLURAL]
    assert main["shortNames"] == ["persona", "personas"]
    assert main["categories"] == ["persona-pruner"]
