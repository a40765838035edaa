"""The spec: defaults, bounds and messages by field path."""

import copy

import pytest

from persona_jobs.api import load_resource, parse_resource
from persona_jobs.api.yaml_documents import yaml_documents
from persona_jobs.errors import InputError

MINIMAL = {
    "apiVersion": "persona-pruner.io/v1alpha1",
    "kind": "PersonaModel",
    "metadata": {"name": "captain"},
    "spec": {
        "persona": {"text": "You are a captain."},
        "baseModel": {"uri": "hf://org/model"},
    },
}


def turn(query, answer):
    return {"turns": [{"query": query, "answer": answer}]}


ONE_OF = "exactly one of text, configMapRef and card"
BAD_USER = "card.user: must be a name"
EXAMPLE = turn("Who are you?", "A captain, sailor.")


def changed(path, value):
    document = copy.deepcopy(MINIMAL)
    *parents, last = path.split(".")
    node = document
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return document


def test_a_minimal_manifest_gets_all_defaults():
    spec = parse_resource(MINIMAL).spec
    assert spec.pruning.sparsity_percent == 25
    assert spec.instructions.uri == "builtin://general"
    assert spec.artifact_policy == "Retain"


def test_a_dumped_manifest_is_the_same_manifest():
    manifest = parse_resource(MINIMAL)
    assert parse_resource(manifest.manifest()) == manifest


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("spec.persona.text", "", "spec.persona.text: is empty"),
        ("spec.persona.text", " \n\t ", "spec.persona.text: is empty"),
        ("spec.persona.text", "x" * 32_769, "32,769 characters; shorten it to 32,768"),
        ("spec.persona.text", "a\x00b", "control character U+0000 at position 1"),
        ("spec.persona.text", "a\x1b[31m", "control character U+001B"),
        ("spec.persona.text", "a\ud800", "U+D800"),
        (
            "spec.persona.configMapRef",
            {"name": "a", "key": "b"},
            ONE_OF,
        ),
        (
            "spec.persona.card",
            {"uri": "file:///a.png"},
            ONE_OF,
        ),
        ("spec.persona", {}, ONE_OF),
        ("spec.persona", {"card": {}}, "spec.persona.card.uri: is required"),
        (
            "spec.persona",
            {"card": {"uri": "https://x/a.png"}},
            "start with one of hf://, s3://",
        ),
        (
            "spec.persona",
            {"card": {"uri": "s3://a/b", "user": "{{char}}"}},
            BAD_USER,
        ),
        (
            "spec.persona",
            {"card": {"uri": "s3://a/b", "user": "a\nb"}},
            BAD_USER,
        ),
        (
            "spec.persona",
            {"card": {"uri": "file:///a.png", "endpoint": "https://s3.example"}},
            "go with hf:// and s3:// sources",
        ),
        ("spec.persona.examples", 257 * [EXAMPLE], "at most 256 items"),
        ("spec.persona.examples", [{"turns": []}], "examples[0].turns: List should have at least"),
        ("spec.persona.examples", [{"turns": [{"query": "q"}]}], "turns[0].answer: is required"),
        ("spec.persona.examples", [turn("q", " ")], "turns[0].answer: is empty: write what is"),
        ("spec.persona.examples", [turn("a\x00b", "a")], "turns[0].query: has the control char"),
        ("spec.persona.examples", [turn("q", "x" * 8193)], "answer: has 8,193 characters; shorten"),
        (
            "spec.persona.examples",
            17 * [turn("q", "x" * 8192)],
            "examples: have 139,281 characters in all; shorten them to 131,072 or fewer",
        ),
        ("spec.baseModel.endpoint", "https://user:key@hub.example", "hold no user name or"),
        ("spec.instructions.endpoint", "https://s3.example", "go with hf:// and s3:// sources"),
        (
            "spec.referencePersonas.credentialsSecretRef",
            {"name": "own"},
            "go with hf:// and s3:// sources",
        ),
        ("spec.pruning.sparsityPercent", 0, "greater than or equal to 1"),
        ("spec.pruning.sparsityPercent", 91, "less than or equal to 90"),
        ("spec.pruning.sparsityPercent", "25", "valid integer"),
        ("spec.pruning.sparsityPercent", 25.5, "valid integer"),
        ("spec.pruning.sparsity", 25, "spec.pruning.sparsity: unknown field"),
        ("spec.pruning.straightThrough.learningRate", 0.04, 'write it as a string: "0.04"'),
        ("spec.pruning.straightThrough.learningRate", "0", "must be between"),
        ("spec.pruning.straightThrough.learningRate", "fast", "decimal number"),
        ("spec.baseModel.uri", "http://x/y", "must start with one of hf://"),
        ("spec.baseModel.uri", "hf://a b", "no spaces"),
        ("spec.scoring", {"firstBlock": 5, "lastBlock": 2}, "lastBlock must not be before"),
        ("spec.dataset", {"validationPercent": 50, "testPercent": 50}, "at least 20 for training"),
        *(
            ("spec.serving", {"args": ["--max-num-seqs", argument]}, "enable trust_remote_code")
            for argument in (
                "--trust-remote-code",
                "--trust_remote_code",
                "--trust-remote-code=true",
                "--trust_remote_code=False",
                "--trust",
                "--tru=1",
                "--trust-remote",
                '{"trust_remote_code": true}',
            )
        ),
        ("spec.serving", {"env": 2 * [{"name": "A", "value": "1"}]}, "names A more than once"),
        ("spec.serving", {"env": [{"name": "A-B", "value": "1"}]}, "letters, digits"),
        ("spec.serving", {"env": [{"name": "A", "valueFrom": {}}]}, "unknown field"),
        ("spec.evaluation.gate", {}, "gate.thresholds: is required"),
        (
            "spec.evaluation.gate",
            {"thresholds": [{"name": "a", "metric": "personaScore", "min": 1, "max": 2}]},
            "set exactly one of min, max",
        ),
        (
            "spec.evaluation.gate",
            {"thresholds": 2 * [{"name": "a", "metric": "personaScore", "min": 1}]},
            "names a more than once",
        ),
        (
            "spec.evaluation.gate",
            {"thresholds": [{"name": "a", "metric": "judgeScore", "min": 1}]},
            "judge goes with metric judgeScore only, and is required there",
        ),
        (
            "spec.evaluation.gate",
            {
                "thresholds": [
                    {
                        "name": "a",
                        "metric": "personaKl",
                        "maxIncreasePercent": 1,
                        "wholeInterval": True,
                    }
                ]
            },
            "wholeInterval goes with min, max and maxDecrease",
        ),
        (
            "spec.evaluation",
            {"judges": 2 * [{"name": "a", "openAI": {"baseURL": "http://j/v1", "model": "m"}}]},
            "judges names a more than once",
        ),
        ("spec.evaluation", {"judges": [{"name": "a"}]}, "openAI: is required"),
        ("spec.execution.profile", "", "lower-case"),
        ("spec.serving", {"replicas": 1, "autoscaling": {"maxReplicas": 2}}, "not both"),
        ("spec.serving.autoscaling", {"minReplicas": 3, "maxReplicas": 2}, "must not be below"),
        ("spec.serving.revision", "xyz", "8 hex digits"),
        ("spec.execution.stages", [{"name": "bake"}], "spec.execution.stages[0].name"),
        ("spec.execution.stages", [{"name": "mask", "resources": {"cpu": "a lot"}}], "quantity"),
        ("spec.teacher.openAI", {"baseURL": "ftp://x", "model": "m"}, "http://, https://"),
        ("metadata.name", "Captain!", "name must"),
        ("metadata.name", "c" * 41, "at most 40"),
        ("kind", "Persona", "kind"),
    ],
)
def test_wrong_values_name_their_field(path, value, message):
    with pytest.raises(InputError) as caught:
        parse_resource(changed(path, value))
    assert message in str(caught.value)
    assert path.split(".")[1 if "." in path else 0].split("[")[0] in str(caught.value)
    assert caught.value.exit_code == 2


def test_all_errors_are_told_at_once():
    document = changed("spec.pruning.sparsityPercent", 99)
    document["spec"]["seed"] = -1
    document["spec"]["colour"] = "red"
    with pytest.raises(InputError) as caught:
        parse_resource(document)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert lines[0].endswith("3 errors")


def test_unicode_personas_are_welcome():
    text = "Ты — капитан.\nよろしく 🏴‍☠️ “arr” {{ x }} {% y %}"
    assert parse_resource(changed("spec.persona.text", text)).spec.persona.text == text


def write(tmp_path, data, name="persona.yaml"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


YAML = """\
apiVersion: persona-pruner.io/v1alpha1
kind: PersonaModel
metadata: {name: captain}
spec:
  persona: {configMapRef: {name: texts, key: captain}}
  baseModel: {uri: "hf://org/model"}
"""
CONFIG_MAP = """\
---
apiVersion: v1
kind: ConfigMap
metadata: {name: texts}
data: {captain: You are a captain.}
"""


def test_a_config_map_of_the_same_file_gives_the_text(tmp_path):
    manifest = load_resource(write(tmp_path, YAML + CONFIG_MAP))
    assert manifest.spec.persona.text == "You are a captain."
    assert manifest.spec.persona.config_map_ref is None


def test_a_text_from_a_config_map_goes_with_examples(tmp_path):
    given = YAML.replace("captain}}", f"captain}}, examples: [{EXAMPLE}]}}")
    persona = load_resource(write(tmp_path, given + CONFIG_MAP)).spec.persona
    assert persona.text == "You are a captain."
    assert persona.examples[0].turns[0].answer == "A captain, sailor."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (YAML, "which .* does not hold"),
        (b"\xff\xfe\x00bad", "not UTF-8"),
        ("a: [", "not valid YAML"),
        ("a: 1\nb: {c: 1,\n  c: 2}\n", r"line 3: the key 'c' is given twice"),
        ("? [a]\n: 1\n", "not valid YAML"),
        ("kind: ConfigMap", "holds no PersonaModel"),
        ("- 1\n- 2\n", "not a mapping"),
        (YAML + "---\n" + YAML, "holds 2 PersonaModels"),
        (b"#" * 1_100_000, "more than the 1,048,576"),
        ("[" * 5000, "YAML|nested"),
    ],
)
def test_an_unreadable_file_is_refused_by_name(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        load_resource(write(tmp_path, data))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_resource(tmp_path / "absent.yaml")


def test_a_huge_persona_is_one_clear_error(tmp_path):
    text = "x" * 1_000_000
    with pytest.raises(InputError, match="1,000,000 characters"):
        load_resource(
            write(
                tmp_path,
                YAML.replace("{configMapRef: {name: texts, key: captain}}", f'{{text: "{text}"}}'),
            )
        )


def test_a_merge_key_is_no_duplicate(tmp_path):
    text = "base: &base {a: 1}\nderived: {<<: *base, a: 2}\n"
    assert yaml_documents(text, source="x")[0]["derived"] == {"a": 2}


def test_other_arguments_of_the_engine_are_taken() -> None:
    given = ["--trust-request-chat-template", "--truncate", "--max-num-seqs=4", "text"]
    document = {**MINIMAL, "spec": {**MINIMAL["spec"], "serving": {"args": given}}}
    assert parse_resource(document).spec.serving.args == given
