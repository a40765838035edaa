"""Observes, reconciles and applies; never twice at once for the same PersonaModel.

The handlers only report what has changed; every decision depends on the present state alone.
"""

import asyncio
import logging
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from persona_jobs.api import KIND, with_recipe
from persona_jobs.errors import InputError

from .capacity_queue import CapacityQueue
from .errors import ApiRefusedError, ApiUnavailableError
from .health import WatchHealth
from .kube_api import KubeApi
from .labels import key_label
from .metrics import OperatorMetrics
from .object_cache import TEXT_ELSEWHERE, PersonaKey
from .owned_objects import OwnedObjects
from .persona_texts import read_text
from .plan_writer import PlanWriter
from .profiles_file import ProfilesFile
from .reconcile import (
    Create,
    Observed,
    Persona,
    Plan,
    Problem,
    SetSuspend,
    Stored,
    reconcile,
)
from .reconcile.persona import recipe_reference
from .reconcile.resolution import TerminalError, planned_stages, resolve
from .rollout_queue import RolloutQueue
from .settings import Settings
from .store_access import store_access
from .store_probe import StoreProbe
from .synchronizer import Synchronizer
from .tables import Table
from .warning_events import WarningEvents
from .work_queue import WorkQueue

logger = logging.getLogger(__name__)
PROBLEM_RETRY_SECONDS = 10.0
# Events come in bursts: a pod ends, then its Job.
SETTLE_SECONDS = 0.05
# After a restart, PersonaModels that are ready are looked at within this time, the others at once.
RESTART_SPREAD_SECONDS = 30.0
# Time for the watches to begin; then what they missed before that is looked for.
FIRST_RESYNC_SECONDS = 30.0
# A persona text that is in a ConfigMap is looked at again; all of them together are not asked for
# more often than this.
TEXT_SECONDS = 2.0


class Controller:
    """Keeps every PersonaModel reconciled.

    Args:
        settings: the administrator's settings.
        api: the API server.
        owned: the objects that the operator owns.
        probe: looks up results in the store, where the operator has credentials.
        health: what the watches must deliver.
        metrics: Prometheus metrics.
    """

    def __init__(
        self,
        settings: Settings,
        api: KubeApi,
        owned: OwnedObjects,
        probe: StoreProbe,
        health: WatchHealth,
        metrics: OperatorMetrics,
    ) -> None:
        self.settings = settings
        self.api = api
        self.owned = owned
        self.probe = probe
        self.health = health
        self.metrics = metrics
        self._profiles = ProfilesFile(settings.profiles_file, settings.profiles)
        self._queue = WorkQueue(self._work)
        self._warnings = WarningEvents(api)
        self._writer = PlanWriter(api, owned, health, metrics)
        self._rollouts = RolloutQueue(
            time.monotonic, lambda: [key for _, key in owned.rollout_waits()]
        )
        self._capacity = CapacityQueue(time.monotonic, owned.active_jobs_in)
        self._failures: dict[PersonaKey, int] = {}
        self._resync_at: dict[PersonaKey, float] = {}
        self._verified: dict[PersonaKey, str | None] = {}
        self._waiting: Table[None] = Table()
        self._texts: deque[PersonaKey] = deque()
        self._synchronizer = Synchronizer(
            api, owned.cache, health, [*settings.namespaces] or [None]
        )
        self._background: list[asyncio.Task[None]] = []

    @property
    def queued(self) -> int:
        """Return how many PersonaModels wait for a reconciliation."""
        return self._queue.waiting

    # What the handlers call

    async def start(self) -> None:
        """Fill the cache, then start the periodic work.

        Raises:
            ApiUnavailableError, ApiRefusedError: the objects of some kind can't be listed.
        """
        self._read_profiles()
        await self._synchronizer.first_lists()
        documents = self.owned.cache.persona_documents()
        spread = min(RESTART_SPREAD_SECONDS, self.settings.resync_seconds)
        for document in sorted(documents, key=lambda item: item["metadata"]["creationTimestamp"]):
            metadata, settled = document["metadata"], _is_settled(document)
            delay = random.uniform(0, spread) if settled else 0  # noqa: S311 -- no secret
            self._queue.add((metadata["namespace"], metadata["name"]), delay)
        loop = asyncio.get_running_loop()
        first = min(FIRST_RESYNC_SECONDS, self.settings.resync_seconds)
        self._background = [
            loop.create_task(self._repeat(self.tick, self.settings.reconcile_interval_seconds)),
            loop.create_task(
                self._repeat(
                    self._synchronizer.check_watch, self.settings.watch_deadline_seconds / 2
                )
            ),
            loop.create_task(self._repeat(self._resync, self.settings.resync_seconds, first)),
        ]

    async def stop(self) -> None:
        """Finish running reconciliations and start no new ones."""
        for task in self._background:
            task.cancel()
        await self._queue.stop()
        self.probe.close()

    def object_changed(self, kind: str, document: Mapping[str, Any], *, deleted: bool) -> None:
        """Take over an object that a watch delivered, and queue the PersonaModels that need it."""
        metadata, cache = document["metadata"], self.owned.cache
        at = (metadata["namespace"], metadata["name"])
        version = str(metadata.get("resourceVersion", ""))
        self.health.seen((kind, *at), version, deleted=deleted)
        concerned, before = cache.concerned(kind, at), cache.jobs.get(at)
        if not (cache.remove(kind, at, version) if deleted else cache.observe(kind, document)):
            return
        if kind == KIND and deleted:
            self._forget(at)
            return
        for persona in {*concerned, *cache.concerned(kind, at)}:
            self._queue.add(persona, 0 if kind == KIND else SETTLE_SECONDS)
        after = cache.jobs.get(at)
        if kind != "Job":
            return
        self.owned.expectations.fulfil(*at)
        if after is not None and after.complete:
            self.probe.forget_absent((after.stage, after.key))
        if before is not None and before.active and not (after is not None and after.active):
            for persona in self._waiting.find((before.stage, key_label(before.key))):
                self._queue.add(persona, SETTLE_SECONDS)
            self._offer_places()

    def _offer_places(self) -> None:
        """Queue the PersonaModels that get the places of Jobs that have ended."""
        limit = self.settings.max_parallel_stages
        if limit is not None:
            for persona in self._capacity.offer(limit - self.owned.active_jobs()):
                self._queue.add(persona)

    # Periodic work

    async def _repeat(
        self, work: Callable[[], Awaitable[None]], seconds: float, first: float | None = None
    ) -> None:
        wait = seconds if first is None else first
        while True:
            await asyncio.sleep(wait)
            wait = seconds
            try:
                await work()
            except (ApiUnavailableError, ApiRefusedError) as error:
                logger.warning("The cluster's objects can't be listed: %s", error)
            except Exception:
                logger.exception("The periodic work failed")

    async def tick(self) -> None:
        """Read the profiles, and queue the PersonaModels that no event would reach."""
        if self._read_profiles():
            for persona in self.owned.cache.personas.identities():
                self._queue.add(persona)
        # Nothing watches the ConfigMaps of users, so their PersonaModels take turns.
        texts = self.owned.cache.personas.find(TEXT_ELSEWHERE)
        self._texts.extend(set(texts).difference(self._texts))
        for _ in range(max(1, int(self.settings.reconcile_interval_seconds / TEXT_SECONDS))):
            if self._texts:
                self._queue.add(self._texts.popleft())
        self.metrics.healthy.set(self.health.problem() is None)

    def _read_profiles(self) -> bool:
        """Read the profiles, and return whether they have changed."""
        before = self.settings.profiles
        self.settings = self.settings.model_copy(update={"profiles": self._profiles.read()})
        self.metrics.profiles_valid.set(self._profiles.valid)
        return self.settings.profiles != before

    async def _resync(self) -> None:
        for persona in await self._synchronizer.resync():
            self._queue.add(persona)

    def _forget(self, persona: PersonaKey) -> None:
        for record in (self._failures, self._resync_at, self._verified):
            record.pop(persona, None)
        self._waiting.remove(persona)
        self._capacity.record(persona, waits=False)
        self.metrics.forget(persona)
        self.health.forget((KIND, *persona))

    # One reconciliation

    async def _work(self, key: PersonaKey) -> None:
        started = time.monotonic()
        extra = {"namespace": key[0], "persona": key[1]}
        try:
            await self.reconcile(key)
            self._failures.pop(key, None)
        except ApiUnavailableError as error:
            self._retry(key, type(error).__name__, error.delay or 0)
            logger.warning("The reconciliation is postponed: %s", error, extra=extra)
        except ApiRefusedError as error:
            self._retry(key, type(error).__name__, PROBLEM_RETRY_SECONDS)
            logger.error("The API server refused the reconciliation: %s", error, extra=extra)  # noqa: TRY400
        except Exception as error:
            self._retry(key, type(error).__name__, PROBLEM_RETRY_SECONDS)
            logger.exception("The reconciliation failed", extra=extra)
        finally:
            self.metrics.reconcile_seconds.observe(time.monotonic() - started)

    def _retry(self, key: PersonaKey, error: str, delay: float) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self.metrics.reconcile_errors.labels(error).inc()
        self._queue.add(key, min(delay * 2 ** min(failures - 1, 5), 300.0))

    async def reconcile(self, key: PersonaKey) -> Plan | None:
        """Reconcile one PersonaModel and return the plan, None when it no longer exists.

        Raises:
            ApiUnavailableError: the API server can't be reached.
            ApiRefusedError: the API server refuses to read or to write the status.
        """
        document = self.owned.cache.persona(key)
        if document is None:
            self._forget(key)
            return None
        persona = Persona.from_object(document)
        if persona.deleting:
            return None
        text, recipe = await read_text(self.api, persona), self._recipe(persona)
        store, stages, stored = self._stored(persona, Observed(text=text, recipe=recipe))
        warnings = await self._warnings.read(self.owned.jobs(key, ()), self.owned.serving_pods(key))
        resync = time.monotonic() > self._resync_at.get(key, -math.inf)
        elsewhere = self.owned.finished_elsewhere(key, store, stages)
        # No await from here to the reservations: two PersonaModels can't both decide to start a
        # Job for the same key.
        observed = Observed(
            jobs=self.owned.jobs(key, stages),
            # Those that wait longer take their places first.
            active_jobs=self.owned.active_jobs() + self._capacity.ahead(key),
            deployment=self.owned.deployment(key),
            rollouts_ahead=self._rollouts.ahead(key, self.owned.rolling_out()),
            serving_pods=self.owned.serving_pods(key),
            owned=self.owned.checksums(key),
            text=text,
            recipe=recipe,
            stored=stored,
            finished_elsewhere=elsewhere,
            revisions_elsewhere=self.owned.revisions_elsewhere(key, store, elsewhere),
            warnings=warnings,
            resync=resync,
        )
        now = self.api.clock.now()
        plan = reconcile(persona, observed, self.settings, now)
        self._reserve(key, plan)
        problem, refused = await self._writer.apply(persona, plan)
        if problem is not None:
            # The status reports what was refused instead of what was planned.
            seen = replace(observed, problem=problem, refused_jobs=refused)
            plan = replace(reconcile(persona, seen, self.settings, now), actions=plan.actions)
        await self._writer.write_status(persona, plan)
        self._next(key, plan, problem, resync)
        return plan

    def with_recipe(self, persona: Persona) -> Persona:
        """Return a PersonaModel with the fields of its recipe, as far as it still exists."""
        recipe = self._recipe(persona)
        spec = recipe.get("spec") if recipe else None
        return replace(persona, resource=with_recipe(persona.resource, spec or {}))

    def _recipe(self, persona: Persona) -> Mapping[str, Any] | None:
        name = recipe_reference(persona.resource)
        return self.owned.cache.recipe((persona.owner.namespace, name)) if name else None

    def _stored(
        self, persona: Persona, observed: Observed
    ) -> tuple[str, list[tuple[str, str]], dict[tuple[str, str], Stored]]:
        """Return the store, the planned (stage, key) pairs, and which the store holds."""
        try:
            resolution = resolve(persona, observed, self.settings.profiles)
            access = store_access(resolution.spec.storage, self.settings.store)
            planned = planned_stages(persona, resolution, access.identity)
        except (TerminalError, InputError):
            return "", [], {}
        stages = [(stage.name, stage.key) for stage in planned]
        same_store = persona.status.store in {None, access.identity}
        done = {
            (item.name, item.key)
            for item in persona.status.stages
            if item.state == "Succeeded" and same_store
        }
        owner = persona.owner
        unknown = [stage for stage in stages if stage not in done]
        if persona.retry != persona.status.last_handled_retry:
            unknown = stages
            if self._verified.get((owner.namespace, owner.name)) != persona.retry:
                self._verified[(owner.namespace, owner.name)] = persona.retry
                self.probe.forget(access, stages)
        else:
            needed = {
                item
                for stage in planned
                if (stage.name, stage.key) in unknown
                for item in stage.inputs.items()
            }
            unknown += [stage for stage in stages if stage in needed and stage in done]
        if unknown:
            self.probe.refer(access, owner.uid, stages)
        stored = self.probe.look_up(
            access, unknown, lambda: self._queue.add((owner.namespace, owner.name))
        )
        return access.identity, stages, stored

    def _reserve(self, key: PersonaKey, plan: Plan) -> None:
        for action in plan.actions:
            if isinstance(action, Create):
                self.owned.expectations.reserve(action.manifest)
            elif isinstance(action, SetSuspend):
                self.owned.expectations.expect_suspend(key[0], action.job, action.suspend)
        self._rollouts.record(key, plan)
        shared = [
            (stage.name, key_label(stage.key))
            for stage in plan.status.stages
            if stage.reason == "WaitingForSharedStage"
        ]
        self._waiting.put(key, None, shared)
        waits = any(stage.reason == "WaitingForCapacity" for stage in plan.status.stages)
        self._capacity.record(key, waits=waits)

    def _next(self, key: PersonaKey, plan: Plan, problem: Problem | None, resync: bool) -> None:
        """Queue the next reconciliation that needs no event."""
        now = time.monotonic()
        if problem is not None:
            self._queue.add(key, PROBLEM_RETRY_SECONDS)
            self._offer_places()  # A refused Job takes none.
        elif resync:
            self._resync_at[key] = now + random.uniform(0.8, 1.2) * self.settings.resync_seconds  # noqa: S311 -- no secret
        if plan.wake_after is not None:
            self._queue.add(key, plan.wake_after)
        resync_at = self._resync_at.get(key, now + PROBLEM_RETRY_SECONDS)
        self._queue.add(key, max(resync_at - now, 1.0))

    # Deletion

    def other_personas(self, persona: PersonaKey) -> list[Persona]:
        """Return all other PersonaModels that the operator sees."""
        found = [Persona.from_object(item) for item in self.owned.cache.persona_documents()]
        return [item for item in found if (item.owner.namespace, item.owner.name) != persona]


def _is_settled(document: Mapping[str, Any]) -> bool:
    """Return whether a PersonaModel was ready for its present spec when its status was written."""
    status = document.get("status") or {}
    ready = any(
        item.get("type") == "Ready" and item.get("status") == "True"
        for item in status.get("conditions") or []
    )
    return ready and status.get("observedGeneration") == document["metadata"].get("generation")
