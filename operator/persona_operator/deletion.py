"""Removes the stored artifacts of a deleted PersonaModel that nobody else uses.

Who uses what is in the store itself, as other clusters may share it.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from persona_jobs.api import Storage
from persona_jobs.errors import InputError, PersonaError
from persona_jobs.pipeline.graph import KEPT_WORK, kept_beside
from persona_jobs.pipeline.references import planned_keys, read_references, remove_references
from persona_jobs.pipeline.revisions import pointer_path, revisions_folder
from persona_jobs.store import StageArtifacts, Store

from .apply import post_event
from .errors import RemovalPendingError
from .kube_api import KubeApi
from .object_cache import PersonaKey
from .owned_objects import OwnedObjects
from .reconcile import Event, Observed, Persona
from .reconcile.resolution import TerminalError, resolve
from .settings import Profile, Settings
from .settings import Store as StoreSettings
from .store_access import StoreAccess, store_access
from .store_probe import StageKey, open_own_store

logger = logging.getLogger(__name__)
OtherPersonas = Callable[[PersonaKey], list[Persona]]


def used_keys(persona: Persona, profiles: Mapping[str, Profile]) -> set[StageKey]:
    """Return every (stage, key) that a PersonaModel has produced, reuses, serves or plans."""
    status = persona.status
    keys = {(stage.name, stage.key) for stage in status.stages}
    keys |= {(made.stage, made.key) for item in status.revisions for made in item.artifacts}
    for entry in status.finished_keys:
        stage, _, key = entry.partition("/")
        keys.add((stage, key))
    try:
        resolution = resolve(persona, Observed(), profiles)
        keys |= set() if resolution.missing else planned_keys(resolution.spec)
    except (TerminalError, InputError):
        # The text is in a ConfigMap: once a stage has started, its key is in the status.
        pass
    return keys


def remove_artifacts(
    store: Store,
    persona: Persona,
    others: Iterable[Persona],
    profiles: Mapping[str, Profile],
) -> tuple[int, int]:
    """Remove what only this PersonaModel uses, and return how many results went and stayed.

    Its own references go first: of two PersonaModels that are deleted at once, the last one removes
    what both of them used. Removing an absent result is no error, so an interrupted removal is
    simply repeated.

    Args:
        store: the artifact store.
        persona: the deleted PersonaModel.
        others: the other PersonaModels that the operator sees; others yet are in the store.
        profiles: the administrator's resource profiles.

    Raises:
        PersonaError: the store can't be reached or refuses.
    """
    owner = persona.owner
    mine = used_keys(persona, profiles) | read_references(store, owner.uid).get(owner.uid, set())
    remove_references(store, owner.uid)
    held: set[StageKey] = set().union(*read_references(store).values())
    for other in others:
        if not (other.deleting and other.resource["spec"].get("artifactPolicy") == "Delete"):
            held |= used_keys(other, profiles)
    mine |= kept_beside(mine)
    held |= kept_beside(held)
    artifacts = StageArtifacts(store)
    for stage, key in sorted(mine - held):
        artifacts.delete(stage, key)
    shared = mine & held
    if not any(stage == "slice" for stage, _ in shared):
        # Another cluster may have a PersonaModel of this name: then the record is its too.
        store.delete(pointer_path(owner.namespace, owner.name))
        store.delete_prefix(revisions_folder(owner.namespace, owner.name))
    return _results(mine - held), _results(shared)


def _results(keys: set[StageKey]) -> int:
    return sum(stage not in KEPT_WORK for stage, _ in keys)


async def release(
    persona: Persona,
    *,
    api: KubeApi,
    settings: Settings,
    owned: OwnedObjects,
    other_personas: OtherPersonas,
    elapsed: float,
) -> None:
    """Remove the artifacts of a deleted PersonaModel, or give up after a bounded time.

    Args:
        persona: the deleted PersonaModel.
        api: the API server.
        settings: the administrator's settings.
        owned: finds the stage Jobs that still run.
        other_personas: returns all PersonaModels but the named one.
        elapsed: seconds since the first attempt.

    Raises:
        RemovalPendingError: Jobs still run, or the store is unreachable for now.
    """
    key = (persona.owner.namespace, persona.owner.name)
    last_chance = elapsed > settings.delete_timeout_seconds
    try:
        if not last_chance:
            await _stop_jobs(api, owned, key)
        left = max(settings.delete_timeout_seconds - elapsed, 5.0)
        removal = _remove(persona, settings, key, other_personas)
        event = await asyncio.wait_for(removal, timeout=left)
    except (PersonaError, TimeoutError) as error:
        reason = str(error) or "the store doesn't answer"
        if not last_chance:
            raise RemovalPendingError(f"The artifacts can't be removed yet: {reason}") from None
        event = _retained(f"The store was unreachable for too long ({reason})")
    logger.info(event.message, extra={"namespace": key[0], "persona": key[1]})
    await post_event(api, persona.owner, event)


async def _stop_jobs(api: KubeApi, owned: OwnedObjects, key: PersonaKey) -> None:
    """Delete running Jobs: a running stage would write what is being removed once more."""
    running = [job for job in owned.jobs(key, ()) if not job.ended]
    own = [job for job in running if (job.namespace, job.persona) == key]
    for job in own:
        await api.delete("Job", job.namespace, job.name)
    if own:
        raise RemovalPendingError("The stage Jobs are being stopped", delay=2.0)


async def _remove(
    persona: Persona, settings: Settings, key: PersonaKey, other_personas: OtherPersonas
) -> Event:
    access = _access(persona, settings.store)
    store = open_own_store(access, settings.store) if access else None
    if store is None:
        return _retained("The operator has no credentials for this PersonaModel's store")
    count, shared = await asyncio.to_thread(
        remove_artifacts, store, persona, other_personas(key), settings.profiles
    )
    return Event(
        "Normal",
        "ArtifactsRemoved",
        f"{count} results were removed from {store.url}; {shared} are kept because others use "
        "them.",
    )


def _access(persona: Persona, default: StoreSettings) -> StoreAccess | None:
    spec = persona.resource.get("spec") or {}
    try:
        storage = Storage.model_validate(spec.get("storage") or {})
        return store_access(storage, default)
    except (ValueError, InputError):
        return None


def _retained(reason: str) -> Event:
    return Event("Warning", "ArtifactsRetained", f"{reason}; its artifacts stay in the store.")
