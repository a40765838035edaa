"""Removes the stored artifacts of a deleted PersonaModel that no other one uses."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from persona_jobs.errors import InputError, PersonaError
from persona_jobs.pipeline import graph as pipeline
from persona_jobs.store import StageArtifacts, Store

from .apply import post_event
from .children import PersonaKey
from .controller import Controller
from .errors import ApiUnavailableError
from .reconcile import Event, Observed, Persona
from .reconcile.context import NotReconcilableError, resolve_spec
from .settings import Store as StoreSettings
from .store_access import StoreAccess, store_access
from .store_probe import open_own_store

logger = logging.getLogger(__name__)
RETRY_SECONDS = 10.0
StageKey = tuple[str, str]


@dataclass(frozen=True)
class Removal:
    """What came of removing artifacts.

    Attributes:
        removed: number of results removed.
        shared: number of results kept because another PersonaModel uses them.
    """

    removed: int
    shared: int


def used_keys(persona: Persona) -> set[StageKey]:
    """Every (stage, key) that a PersonaModel has made, reused, serves or is about to make."""
    status = persona.status
    keys = {(stage.name, stage.key) for stage in status.stages}
    keys |= {("slice", item.slice_key) for item in status.revisions}
    keys |= {("evaluate", item.evaluate_key) for item in status.revisions}
    for entry in status.finished_keys:
        stage, _, key = entry.partition("/")
        keys.add((stage, key))
    try:
        spec = resolve_spec(persona.manifest, Observed())
        keys |= {(str(stage.name), stage.key) for stage in pipeline.plan(spec)}
    except (NotReconcilableError, InputError):
        # A text in a ConfigMap: its keys are in the status once they mean anything.
        pass
    return keys


def removable_keys(persona: Persona, others: Iterable[Persona]) -> tuple[set[StageKey], int]:
    """The keys that only this PersonaModel uses, and how many it shares."""
    own = used_keys(persona)
    shared = set().union(*(used_keys(other) for other in others)) & own
    return own - shared, len(shared)


def remove_artifacts(store: Store, keys: Iterable[StageKey], persona: PersonaKey) -> int:
    """Remove results and the PersonaModel's pointer file; returns the number of results.

    Removing what isn't there is no error, so a removal that was cut short is simply repeated.

    Raises:
        PersonaError: the store can't be reached or refuses.
    """
    artifacts = StageArtifacts(store)
    count = 0
    for stage, key in sorted(keys):
        artifacts.delete(stage, key)
        count += 1
    store.delete(f"personas/{persona[0]}/{persona[1]}.json")
    return count


async def release(controller: Controller, persona: Persona, *, elapsed: float) -> None:
    """Remove the artifacts of a deleted PersonaModel, or give up after a bounded time.

    Args:
        controller: gives access to the cluster and the settings.
        persona: the deleted PersonaModel.
        elapsed: seconds since the first attempt.

    Raises:
        ApiUnavailableError: to be tried again: Jobs still run, or the store is away for now.
    """
    settings = controller.settings
    key = (persona.owner.namespace, persona.owner.name)
    last_chance = elapsed > settings.delete_timeout_seconds
    try:
        if not last_chance:
            await _stop_jobs(controller, key)
        left = max(settings.delete_timeout_seconds - elapsed, 5.0)
        event = await asyncio.wait_for(_remove(controller, persona, key), timeout=left)
    except (PersonaError, TimeoutError) as error:
        text = str(error) or "the store doesn't answer"
        if not last_chance:
            raise ApiUnavailableError(
                f"the artifacts can't be removed yet: {text}", delay=RETRY_SECONDS
            ) from None
        event = _retained(f"The store was away for too long ({text})")
    logger.info(event.message, extra={"namespace": key[0], "persona": key[1]})
    await post_event(controller.api, persona.owner, event)


async def _stop_jobs(controller: Controller, key: PersonaKey) -> None:
    """A running stage would write again what is being removed."""
    running = [job for job in controller.children.jobs(key, ()) if not job.ended]
    own = [job for job in running if (job.namespace, job.persona) == key]
    for job in own:
        await controller.api.delete("Job", job.namespace, job.name)
    if own:
        raise ApiUnavailableError("stage Jobs are being stopped", delay=2.0)


async def _remove(controller: Controller, persona: Persona, key: PersonaKey) -> Event:
    access = _access(persona, controller.settings.store)
    store = open_own_store(access, controller.settings.store) if access else None
    if store is None:
        return _retained("The operator has no credentials for this PersonaModel's store")
    keys, shared = removable_keys(persona, await controller.others(key))
    count = await asyncio.to_thread(remove_artifacts, store, keys, key)
    return Event(
        "Normal",
        "ArtifactsRemoved",
        f"{count} results were removed from {store.url}; {shared} are kept because other "
        "PersonaModels use them.",
    )


def _access(persona: Persona, default: StoreSettings) -> StoreAccess | None:
    from persona_jobs.api import Storage

    spec = persona.manifest.get("spec") or {}
    try:
        storage = Storage.model_validate(spec.get("storage") or {})
        return store_access(storage, default)
    except (ValueError, InputError):
        return None


def _retained(reason: str) -> Event:
    return Event("Warning", "ArtifactsRetained", f"{reason}; its artifacts stay in the store.")
