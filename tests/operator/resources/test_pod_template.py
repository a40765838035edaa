"""Merging a partial pod template into a built pod."""

import copy
from typing import Any

from persona_operator.resources.pod_template import merge_pod_template

BUILT: dict[str, Any] = {
    "metadata": {"labels": {"app": "persona"}, "annotations": {"a": "1"}},
    "spec": {
        "nodeSelector": {"pool": "cpu"},
        "tolerations": [{"key": "a"}],
        "initContainers": [{"name": "fetch", "args": ["slice"]}],
        "containers": [
            {
                "name": "serve",
                "args": ["--model", "/model"],
                "env": [{"name": "HOME", "value": "/scratch"}, {"name": "A", "value": "1"}],
                "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "4Gi"}},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "scratch", "emptyDir": {}}],
    },
}


def merged(**template: Any) -> dict[str, Any]:
    before = copy.deepcopy(BUILT)
    result = merge_pod_template(BUILT, template)
    assert before == BUILT
    return result


def serve(result: dict[str, Any]) -> dict[str, Any]:
    (container,) = [item for item in result["spec"]["containers"] if item["name"] == "serve"]
    found: dict[str, Any] = container
    return found


def test_an_empty_template_changes_nothing() -> None:
    assert merged() == BUILT


def test_maps_merge_other_lists_are_replaced_and_null_removes_a_field() -> None:
    spec = merged(
        spec={
            "nodeSelector": {"zone": "a"},
            "tolerations": [{"key": "b"}],
            "affinity": {"nodeAffinity": {}},
            "volumes": None,
        }
    )["spec"]
    assert spec["nodeSelector"] == {"pool": "cpu", "zone": "a"}
    assert spec["tolerations"] == [{"key": "b"}]
    assert spec["affinity"] == {"nodeAffinity": {}}
    assert "volumes" not in spec


def test_the_labels_by_which_pods_are_found_stay() -> None:
    metadata = {"labels": {"app": "other", "team": "a"}, "annotations": {"b": "2"}}
    assert merged(metadata=metadata)["metadata"] == {
        "labels": {"app": "persona", "team": "a"},
        "annotations": {"a": "1", "b": "2"},
    }
    for removed in ({"labels": None}, None):
        assert merged(metadata=removed)["metadata"]["labels"] == {"app": "persona"}


def test_containers_environment_and_mounts_merge_by_name_and_path() -> None:
    container = {
        "name": "serve",
        "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}],
        "resources": {"limits": {"ephemeral-storage": "10Gi"}, "claims": [{"name": "gpu"}]},
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"},
            {"name": "extra", "mountPath": "/extra"},
        ],
    }
    result = serve(merged(spec={"containers": [container]}))
    assert result["args"] == ["--model", "/model"]
    assert result["env"] == [
        {"name": "HOME", "value": "/scratch"},
        {"name": "A", "value": "2"},
        {"name": "B", "value": "3"},
    ]
    assert result["resources"] == {
        "requests": {"cpu": "1"},
        "limits": {"memory": "4Gi", "ephemeral-storage": "10Gi"},
        "claims": [{"name": "gpu"}],
    }
    assert result["volumeMounts"] == [
        {"name": "scratch", "mountPath": "/tmp"},
        {"name": "extra", "mountPath": "/extra"},
    ]


def test_another_kind_of_value_or_volume_replaces_the_built_one() -> None:
    reference = {"configMapKeyRef": {"name": "settings", "key": "a"}}
    result = merged(
        spec={
            "containers": [{"name": "serve", "env": [{"name": "A", "valueFrom": reference}]}],
            "volumes": [{"name": "scratch", "persistentVolumeClaim": {"claimName": "fast"}}],
        }
    )
    assert serve(result)["env"][1] == {"name": "A", "valueFrom": reference}
    assert result["spec"]["volumes"] == [
        {"name": "tmp", "emptyDir": {}},
        {"name": "scratch", "persistentVolumeClaim": {"claimName": "fast"}},
    ]


def test_containers_of_other_pods_are_left_out_and_further_ones_are_added() -> None:
    proxy = {"name": "proxy", "image": "proxy:1"}
    spec = merged(spec={"containers": [{"name": "stage", "env": []}, proxy]})["spec"]
    assert [item["name"] for item in spec["containers"]] == ["serve", "proxy"]
    assert spec["containers"][1] == proxy
