"""The reconciler on a FakeCluster: what the operator does, without any I/O."""

import copy
import json
from typing import Any

from persona_jobs.api import API_VERSION, KIND, RECIPE_KIND, PersonaModelSpec, parse_resource
from persona_jobs.pipeline.number_format import with_number_format
from persona_jobs.pipeline.pins import pin_sources
from persona_operator.labels import CHECKSUM_ANNOTATION, SUSPENDED_ANNOTATION
from persona_operator.reconcile import (
    Apply,
    Create,
    Delete,
    Deployment,
    Job,
    Observed,
    Persona,
    PersonaText,
    Plan,
    Pod,
    SetSuspend,
    Stored,
    reconcile,
)
from persona_operator.settings import Settings
from support.fake_cluster import (
    START,
    FakeCluster,
    Raw,
    failed_message,
    job_ended,
    success_message,
)

NAMESPACE = "stories"
# A source that is pinned needs no lookup.
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OWNED = ("ConfigMap", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget")


def settings(**changes: Any) -> Settings:
    document: Raw = {
        "jobsImage": "registry.example/jobs:1",
        "store": {"uri": "s3://models/personas", "credentialsSecret": "store"},
        "profiles": {
            "default": {"cpu": "1", "memory": "4Gi"},
            "gpu": {"cpu": "4", "memory": "32Gi", "gpus": 1},
        },
        **changes,
    }
    return Settings.model_validate(document)


def persona_document(name: str = "captain", **spec: Any) -> Raw:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "persona": {"text": f"You are {name}, an old sailor."},
            "baseModel": {"uri": "hf://org/model", "revision": COMMIT},
            **spec,
        },
    }


def recipe_document(name: str = "recipe", **spec: Any) -> Raw:
    return {
        "apiVersion": API_VERSION,
        "kind": RECIPE_KIND,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"baseModel": {"uri": "hf://org/model", "revision": COMMIT}, **spec},
    }


def laptop_spec(document: Raw, **found: str) -> PersonaModelSpec:
    """Return the spec as a laptop without a GPU resolves it, where the sources hold `found`."""
    resource = parse_resource(document).manifest()
    pin_sources(resource["spec"], found)
    return with_number_format(parse_resource(resource).spec, lambda: False)


class World:
    """One cluster, any number of PersonaModels, and the reconciler."""

    def __init__(self, config: Settings | None = None) -> None:
        self.cluster = FakeCluster()
        self.settings = config or settings()
        self.stored: dict[tuple[str, str], Stored] = {}
        self.warnings: dict[str, str] = {}
        self.texts: dict[str, PersonaText] = {}
        self.events: list[tuple[str, str]] = []
        self.event_messages: list[str] = []
        self.resync = False
        self.rollouts_ahead = 0

    def add(self, document: Raw) -> None:
        self.cluster.create(document)

    def edit(self, name: str, **spec: Any) -> None:
        def change(document: Raw) -> None:
            document["spec"] = {**document["spec"], **spec}

        self.cluster.update(KIND, NAMESPACE, name, change)

    def annotate(self, name: str, **annotations: str) -> None:
        def change(document: Raw) -> None:
            head = document["metadata"]
            named = {f"persona-pruner.io/{k}": v for k, v in annotations.items()}
            head["annotations"] = {**head.get("annotations", {}), **named}

        self.cluster.update(KIND, NAMESPACE, name, change)

    def persona(self, name: str = "captain") -> Persona:
        document = self.cluster.get(KIND, NAMESPACE, name)
        assert document is not None
        return Persona.from_object(document)

    def jobs(self) -> tuple[Job, ...]:
        pods: dict[str, list[Pod]] = {}
        for pod in self.cluster.find("Pod"):
            parsed = Pod.from_object(pod)
            pods.setdefault(parsed.job, []).append(parsed)
        return tuple(
            Job.from_object(job, pods.get(job["metadata"]["name"], ()))
            for job in self.cluster.find("Job")
        )

    def observe(self, name: str) -> Observed:
        jobs = self.jobs()
        deployment = self.cluster.get("Deployment", NAMESPACE, name)
        owned = {}
        for kind in OWNED:
            for document in self.cluster.find(kind, NAMESPACE):
                head = document["metadata"]
                if any(owner["name"] == name for owner in head.get("ownerReferences", [])):
                    notes = head.get("annotations", {})
                    owned[(kind, head["name"])] = notes.get(CHECKSUM_ANNOTATION, "")
        return Observed(
            jobs=jobs,
            active_jobs=sum(job.active for job in jobs),
            deployment=Deployment.from_object(deployment) if deployment else None,
            serving_pods=(),
            owned=owned,
            text=self.texts.get(name),
            recipe=self._recipe(name),
            stored=self.stored,
            finished_elsewhere=self._finished_elsewhere(name),
            revisions_elsewhere={
                item.evaluate_key: item
                for other in self._others(name)
                for item in other.status.revisions
            },
            warnings=self.warnings,
            resync=self.resync,
            rollouts_ahead=self.rollouts_ahead,
        )

    def _finished_elsewhere(self, name: str) -> frozenset[tuple[str, str]]:
        return frozenset(
            (entry.partition("/")[0], entry.partition("/")[2])
            for other in self._others(name)
            for entry in other.status.finished_keys
        )

    def _others(self, name: str) -> list[Persona]:
        """The other PersonaModels with results in the administrator's store."""
        found = [self.persona(item["metadata"]["name"]) for item in self.cluster.find(KIND)]
        store = self.settings.store.uri
        return [x for x in found if x.owner.name != name and x.status.store == store]

    def _recipe(self, name: str) -> Raw | None:
        reference = self.persona(name).resource["spec"].get("recipeRef")
        if reference is None:
            return None
        return self.cluster.get(RECIPE_KIND, NAMESPACE, reference["name"])

    def plan(self, name: str = "captain") -> Plan:
        return reconcile(self.persona(name), self.observe(name), self.settings, self.cluster.now)

    def step(self, name: str = "captain", *, crash_after: int | None = None) -> Plan:
        """Reconcile once; a crash loses the actions after that many, and the status."""
        plan = self.plan(name)
        for action in plan.actions[:crash_after]:
            self.act(action)
        if crash_after is None:
            self._write_status(name, plan)
            self.events += [(event.type, event.reason) for event in plan.events]
            self.event_messages += [f"{event.reason}: {event.message}" for event in plan.events]
        return plan

    def act(self, action: object) -> None:
        cluster = self.cluster
        if isinstance(action, Create):
            cluster.create(action.manifest)
        elif isinstance(action, Apply):
            cluster.apply(action.manifest)
        elif isinstance(action, Delete):
            cluster.delete(action.kind, NAMESPACE, action.name)
        elif isinstance(action, SetSuspend):
            job = cluster.get("Job", NAMESPACE, action.job)
            assert job is not None

            def change(document: Raw) -> None:
                document["spec"]["suspend"] = action.suspend
                notes = document["metadata"].setdefault("annotations", {})
                notes.pop(SUSPENDED_ANNOTATION, None)
                if action.suspend:
                    notes[SUSPENDED_ANNOTATION] = "true"

            cluster.update("Job", NAMESPACE, action.job, change)
            if action.suspend:
                cluster.delete_pods(job)
        else:
            raise TypeError(action)

    def _write_status(self, name: str, plan: Plan) -> None:
        written = plan.status.model_dump(mode="json", by_alias=True, exclude_none=True)

        def change(document: Raw) -> None:
            document["status"] = json.loads(json.dumps(written))

        self.cluster.update(KIND, NAMESPACE, name, change)

    # Shortcuts of tests

    def job(self, stage: str, name: str = "captain") -> Raw:
        """The newest Job of a persona's stage."""
        found = [
            job
            for job in self.cluster.find("Job")
            if job["metadata"]["labels"]["persona-pruner.io/stage"] == stage
            and job["metadata"]["labels"]["persona-pruner.io/persona"] == name
        ]
        assert found, f"no Job of stage {stage}"
        return max(found, key=lambda job: int(job["metadata"]["uid"].removeprefix("uid-")))

    def created_jobs(self) -> list[str]:
        """Return the names of all Jobs that were ever created, oldest first."""
        return [name for kind, name in self.cluster.created if kind == "Job"]

    def planned_keys(self, name: str = "captain") -> dict[str, str]:
        """Reconcile once and return the content key of each stage."""
        self.step(name)
        return {item.name: item.key for item in self.persona(name).status.stages}

    def fail(self, stage: str) -> None:
        """Let a stage fail for good."""
        self.step()
        message = failed_message(stage, "InputError", "is wrong")
        self.cluster.finish(self.job(stage), 2, message)
        self.step()
        assert self.stage(stage).state == "Failed"

    def stage(self, stage: str, name: str = "captain") -> Any:
        return next(item for item in self.persona(name).status.stages if item.name == stage)

    def condition(self, kind: str = "Ready", name: str = "captain") -> Any:
        return next(item for item in self.persona(name).status.conditions if item.type == kind)

    def run(
        self, name: str = "captain", *, until: str | None = None, messages: Any = success_message
    ) -> None:
        """Reconcile and let every Job succeed, until stage `until` is started or all is quiet."""
        for _ in range(60):
            self.step(name)
            for job in self.cluster.open_jobs():
                stage = job["metadata"]["labels"]["persona-pruner.io/stage"]
                if stage == until:
                    return
                if not job["spec"].get("suspend"):
                    self.cluster.finish(job, 0, messages(stage))
            if self.cluster.get("Deployment", NAMESPACE, name):
                self.cluster.roll_out(NAMESPACE, name)
            before = copy.deepcopy(self.cluster.objects)
            plan = self.step(name)
            self.cluster.advance(1)
            if not plan.actions and before == self.cluster.objects:
                return
        raise AssertionError("does not settle")


__all__ = [
    "COMMIT",
    "NAMESPACE",
    "START",
    "World",
    "job_ended",
    "laptop_spec",
    "persona_document",
    "recipe_document",
    "settings",
]
