"""What reconciling decides: actions on the cluster, the new status, events."""

from dataclasses import dataclass, field
from typing import Literal

from persona_jobs.api.status import PersonaModelStatus

from ..resources.common import Manifest


@dataclass(frozen=True)
class Create:
    """Make a Job; an existing one of the same name is left alone."""

    manifest: Manifest


@dataclass(frozen=True)
class Apply:
    """Apply an object server-side."""

    manifest: Manifest


@dataclass(frozen=True)
class Delete:
    """Remove an object, its dependents in the background."""

    kind: str
    name: str


@dataclass(frozen=True)
class SetSuspend:
    """Suspend a Job or let it go on."""

    job: str
    suspend: bool


Action = Create | Apply | Delete | SetSuspend


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
        actions: to be done in this order.
        status: the status to write.
        events: one for each transition.
        wake_after: seconds after which to reconcile again without any event, None for no need.
    """

    actions: tuple[Action, ...]
    status: PersonaModelStatus
    events: tuple[Event, ...] = ()
    wake_after: float | None = None


@dataclass
class PlanBuilder:
    """Collects actions and the earliest wake-up while the parts of a plan are worked out."""

    actions: list[Action] = field(default_factory=list)
    wake_after: float | None = None

    def act(self, action: Action) -> None:
        """Add one action."""
        self.actions.append(action)

    def wake(self, seconds: float) -> None:
        """Reconcile again after `seconds` at the latest."""
        seconds = max(seconds, 1.0)
        if self.wake_after is None or seconds < self.wake_after:
            self.wake_after = seconds
