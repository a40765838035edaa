"""Every kopf decorator, and nothing else: handlers hand over to the controller."""

from typing import Any

import kopf

from persona_jobs.api import GROUP, PLURAL, VERSION

from . import children, deletion
from . import kopf_settings as operator_settings
from .children import persona_of
from .reconcile import Persona
from .runtime import Runtime

PERSONAS = (GROUP, VERSION, PLURAL)
HPAS = ("autoscaling", "v2", "horizontalpodautoscalers")
PDBS = ("policy", "v1", "poddisruptionbudgets")


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: Runtime, **indexes: Any) -> None:
    """Configure kopf and start the controller."""
    operator_settings.configure(settings)
    owned = tuple(indexes[name] for name in ("config_maps", "services", "hpas", "pdbs"))
    jobs, pods, deployments = (indexes[name] for name in ("jobs", "pods", "deployments"))
    await memo.start(children.Indexes(jobs, pods, deployments, owned))


@kopf.on.cleanup()
async def stop(memo: Runtime, **_: Any) -> None:
    """Finish what is being done."""
    await memo.stop()


@kopf.on.login()
def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Log in as the kubernetes client does: service account, else KUBECONFIG."""
    return kopf.login_via_client(**kwargs)


@kopf.index("batch", "v1", "jobs")
def jobs(body: kopf.Body, **_: Any) -> Any:
    """Jobs by persona, and by stage and key."""
    return children.index_job(body)


@kopf.index("v1", "pods")
def pods(body: kopf.Body, **_: Any) -> Any:
    """Pods by Job, and by serving persona."""
    return children.index_pod(body)


@kopf.index("apps", "v1", "deployments")
def deployments(body: kopf.Body, **_: Any) -> Any:
    """Deployments by persona."""
    return children.index_deployment(body)


@kopf.index("v1", "configmaps")
def config_maps(body: kopf.Body, **_: Any) -> Any:
    """ConfigMaps by persona."""
    return children.index_owned("ConfigMap", body)


@kopf.index("v1", "services")
def services(body: kopf.Body, **_: Any) -> Any:
    """Services by persona."""
    return children.index_owned("Service", body)


@kopf.index(*HPAS)
def hpas(body: kopf.Body, **_: Any) -> Any:
    """HorizontalPodAutoscalers by persona."""
    return children.index_owned("HorizontalPodAutoscaler", body)


@kopf.index(*PDBS)
def pdbs(body: kopf.Body, **_: Any) -> Any:
    """PodDisruptionBudgets by persona."""
    return children.index_owned("PodDisruptionBudget", body)


@kopf.on.event(*PERSONAS)
async def persona_event(memo: Runtime, body: kopf.Body, type: str | None, **_: Any) -> None:
    """A PersonaModel appeared, changed or vanished."""
    memo.controller.persona_changed(body, deleted=type == "DELETED")


@kopf.on.event("batch", "v1", "jobs")
@kopf.on.event("v1", "pods")
@kopf.on.event("apps", "v1", "deployments")
@kopf.on.event("v1", "configmaps")
@kopf.on.event("v1", "services")
@kopf.on.event(*HPAS)
@kopf.on.event(*PDBS)
async def child_event(
    memo: Runtime, body: kopf.Body, resource: kopf.Resource, type: str | None, **_: Any
) -> None:
    """An object of a PersonaModel appeared, changed or vanished."""
    kind = resource.kind or resource.plural
    memo.controller.child_changed(kind, body, persona_of(body), deleted=type == "DELETED")


@kopf.on.delete(*PERSONAS, when=lambda spec, **_: spec.get("artifactPolicy") == "Delete")
async def delete(memo: Runtime, body: kopf.Body, started: Any, **_: Any) -> None:
    """Remove the artifacts of a deleted PersonaModel; kopf's finalizer holds it until then."""
    elapsed = operator_settings.seconds_since(started)
    await deletion.release(memo.controller, Persona.from_object(body), elapsed=elapsed)
