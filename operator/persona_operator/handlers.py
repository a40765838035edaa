"""All kopf decorators and nothing else: every handler passes its work to the controller."""

from typing import Any

import kopf

from persona_jobs.api import GROUP, PLURAL, RECIPE_PLURAL, VERSION

from . import deletion, kopf_settings
from .reconcile import Persona
from .runtime import Runtime

PERSONAS = (GROUP, VERSION, PLURAL)
HPAS = ("autoscaling", "v2", "horizontalpodautoscalers")
PDBS = ("policy", "v1", "poddisruptionbudgets")


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: Runtime, **_: Any) -> None:
    """Configure kopf and start the controller; kopf watches nothing before this has returned."""
    kopf_settings.configure(settings)
    await memo.start()


@kopf.on.cleanup()
async def stop(memo: Runtime, **_: Any) -> None:
    """Finish running reconciliations and stop the servers."""
    await memo.stop()


@kopf.on.login()
def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Log in as the kubernetes client does: service account, else KUBECONFIG."""
    return kopf.login_via_client(**kwargs)


@kopf.on.event(*PERSONAS)
@kopf.on.event(GROUP, VERSION, RECIPE_PLURAL)
@kopf.on.event("batch", "v1", "jobs")
@kopf.on.event("v1", "pods")
@kopf.on.event("apps", "v1", "deployments")
@kopf.on.event("v1", "configmaps")
@kopf.on.event("v1", "services")
@kopf.on.event(*HPAS)
@kopf.on.event(*PDBS)
async def object_event(
    memo: Runtime, body: kopf.Body, resource: kopf.Resource, type: str | None, **_: Any
) -> None:
    """Take over an object that was created, changed or deleted."""
    kind = resource.kind or resource.plural
    memo.controller.object_changed(kind, dict(body), deleted=type == "DELETED")


def may_delete_artifacts(spec: kopf.Spec, **_: Any) -> bool:
    """Return whether the artifacts of a PersonaModel may go with it: its recipe may say so."""
    policy = spec.get("artifactPolicy")
    return policy == "Delete" or (policy is None and spec.get("recipeRef") is not None)


@kopf.on.delete(*PERSONAS, when=may_delete_artifacts)
async def delete(memo: Runtime, body: kopf.Body, started: Any, **_: Any) -> None:
    """Remove the artifacts of a deleted PersonaModel; kopf's finalizer holds it until then."""
    controller = memo.controller
    persona = controller.with_recipe(Persona.from_object(body))
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
