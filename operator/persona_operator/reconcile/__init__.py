"""The heart of the operator: one pure function from the observed state to a plan."""

from .observed import ContainerState, Deployment, Job, Observed, PersonaText, Pod, Problem, Stored
from .persona import Persona
from .plan import Action, Apply, Create, Delete, Event, Plan, SetSuspend
from .reconciler import reconcile

__all__ = [
    "Action",
    "Apply",
    "ContainerState",
    "Create",
    "Delete",
    "Deployment",
    "Event",
    "Job",
    "Observed",
    "Persona",
    "PersonaText",
    "Plan",
    "Pod",
    "Problem",
    "SetSuspend",
    "Stored",
    "reconcile",
]
