"""What a reconciliation reads of every object in the cluster, and nothing else.

The operator lists each kind once at its start; from then on the watches and the answers to its own
writes keep the cache current. An object that is older than the cached one changes nothing, so the
order in which watches, lists and answers arrive doesn't matter.
"""

import json
import zlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from persona_jobs.api import KIND, RECIPE_KIND

from .labels import CHECKSUM_ANNOTATION, PERSONA_LABEL, key_label
from .reconcile import Deployment, Job, Pod
from .reconcile.persona import recipe_reference, text_reference
from .tables import Identity, Table

Raw = Mapping[str, Any]
PersonaKey = Identity
"""Namespace and name of a PersonaModel."""
OWNED_KINDS = (
    "Job",
    "Pod",
    "Deployment",
    "ConfigMap",
    "Service",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
)
KINDS = (KIND, RECIPE_KIND, *OWNED_KINDS)
REMEMBERED_DELETIONS = 1000
# Keys of the tables beside those with a name.
ACTIVE = "active"
ROLLING_OUT = "rolling out"
WAITS_FOR_ROLLOUT = "waits for its roll-out"
TEXT_ELSEWHERE = "text in a ConfigMap"


@dataclass(frozen=True)
class OwnedObject:
    """A Service, autoscaler, budget or ConfigMap of a PersonaModel."""

    kind: str
    name: str
    checksum: str


@dataclass(frozen=True)
class CachedPersona:
    """A PersonaModel: encoded, because a thousand decoded ones would fill the memory.

    Attributes:
        encoded: the object as JSON.
        uid: its uid.
        rollout_waiting_since: since when its new serving pods wait, empty where they don't.
    """

    encoded: bytes
    uid: str
    rollout_waiting_since: str


class ObjectCache:
    """Objects by kind, slimmed to what is read of them."""

    def __init__(self) -> None:
        self.jobs: Table[Job] = Table()
        self.pods: Table[Pod] = Table()
        self.deployments: Table[Deployment] = Table()
        self.personas: Table[CachedPersona] = Table()
        self._recipes: Table[bytes] = Table()
        self._others: dict[str, Table[OwnedObject]] = {
            kind: Table() for kind in OWNED_KINDS if kind not in {"Job", "Pod", "Deployment"}
        }
        self._tables: dict[str, Table[Any]] = {
            KIND: self.personas,
            RECIPE_KIND: self._recipes,
            "Job": self.jobs,
            "Pod": self.pods,
            "Deployment": self.deployments,
            **self._others,
        }
        self._versions: dict[str, dict[Identity, str]] = {kind: {} for kind in KINDS}
        self._owners: dict[str, dict[Identity, PersonaKey]] = {kind: {} for kind in KINDS}
        self._gone: OrderedDict[tuple[str, Identity], str] = OrderedDict()
        self._live: dict[tuple[str, Identity], bytes] = {}

    def observe(self, kind: str, document: Raw) -> bool:
        """Take over an object, and return whether anything that is read of it has changed."""
        metadata = document["metadata"]
        at = (metadata["namespace"], metadata["name"])
        version = str(metadata.get("resourceVersion", ""))
        if not self.is_older(kind, at, version):
            return False
        self._versions[kind][at] = version
        self._owners[kind][at] = (at[0], persona_of(document)) if kind in OWNED_KINDS else at
        table = self._tables[kind]
        value, keys = _slim(kind, document)
        if kind not in {KIND, RECIPE_KIND, "Job", "Pod"}:
            self._live[kind, at] = _live(document)
        before = table.get(at)
        table.put(at, value, keys)
        return bool(before != value)

    def remove(self, kind: str, at: Identity, version: str) -> bool:
        """Forget an object that is gone, unless a newer one has taken its name.

        Returns whether it was known.
        """
        known = self._versions[kind].get(at)
        if known is None or (known.isdigit() and version.isdigit() and int(known) > int(version)):
            return False
        del self._versions[kind][at], self._owners[kind][at]
        self._tables[kind].remove(at)
        self._live.pop((kind, at), None)
        # The answer to a write may arrive after the watch has shown that its object is gone.
        self._gone[kind, at] = version
        if len(self._gone) > REMEMBERED_DELETIONS:
            self._gone.popitem(last=False)
        return True

    def is_older(self, kind: str, at: Identity, version: str) -> bool:
        """Return whether an object is unknown, or the cached one older than `version`."""
        known = self._versions[kind].get(at) or self._gone.get((kind, at))
        return known is None or _newer(version, known)

    def identities(self, kind: str, namespace: str | None) -> list[Identity]:
        """Return what the objects of a kind are called, in one namespace or in all."""
        return [at for at in self._versions[kind] if namespace in {None, at[0]}]

    def concerned(self, kind: str, at: Identity) -> list[PersonaKey]:
        """Return the PersonaModels that depend on an object."""
        if kind == RECIPE_KIND:
            return self.followers(at)
        owner = self._owners[kind].get(at)
        return [owner] if owner else []

    # Look-ups

    def persona(self, at: PersonaKey) -> dict[str, Any] | None:
        """Return a PersonaModel as the API server sent it, without its managed fields."""
        found = self.personas.get(at)
        return json.loads(found.encoded) if found else None

    def persona_documents(self) -> list[dict[str, Any]]:
        """Return all PersonaModels."""
        found = [self.persona(at) for at in self.personas.identities()]
        return [document for document in found if document is not None]

    def recipe(self, at: Identity) -> dict[str, Any] | None:
        """Return a PersonaRecipe, None where there is none."""
        found = self._recipes.get(at)
        return json.loads(found) if found else None

    def followers(self, recipe: Identity) -> list[PersonaKey]:
        """Return the PersonaModels that name a PersonaRecipe."""
        return list(self.personas.find(("recipe", *recipe)))

    def others(self, persona: PersonaKey) -> list[OwnedObject]:
        """Return the persona's Services, autoscalers, budgets and ConfigMaps."""
        return [item for table in self._others.values() for item in table.find(persona).values()]

    def live(self, kind: str, at: Identity) -> dict[str, Any] | None:
        """Return an applied object without its status and managed fields, None if unknown."""
        found = self._live.get((kind, at))
        return json.loads(zlib.decompress(found)) if found else None


def persona_of(document: Raw) -> str:
    """Return the name of the PersonaModel that an object belongs to."""
    labels = document["metadata"].get("labels") or {}
    return str(labels.get(PERSONA_LABEL, ""))


def _newer(version: str, than: str) -> bool:
    if version.isdigit() and than.isdigit():
        return int(version) > int(than)
    return version != than


def _slim(kind: str, document: Raw) -> tuple[Any, tuple[Hashable, ...]]:
    """Return what is kept of an object, and the keys under which it is found."""
    metadata = document["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    persona = (namespace, persona_of(document))
    match kind:
        case "Job":
            job = Job.from_object(document)
            keys: list[Hashable] = [("persona", *persona), ("key", job.stage, key_label(job.key))]
            return job, (*keys, ACTIVE, (ACTIVE, namespace)) if job.active else tuple(keys)
        case "Pod":
            pod = Pod.from_object(document)
            return pod, (("job", namespace, pod.job) if pod.job else ("serving", *persona),)
        case "Deployment":
            deployment = Deployment.from_object(document)
            return deployment, (persona, ROLLING_OUT) if deployment.rolling_out else (persona,)
        case _ if kind == RECIPE_KIND:
            return _encode(document), ()
        case _ if kind == KIND:
            return _slim_persona(document)
        case _:
            checksum = (metadata.get("annotations") or {}).get(CHECKSUM_ANNOTATION, "")
            return OwnedObject(kind, name, checksum), (persona,)


def _slim_persona(document: Raw) -> tuple[CachedPersona, tuple[Hashable, ...]]:
    metadata = document["metadata"]
    status = document.get("status") or {}
    serving = status.get("serving") or {}
    since = str(serving.get("rolloutWaitingSince") or "")
    keys: list[Hashable] = []
    if since:
        keys.append(WAITS_FOR_ROLLOUT)
    recipe = recipe_reference(document)
    if recipe is not None:
        keys.append(("recipe", metadata["namespace"], recipe))
    if text_reference(document) is not None:
        keys.append(TEXT_ELSEWHERE)
    keys += [
        ("finished", status.get("store"), str(key)) for key in status.get("finishedKeys") or []
    ]
    return CachedPersona(_encode(document), metadata.get("uid", ""), since), tuple(keys)


def _encode(document: Raw) -> bytes:
    """Return an object as JSON; what changes with every write is compared by version alone."""
    metadata = {k: v for k, v in document["metadata"].items() if k != "managedFields"}
    return json.dumps({**document, "metadata": metadata}).encode()


def _live(document: Raw) -> bytes:
    metadata = document["metadata"]
    kept = ("name", "namespace", "labels", "annotations", "ownerReferences")
    slim = {k: v for k, v in document.items() if k not in {"metadata", "status"}}
    slim["metadata"] = {k: metadata[k] for k in kept if k in metadata}
    return zlib.compress(json.dumps(slim).encode(), 1)
