"""Carries out a plan: the operator's only writes to the cluster."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from persona_jobs.api import API_VERSION, KIND

from .errors import ApiRefusedError, NameTakenError
from .kube_api import KubeApi
from .labels import FIELD_MANAGER, SUSPENDED_ANNOTATION, is_managed
from .object_cache import ObjectCache
from .reconcile import Action, Apply, Create, Delete, Event, Persona, SetSuspend
from .reconcile.times import format_time
from .resources.common import Owner


async def apply_action(
    api: KubeApi, owner: Owner, action: Action, cache: ObjectCache
) -> dict[str, Any] | None:
    """Carry out one action and return the object that the API server created or changed.

    Nothing is sent where the cached object has all that the manifest says.

    Raises:
        ApiRefusedError: the API server refuses the request.
        ApiUnavailableError: the API server can't be reached.
    """
    match action:
        case Create(manifest):
            metadata = manifest["metadata"]
            created = await api.create(manifest)
            return created or await api.get(
                manifest["kind"], metadata["namespace"], metadata["name"]
            )
        case Apply(manifest):
            metadata = manifest["metadata"]
            live = cache.live(manifest["kind"], (metadata["namespace"], metadata["name"]))
            if live is None or not _is_owner(owner, live):
                await _check_name(api, owner, manifest)
            elif contains(live, manifest):
                return None
            return await api.apply(manifest)
        case Delete(kind, name):
            await api.delete(kind, owner.namespace, name)
            return None
        case SetSuspend(job, suspend):
            # The mark tells the operator's own suspension from that of a person or of a queue.
            mark = {SUSPENDED_ANNOTATION: "true" if suspend else None}
            patch = {"metadata": {"annotations": mark}, "spec": {"suspend": suspend}}
            return await api.merge("Job", owner.namespace, job, patch)


async def _check_name(api: KubeApi, owner: Owner, manifest: dict[str, Any]) -> None:
    """Raise an error where the object belongs to a person or to another controller."""
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    found = await api.get(kind, owner.namespace, name)
    if found is None:
        return
    if not _is_owner(owner, found):
        raise NameTakenError(kind, name)


def _is_owner(owner: Owner, document: Mapping[str, Any]) -> bool:
    """Return whether an object was made by the operator for this PersonaModel."""
    metadata = document["metadata"]
    owners = {item.get("uid") for item in metadata.get("ownerReferences") or []}
    return is_managed(metadata.get("labels") or {}) and owner.uid in owners


def contains(live: Any, wanted: Any) -> bool:
    """Return whether an object has every field of a manifest with its value.

    What the API server wrote in another way, such as 1000m for 1, counts as a difference: applying
    a manifest once too often does no harm.
    """
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            name in live and contains(live[name], value) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(live, list) and len(live) == len(wanted) and all(map(contains, live, wanted))
        )
    return type(live) is type(wanted) and bool(live == wanted)


async def write_status(
    api: KubeApi, persona: Persona, status: dict[str, Any]
) -> dict[str, Any] | None:
    """Patch what changed and return the new object, None when nothing was written."""
    patch = merge_patch(persona.raw_status, status)
    if not patch:
        return None
    owner = persona.owner
    return await api.merge_status(KIND, owner.namespace, owner.name, patch)


async def post_event(api: KubeApi, owner: Owner, event: Event) -> None:
    """Post one Event on the PersonaModel; a refused one is lost, as the status shows the same."""
    moment = api.clock.now()
    stamp = format_time(moment)
    # Names of Events only have to be unique; client-go builds them the same way.
    suffix = format(int(moment.timestamp() * 1e9), "x")
    manifest = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{owner.name}.{suffix}", "namespace": owner.namespace},
        "type": event.type,
        "reason": event.reason,
        "message": event.message,
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": owner.name,
            "namespace": owner.namespace,
            "uid": owner.uid,
        },
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
    with suppress(ApiRefusedError):
        await api.create(manifest)


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the smallest JSON merge patch (RFC 7396) from `old` to `new`, empty for equal ones."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            inner = merge_patch(before, value)
            if inner:
                patch[name] = inner
        elif name not in old or before != value:
            patch[name] = value
    return patch
