"""Carries plans out, and takes over what the API server answers: no watch is awaited for that."""

import logging
from collections.abc import Mapping
from typing import Any

from .apply import apply_action, post_event, write_status
from .errors import ApiRefusedError, ApiUnavailableError
from .health import WatchHealth
from .kube_api import KubeApi
from .labels import STAGE_LABEL
from .metrics import OperatorMetrics
from .owned_objects import OwnedObjects
from .reconcile import Create, Persona, Plan, Problem, SetSuspend

logger = logging.getLogger(__name__)
_REASONS = {"Forbidden": "Forbidden", "Invalid": "ManifestRejected", "NameTaken": "NameTaken"}


class PlanWriter:
    """Writes what plans say to the cluster.

    Args:
        api: the API server.
        owned: takes over the written objects.
        health: learns what the watches have to deliver.
        metrics: counts ended stages.
    """

    def __init__(
        self, api: KubeApi, owned: OwnedObjects, health: WatchHealth, metrics: OperatorMetrics
    ) -> None:
        self._api = api
        self._owned = owned
        self._health = health
        self._metrics = metrics

    async def apply(self, persona: Persona, plan: Plan) -> tuple[Problem | None, frozenset[str]]:
        """Carry out the plan's actions; a refused one doesn't stop the others.

        Returns the first refusal, and the names of the Jobs that were refused.
        """
        problem: Problem | None = None
        refused = set()
        namespace = persona.owner.namespace
        for action in plan.actions:
            try:
                document = await apply_action(self._api, persona.owner, action, self._owned.cache)
            except ApiUnavailableError:
                self._withdraw(namespace, plan)
                raise
            except ApiRefusedError as error:
                if isinstance(action, SetSuspend):
                    self._owned.expectations.withdraw_suspend(namespace, action.job)
                if isinstance(action, Create):
                    refused.add(action.manifest["metadata"]["name"])
                    self._owned.expectations.fulfil(namespace, action.manifest["metadata"]["name"])
                reason = _REASONS.get(error.reason, "ApplyFailed")
                problem = problem or Problem(reason, error.message)
                continue
            if document is not None:
                self._written(document)
            if isinstance(action, Create) and document is not None:
                metadata = document["metadata"]
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
                self._owned.expectations.withdraw_suspend(namespace, action.job)

    def _written(self, document: Mapping[str, Any]) -> None:
        """Take over the answer to a write, and expect the watch to deliver it too."""
        kind, metadata = document["kind"], document["metadata"]
        at = (metadata["namespace"], metadata["name"])
        self._owned.cache.observe(kind, document)
        self._health.expect((kind, *at), str(metadata["resourceVersion"]))
        if kind == "Job":
            self._owned.expectations.fulfil(*at)

    async def write_status(self, persona: Persona, plan: Plan) -> None:
        """Write the plan's status, and post an Event for each transition."""
        owner = persona.owner
        status = plan.status.model_dump(mode="json", by_alias=True, exclude_none=True)
        written = await write_status(self._api, persona, status)
        if written is not None:
            self._written(written)
        self._metrics.observe((owner.namespace, owner.name), persona.status, plan.status)
        for event in plan.events:
            logger.info(
                "%s: %s",
                event.reason,
                event.message,
                extra={"namespace": owner.namespace, "persona": owner.name},
            )
            await post_event(self._api, owner, event)
