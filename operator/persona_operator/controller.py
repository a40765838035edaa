"""Observes, reconciles and applies; never twice at once for the same PersonaModel.

The handlers only report what has changed; every decision depends on the present state alone.
"""

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from persona_jobs.api import KIND, RECIPE_KIND, with_recipe
from persona_jobs.errors import InputError

from .apply import apply_action, post_event, write_status
from .errors import ApiRefusedError, ApiUnavailableError
from .health import WatchHealth
from .kube_api import KubeApi
from .labels import KEY_LABEL, STAGE_LABEL, key_label
from .metrics import OperatorMetrics
from .owned_objects import OwnedObjects, PersonaKey
from .profiles_file import ProfilesFile
from .reconcile import (
    Create,
    Job,
    Observed,
    Persona,
    PersonaText,
    Plan,
    Problem,
    SetSuspend,
    Stored,
    reconcile,
)
from .reconcile.persona import recipe_reference, text_reference
from .reconcile.resolution import TerminalError, planned_stages, resolve
from .rollout_queue import RolloutQueue
from .settings import Settings
from .store_access import store_access
from .store_probe import StoreProbe
from .warning_events import WarningEvents
from .work_queue import WorkQueue

logger = logging.getLogger(__name__)
PROBLEM_RETRY_SECONDS = 30.0
_REASONS = {"Forbidden": "Forbidden", "Invalid": "ManifestRejected", "NameTaken": "NameTaken"}


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
        self._rollouts = RolloutQueue(
            time.monotonic, lambda: [key for _, key in owned.rollout_waits()]
        )
        self._failures: dict[PersonaKey, int] = {}
        self._resynced: dict[PersonaKey, float] = {}
        self._waiting: dict[PersonaKey, set[tuple[str, str]]] = {}
        self._recipes: dict[PersonaKey, str] = {}
        self._indexed = asyncio.Event()
        self._ticker: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """Return how many PersonaModels wait for a reconciliation."""
        return self._queue.waiting

    # What the handlers call

    def start(self) -> None:
        """Start the periodic reconciliation."""
        self._ticker = asyncio.get_running_loop().create_task(self._tick_forever())

    async def stop(self) -> None:
        """Finish running reconciliations and start no new ones."""
        if self._ticker:
            self._ticker.cancel()
        await self._queue.stop()

    def persona_changed(self, document: Mapping[str, Any], *, deleted: bool) -> None:
        """Queue a PersonaModel that a watch delivered."""
        # Handlers run only once all indexes are filled: from here on an unlisted Job doesn't exist.
        self._indexed.set()
        metadata = document["metadata"]
        persona = (metadata["namespace"], metadata["name"])
        version = metadata.get("resourceVersion", "")
        self.health.seen((KIND, *persona), version, deleted=deleted)
        if deleted:
            self._forget(persona)
        else:
            self._queue.add(persona)

    def recipe_changed(self, namespace: str, name: str) -> None:
        """Queue the PersonaModels that name a recipe."""
        for persona, recipe in self._recipes.items():
            if (persona[0], recipe) == (namespace, name):
                self._queue.add(persona)

    def owned_object_changed(
        self, kind: str, document: Mapping[str, Any], persona: str, *, deleted: bool
    ) -> None:
        """Queue the PersonaModels that depend on an object that a watch delivered."""
        self._indexed.set()
        metadata = document["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        version = metadata.get("resourceVersion", "")
        self.health.seen((kind, namespace, name), version, deleted=deleted)
        if kind == "Job":
            self.owned.expectations.fulfil(namespace, name)
            job = Job.from_object(document)
            if job.complete:
                self.probe.forget_absent((job.stage, job.key))
        self._queue.add((namespace, persona))
        labels = metadata.get("labels") or {}
        at = (labels.get(STAGE_LABEL, ""), labels.get(KEY_LABEL, ""))
        for other, waiting in self._waiting.items():
            if at in waiting:
                self._queue.add(other)

    # Periodic work

    async def _tick_forever(self) -> None:
        while True:
            try:
                await self.tick()
            except (ApiUnavailableError, ApiRefusedError) as error:
                logger.warning("The PersonaModels can't be listed: %s", error)
            except Exception:
                logger.exception("The periodic reconciliation failed")
            await asyncio.sleep(self.settings.reconcile_interval_seconds)

    async def tick(self) -> None:
        """Read the profiles, queue every PersonaModel, record what the watches have to deliver."""
        self.settings = self.settings.model_copy(update={"profiles": self._profiles.read()})
        self.metrics.profiles_valid.set(self._profiles.valid)
        found: set[PersonaKey] = set()
        for namespace in self._namespaces():
            for document in await self.api.find(KIND, namespace):
                metadata = document["metadata"]
                persona = (metadata["namespace"], metadata["name"])
                found.add(persona)
                self.health.expect((KIND, *persona), metadata["resourceVersion"])
                if self._indexed.is_set():
                    self._queue.add(persona)
        for persona in set(self._resynced) - found:
            self._forget(persona)
        self.metrics.healthy.set(self.health.problem() is None)

    def _namespaces(self) -> list[str | None]:
        """Return the watched namespaces; None alone stands for all of them."""
        return [*self.settings.namespaces] or [None]

    def _forget(self, persona: PersonaKey) -> None:
        for record in (self._failures, self._resynced, self._waiting, self._recipes):
            record.pop(persona, None)
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
        document = await self.api.get(KIND, *key)
        if document is None:
            self._forget(key)
            return None
        persona = Persona.from_object(document)
        if persona.deleting:
            return None
        text, recipe = await self._text(persona), await self._recipe(persona)
        stages, stored = self._stored(persona, Observed(text=text, recipe=recipe))
        warnings = await self._warnings.read(self.owned.jobs(key, ()), self.owned.serving_pods(key))
        resync = (
            time.monotonic() - self._resynced.get(key, -math.inf) > self.settings.resync_seconds
        )
        # No await from here to the reservations: two PersonaModels can't both decide to start a
        # Job for the same key.
        observed = Observed(
            jobs=self.owned.jobs(key, stages),
            active_jobs=self.owned.active_jobs(),
            deployment=self.owned.deployment(key),
            rollouts_ahead=self._rollouts.ahead(key, self.owned.rolling_out()),
            serving_pods=self.owned.serving_pods(key),
            owned=self.owned.checksums(key),
            text=text,
            recipe=recipe,
            stored=stored,
            warnings=warnings,
            resync=resync,
        )
        now = datetime.now(UTC)
        plan = reconcile(persona, observed, self.settings, now)
        self._reserve(key, plan)
        problem, refused = await self._apply(persona, plan)
        if problem is not None:
            # The status reports what was refused instead of what was planned.
            seen = replace(observed, problem=problem, refused_jobs=refused)
            plan = replace(reconcile(persona, seen, self.settings, now), actions=plan.actions)
        self._remember(key, problem, resync)
        await self._write(persona, plan)
        if plan.wake_after is not None:
            self._queue.add(key, plan.wake_after)
        return plan

    async def _text(self, persona: Persona) -> PersonaText | None:
        reference = text_reference(persona.resource)
        if reference is None:
            return None
        name, entry = reference
        found = await self.api.get("ConfigMap", persona.owner.namespace, name)
        if found is None:
            problem = f"ConfigMap {name} doesn't exist in this namespace. Create it."
            return PersonaText(problem=problem)
        text = (found.get("data") or {}).get(entry)
        if not isinstance(text, str):
            return PersonaText(problem=f"ConfigMap {name} has no key {entry}. Add it.")
        return PersonaText(text=text)

    async def with_recipe(self, persona: Persona) -> Persona:
        """Return a PersonaModel with the fields of its recipe, as far as it still exists."""
        recipe = await self._recipe(persona)
        spec = recipe.get("spec") if recipe else None
        return replace(persona, resource=with_recipe(persona.resource, spec or {}))

    async def _recipe(self, persona: Persona) -> Mapping[str, Any] | None:
        name = recipe_reference(persona.resource)
        if name is None:
            self._recipes.pop((persona.owner.namespace, persona.owner.name), None)
            return None
        self._recipes[(persona.owner.namespace, persona.owner.name)] = name
        return await self.api.get(RECIPE_KIND, persona.owner.namespace, name)

    def _stored(
        self, persona: Persona, observed: Observed
    ) -> tuple[list[tuple[str, str]], dict[tuple[str, str], Stored]]:
        """Return the planned (stage, key) pairs, and which unfinished ones the store holds."""
        try:
            resolution = resolve(persona, observed, self.settings.profiles)
            access = store_access(resolution.spec.storage, self.settings.store)
            planned = planned_stages(persona, resolution, access.identity)
        except (TerminalError, InputError):
            return [], {}
        stages = [(stage.name, stage.key) for stage in planned]
        same_store = persona.status.store in {None, access.identity}
        done = {
            (item.name, item.key)
            for item in persona.status.stages
            if item.state == "Succeeded" and same_store
        }
        owner = persona.owner
        unknown = [stage for stage in stages if stage not in done]
        stored = self.probe.look_up(
            access, unknown, lambda: self._queue.add((owner.namespace, owner.name))
        )
        return stages, stored

    def _reserve(self, key: PersonaKey, plan: Plan) -> None:
        for action in plan.actions:
            if isinstance(action, Create):
                self.owned.expectations.reserve(action.manifest)
            elif isinstance(action, SetSuspend):
                self.owned.expectations.expect_suspend(key[0], action.job, action.suspend)
        self._rollouts.record(key, plan)
        self._waiting[key] = {
            (stage.name, key_label(stage.key))
            for stage in plan.status.stages
            if stage.reason == "WaitingForSharedStage"
        }

    async def _apply(self, persona: Persona, plan: Plan) -> tuple[Problem | None, frozenset[str]]:
        """Carry out the plan's actions; a refused one doesn't stop the others.

        Returns the first refusal, and the names of the Jobs that were refused.
        """
        problem: Problem | None = None
        refused = set()
        namespace = persona.owner.namespace
        for action in plan.actions:
            try:
                created = await apply_action(self.api, persona.owner, action)
            except ApiUnavailableError:
                self._withdraw(namespace, plan)
                raise
            except ApiRefusedError as error:
                if isinstance(action, SetSuspend):
                    self.owned.expectations.withdraw_suspend(namespace, action.job)
                if isinstance(action, Create):
                    refused.add(action.manifest["metadata"]["name"])
                    self.owned.expectations.fulfil(namespace, action.manifest["metadata"]["name"])
                reason = _REASONS.get(error.reason, "ApplyFailed")
                problem = problem or Problem(reason, error.message)
                continue
            if isinstance(action, Create) and created:
                metadata = created["metadata"]
                job = ("Job", namespace, metadata["name"])
                self.health.expect(job, metadata["resourceVersion"])
                logger.info(
                    "Job %s started",
                    metadata["name"],
                    extra={
                        "namespace": namespace,
                        "persona": persona.owner.name,
                        "stage": metadata["labels"][STAGE_LABEL],
                    },
                )
        return problem, frozenset(refused)

    def _withdraw(self, namespace: str, plan: Plan) -> None:
        """Expect no more that Jobs are suspended or resumed: the plan is computed again."""
        for action in plan.actions:
            if isinstance(action, SetSuspend):
                self.owned.expectations.withdraw_suspend(namespace, action.job)

    def _remember(self, key: PersonaKey, problem: Problem | None, resync: bool) -> None:
        if problem is not None:
            self._queue.add(key, PROBLEM_RETRY_SECONDS)
            self._resynced.setdefault(key, -math.inf)
        elif resync:
            self._resynced[key] = time.monotonic()

    async def _write(self, persona: Persona, plan: Plan) -> None:
        owner = persona.owner
        status = plan.status.model_dump(mode="json", by_alias=True, exclude_none=True)
        version = await write_status(self.api, persona, status)
        if version is not None:
            self.health.expect((KIND, owner.namespace, owner.name), version)
        self.metrics.observe((owner.namespace, owner.name), persona.status, plan.status)
        for event in plan.events:
            logger.info(
                "%s: %s",
                event.reason,
                event.message,
                extra={"namespace": owner.namespace, "persona": owner.name},
            )
            await post_event(self.api, owner, event)

    # Deletion

    async def other_personas(self, persona: PersonaKey) -> list[Persona]:
        """Return all other PersonaModels that the operator sees."""
        found = []
        for namespace in self._namespaces():
            found += [Persona.from_object(item) for item in await self.api.find(KIND, namespace)]
        return [item for item in found if (item.owner.namespace, item.owner.name) != persona]
