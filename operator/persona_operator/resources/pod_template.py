"""Merges an administrator's partial PodTemplateSpec into a pod that the operator builds."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..labels import FETCH_CONTAINER, SERVING_CONTAINER, STAGE_CONTAINER
from .common import Manifest

_OWN_CONTAINERS = frozenset({STAGE_CONTAINER, SERVING_CONTAINER, FETCH_CONTAINER})
# Lists that are merged item by item, and the field that identifies an item. Others are replaced.
_LIST_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
}
# An item of these is a union (`value` or `valueFrom`, one source of a volume): fields that the
# template doesn't name would contradict those that it names.
_UNIONS = frozenset({"env", "volumes"})


def merge_pod_template(built: Manifest, template: Mapping[str, Any]) -> Manifest:
    """Return a pod template with the fields of another one, which win.

    Maps merge and `null` removes a field. Containers, init containers, environment variables and
    volumes merge by name, volume mounts by path; all other lists are replaced. The operator finds
    its pods by the built labels, so those stay. A template may name containers of several kinds
    of pods: the operator's own containers that this pod hasn't are left out.
    """
    merged = _merge(built, template)
    labels = built.get("metadata", {}).get("labels")
    if labels:
        metadata = merged.get("metadata") or {}
        merged["metadata"] = {**metadata, "labels": {**(metadata.get("labels") or {}), **labels}}
    return merged


def _merge(built: Mapping[str, Any], template: Mapping[str, Any]) -> Manifest:
    result = dict(built)
    for name, value in template.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            former = result.get(name)
            result[name] = _merge(former if isinstance(former, Mapping) else {}, value)
        elif name in _LIST_KEYS:
            items = _merge_list(name, result.get(name) or [], value)
            if items:
                result[name] = items
        else:
            result[name] = value
    return result


def _merge_list(
    name: str, built: Sequence[Manifest], template: Sequence[Mapping[str, Any]]
) -> list[Manifest]:
    key = _LIST_KEYS[name]
    result = {item[key]: item for item in built}
    for item in template:
        at = item[key]
        former = result.get(at)
        if former is None and name in {"containers", "initContainers"} and at in _OWN_CONTAINERS:
            continue
        if former is not None and name in _UNIONS:
            former = {field: value for field, value in former.items() if field in item}
        result[at] = _merge(former or {}, item)
    return list(result.values())
