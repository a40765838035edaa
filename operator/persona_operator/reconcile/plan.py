"""The outcome of a reconciliation: actions on the cluster, the new status, Events."""

from dataclasses import dataclass, field
from typing import Literal

from persona_jobs.api.status import PersonaModelStatus

from ..resources.common import Manifest


@dataclass(frozen=True)
class Create:
    """Create a Job; an existing one of the same name stays as it is."""

    manifest: Manifest


@dataclass(frozen=True)
class Apply:
    """Apply an object server-side."""

    manifest: Manifest


@dataclass(frozen=True)
class Delete:
    """Delete an object, and its dependents in the background."""

    kind: str
    name: str


@dataclass(frozen=True)
class SetSuspend:
    """Suspend or resume a Job."""

    job: str
    suspend: bool


Action = Create | Apply | Delete | SetSuspend
RolloutStep = Literal["Starts", "Waits"]


@dataclass(frozen=True)
class Event:
    """One Kubernetes Event on the PersonaModel."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """The outcome of reconciling.

    Attributes:
        actions: to be carried out in this order.
        status: the status to write.
        events: one per transition.
        wake_after: seconds after which to reconcile again without any watch event; None for never.
        rollout: whether serving pods start to be replaced, or wait for other PersonaModels' pods.
    """

    actions: tuple[Action, ...]
    status: PersonaModelStatus
    events: tuple[Event, ...] = ()
    wake_after: float | None = None
    rollout: RolloutStep | None = None


@dataclass
class PlanBuilder:
    """Collects actions and the earliest wake-up while the parts of a plan are decided."""

    actions: list[Action] = field(default_factory=list)
    wake_after: float | None = None
    rollout: RolloutStep | None = None

    def act(self, action: Action) -> None:
        """Add an action."""
        self.actions.append(action)

    def wake(self, seconds: float) -> None:
        """Reconcile again after `seconds` at the latest."""
        seconds = max(seconds, 1.0)
        if self.wake_after is None or seconds < self.wake_after:
            self.wake_after = seconds
