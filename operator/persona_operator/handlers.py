"""All kopf decorators and nothing else: every handler passes its work to the controller."""

from typing import Any

import kopf

from persona_jobs.api import GROUP, PLURAL, RECIPE_PLURAL, VERSION

from . import deletion, kopf_settings, owned_objects
from .owned_objects import Indexes, persona_of
from .reconcile import Persona
from .runtime import Runtime

PERSONAS = (GROUP, VERSION, PLURAL)
HPAS = ("autoscaling", "v2", "horizontalpodautoscalers")
PDBS = ("policy", "v1", "poddisruptionbudgets")


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: Runtime, **indexes: Any) -> None:
    """Configure kopf and start the controller."""
    kopf_settings.configure(settings)
    others = tuple(indexes[name] for name in ("config_maps", "services", "hpas", "pdbs"))
    names = ("jobs", "pods", "deployments", "rollout_waits")
    jobs, pods, deployments, rollout_waits = (indexes[name] for name in names)
    await memo.start(Indexes(jobs, pods, deployments, rollout_waits, others))


@kopf.on.cleanup()
async def stop(memo: Runtime, **_: Any) -> None:
    """Finish running reconciliations and stop the servers."""
    await memo.stop()


@kopf.on.login()
def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Log in as the kubernetes client does: service account, else KUBECONFIG."""
    return kopf.login_via_client(**kwargs)


@kopf.index("batch", "v1", "jobs")
def jobs(body: kopf.Body, **_: Any) -> Any:
    """Index Jobs by persona, and by stage and key."""
    return owned_objects.index_job(body)


@kopf.index("v1", "pods")
def pods(body: kopf.Body, **_: Any) -> Any:
    """Index pods by Job, and by serving persona."""
    return owned_objects.index_pod(body)


@kopf.index("apps", "v1", "deployments")
def deployments(body: kopf.Body, **_: Any) -> Any:
    """Index Deployments by persona."""
    return owned_objects.index_deployment(body)


@kopf.index(*PERSONAS)
def rollout_waits(body: kopf.Body, **_: Any) -> Any:
    """Index PersonaModels whose roll-out waits for others."""
    return owned_objects.index_rollout_wait(body)


@kopf.index("v1", "configmaps")
def config_maps(body: kopf.Body, **_: Any) -> Any:
    """Index ConfigMaps by persona."""
    return owned_objects.index_other("ConfigMap", body)


@kopf.index("v1", "services")
def services(body: kopf.Body, **_: Any) -> Any:
    """Index Services by persona."""
    return owned_objects.index_other("Service", body)


@kopf.index(*HPAS)
def hpas(body: kopf.Body, **_: Any) -> Any:
    """Index HorizontalPodAutoscalers by persona."""
    return owned_objects.index_other("HorizontalPodAutoscaler", body)


@kopf.index(*PDBS)
def pdbs(body: kopf.Body, **_: Any) -> Any:
    """Index PodDisruptionBudgets by persona."""
    return owned_objects.index_other("PodDisruptionBudget", body)


@kopf.on.event(*PERSONAS)
async def persona_event(memo: Runtime, body: kopf.Body, type: str | None, **_: Any) -> None:
    """Queue the PersonaModel that was created, changed or deleted."""
    memo.controller.persona_changed(body, deleted=type == "DELETED")


@kopf.on.event(GROUP, VERSION, RECIPE_PLURAL)
async def recipe_event(memo: Runtime, namespace: str | None, name: str | None, **_: Any) -> None:
    """Queue the PersonaModels of a PersonaRecipe that appeared, changed or vanished."""
    memo.controller.recipe_changed(namespace or "", name or "")


@kopf.on.event("batch", "v1", "jobs")
@kopf.on.event("v1", "pods")
@kopf.on.event("apps", "v1", "deployments")
@kopf.on.event("v1", "configmaps")
@kopf.on.event("v1", "services")
@kopf.on.event(*HPAS)
@kopf.on.event(*PDBS)
async def owned_object_event(
    memo: Runtime, body: kopf.Body, resource: kopf.Resource, type: str | None, **_: Any
) -> None:
    """Queue the PersonaModel whose object was created, changed or deleted."""
    kind = resource.kind or resource.plural
    memo.controller.owned_object_changed(kind, body, persona_of(body), deleted=type == "DELETED")


def may_delete_artifacts(spec: kopf.Spec, **_: Any) -> bool:
    """Return whether the artifacts of a PersonaModel may go with it: its recipe may say so."""
    policy = spec.get("artifactPolicy")
    return policy == "Delete" or (policy is None and spec.get("recipeRef") is not None)


@kopf.on.delete(*PERSONAS, when=may_delete_artifacts)
async def delete(memo: Runtime, body: kopf.Body, started: Any, **_: Any) -> None:
    """Remove the artifacts of a deleted PersonaModel; kopf's finalizer holds it until then."""
    controller = memo.controller
    persona = await controller.with_recipe(Persona.from_object(body))
    if persona.resource["spec"].get("artifactPolicy") != "Delete":
        return
    await deletion.release(
        persona,
        api=controller.api,
        settings=controller.settings,
        owned=controller.owned,
        other_personas=controller.other_personas,
        elapsed=kopf_settings.seconds_since(started),
    )
