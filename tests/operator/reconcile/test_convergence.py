"""Whatever happens in whatever order: finished work stays finished, one Job per stage and key, the
status says what is waited for, and it converges."""

import os
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from persona_jobs.api import KIND
from persona_operator.reconcile import Create, Persona, Stored
from support.fake_cluster import (
    Raw,
    evaluation_message,
    evaluation_metrics,
    failed_message,
    job_ended,
    success_message,
)
from support.operator_world import NAMESPACE, World, persona_document
from support.operator_world import settings as operator_settings

PERSONAS = ("captain", "poet")
ENDINGS: dict[str, tuple[int, str, str]] = {
    "wrong input": (2, failed_message("s", "InputError", "is wrong", "Fix it"), ""),
    "device memory": (3, failed_message("s", "OutOfMemoryError", "too big"), ""),
    "killed for memory": (137, "", "OOMKilled"),
    "store unreachable": (1, failed_message("s", "StoreError", "can't be reached"), ""),
    "crash": (139, "", ""),
    "interrupted": (143, "", ""),
    "nonsense": (1, "not json", ""),
}


def at(job: Raw) -> tuple[str, str, str]:
    notes, labels = job["metadata"]["annotations"], job["metadata"]["labels"]
    return (
        notes["persona-pruner.io/store"],
        labels["persona-pruner.io/stage"],
        notes["persona-pruner.io/key"],
    )


class OperatorMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.finished: dict[str, set[tuple[str, str]]] = {name: set() for name in PERSONAS}
        self.probing = False

    @initialize(
        text=st.booleans(),
        pinned=st.booleans(),
        probing=st.booleans(),
        limit=st.sampled_from([None, 1]),
    )
    def start(self, text: bool, pinned: bool, probing: bool, limit: int | None) -> None:
        self.world.settings = operator_settings(maxParallelStages=limit)
        self.probing = probing
        for name in PERSONAS:
            document = persona_document(name)
            if text:  # the same persona twice: they share every stage
                document["spec"]["persona"] = {"text": "You are a sailor."}
            if not pinned:
                document["spec"]["baseModel"] = {"uri": "hf://org/model"}
            self.world.add(document)

    # The operator

    def reconcile(self, name: str, crash_after: int | None = None) -> None:
        finished = {(item.name, item.key) for item in self.succeeded(name)}
        plan = self.world.plan(name)
        lost = {key for key, stored in self.world.stored.items() if stored.state == "Absent"}
        stages = self.world.persona(name).status.stages
        lost |= {(item.name, item.key) for item in stages if item.lost_at is not None}
        for action in plan.actions:
            if isinstance(action, Create):
                _, stage, key = at(action.manifest)
                if (stage, key) in lost:  # the store says that its result is gone
                    continue
                assert (stage, key) not in finished, f"finished {stage} is started again"
                if stage != "evaluate":  # an evaluation is read again when its figures are lost
                    assert (stage, key) not in self.finished[name], f"{stage} is started again"
        self.world.step(name, crash_after=crash_after)
        self.finished[name] |= {(item.name, item.key) for item in self.succeeded(name)}

    def succeeded(self, name: str) -> list[Any]:
        stages = self.world.persona(name).status.stages
        return [item for item in stages if item.state == "Succeeded"]

    @rule(name=st.sampled_from(PERSONAS))
    def reconciles(self, name: str) -> None:
        self.reconcile(name)

    @rule(name=st.sampled_from(PERSONAS), done=st.integers(0, 3))
    def crashes(self, name: str, done: int) -> None:
        self.reconcile(name, crash_after=done)

    @rule(name=st.sampled_from(PERSONAS), rounds=st.integers(1, 8))
    def all_goes_well_for_a_while(self, name: str, rounds: int) -> None:
        """Without this, random steps hardly ever reach the later stages."""
        for _ in range(rounds):
            self.reconcile(name)
            for job in self.running_jobs():
                self.world.cluster.finish(job, 0, success_message(at(job)[1]))
            if self.world.cluster.get("Deployment", NAMESPACE, name):
                self.world.cluster.roll_out(NAMESPACE, name)

    @rule(seconds=st.sampled_from([1, 15, 70, 700]))
    def time_passes(self, seconds: int) -> None:
        self.world.cluster.advance(seconds)

    # The cluster

    def running_jobs(self) -> list[Raw]:
        jobs = self.world.cluster.open_jobs()
        return [job for job in jobs if not job["spec"].get("suspend")]

    @precondition(lambda self: self.running_jobs())
    @rule(data=st.data())
    def pod_appears(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.running_jobs()))
        if not self.world.cluster.pods_of(job):
            self.world.cluster.make_pod(job)

    @precondition(lambda self: self.running_jobs())
    @rule(data=st.data(), kept=st.booleans())
    def job_succeeds(self, data: st.DataObject, kept: bool) -> None:
        job = data.draw(st.sampled_from(self.running_jobs()))
        stage = at(job)[1]
        message = success_message(stage)
        if stage == "evaluate":
            message = evaluation_message(score=data.draw(st.sampled_from([40.0, 80.0])))
        self.world.cluster.finish(job, 0, message, pod_kept=kept)

    @precondition(lambda self: self.running_jobs())
    @rule(data=st.data(), ending=st.sampled_from(sorted(ENDINGS)), kept=st.booleans())
    def job_fails(self, data: st.DataObject, ending: str, kept: bool) -> None:
        job = data.draw(st.sampled_from(self.running_jobs()))
        code, message, reason = ENDINGS[ending]
        self.world.cluster.finish(job, code, message, reason, pod_kept=kept)

    @precondition(lambda self: self.running_jobs())
    @rule(data=st.data())
    def deadline_passes(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.running_jobs()))
        if self.world.cluster.pods_of(job):
            text = "Pod was active on the node longer than the specified deadline"
            self.world.cluster.end_by_kubelet(job, "DeadlineExceeded", text)

    @precondition(lambda self: self.world.cluster.find("Job"))
    @rule(data=st.data())
    def someone_deletes_a_job(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.world.cluster.find("Job")))
        self.world.cluster.delete("Job", NAMESPACE, job["metadata"]["name"])

    @rule(name=st.sampled_from(PERSONAS), ready=st.sampled_from([None, 0]))
    def deployment_moves(self, name: str, ready: int | None) -> None:
        if self.world.cluster.get("Deployment", NAMESPACE, name):
            self.world.cluster.roll_out(NAMESPACE, name, ready=ready)

    # The user

    @rule(name=st.sampled_from(PERSONAS), sparsity=st.sampled_from([25, 50]))
    def edits_sparsity(self, name: str, sparsity: int) -> None:
        self.world.edit(name, pruning={"sparsityPercent": sparsity})

    @rule(name=st.sampled_from(PERSONAS), suspend=st.booleans())
    def edits_suspend(self, name: str, suspend: bool) -> None:
        self.world.edit(name, suspend=suspend)

    @rule(name=st.sampled_from(PERSONAS), least=st.sampled_from([None, 60]))
    def edits_gate(self, name: str, least: int | None) -> None:
        threshold = {"name": "voice", "metric": "personaScore", "min": least}
        gate = {"gate": {"thresholds": [threshold]}} if least else {}
        self.world.edit(name, evaluation=gate)

    @rule(name=st.sampled_from(PERSONAS), memory=st.sampled_from(["4Gi", "8Gi"]))
    def edits_resources(self, name: str, memory: str) -> None:
        stages = [{"name": "mask", "resources": {"memory": memory}}]
        self.world.edit(name, execution={"stages": stages})

    @rule(name=st.sampled_from(PERSONAS), replicas=st.sampled_from([0, 1, 3]))
    def edits_serving(self, name: str, replicas: int) -> None:
        self.world.edit(name, serving={"replicas": replicas})

    @rule(name=st.sampled_from(PERSONAS), value=st.integers(0, 3))
    def asks_for_a_retry(self, name: str, value: int) -> None:
        self.world.annotate(name, retry=str(value))

    @precondition(lambda self: self.probing)
    @rule(data=st.data(), state=st.sampled_from(["Absent", "Pending", "Unknown", "Present"]))
    def store_answers(self, data: st.DataObject, state: Any) -> None:
        stages = [
            (item.name, item.key)
            for name in PERSONAS
            for item in self.world.persona(name).status.stages
        ]
        if stages:
            stage, key = data.draw(st.sampled_from(stages))
            metrics = evaluation_metrics() if stage == "evaluate" else {}
            self.world.stored[(stage, key)] = Stored(state, metrics)

    # What must hold

    @invariant()
    def one_job_at_work_for_each_key(self) -> None:
        at_work = [at(job) for job in self.running_jobs()]
        assert len(at_work) == len(set(at_work))

    @invariant()
    def the_status_explains_itself(self) -> None:
        for name in PERSONAS:
            document = self.world.cluster.get(KIND, NAMESPACE, name)
            if document is None or "status" not in document:
                continue
            status = Persona.from_object(document).status
            conditions = {item.type: item for item in status.conditions}
            assert set(conditions) == {"Available", "Ready", "Reconciling", "Stalled"}
            ready = conditions["Ready"]
            assert ready.reason
            assert ready.message
            going, stalled = (conditions[kind].status for kind in ("Reconciling", "Stalled"))
            assert (going, stalled) != ("True", "True")
            assert (stalled == "True") == (ready.status == "False")
            lookup = [status.resolution] if status.resolution else []
            for stage in [*lookup, *status.stages]:
                if stage.state not in {"Running", "Succeeded"}:
                    assert stage.reason, stage
                    assert stage.message, stage
                assert (stage.state == "WaitingForRetry") == (stage.retry_at is not None)
            assert status.serving is None or status.serving.revision in {
                None,
                *(item.id for item in status.revisions),
            }

    @invariant()
    def no_failed_revision_is_rolled_out_newly(self) -> None:
        for name in PERSONAS:
            persona = self.world.persona(name)
            serving = persona.status.serving
            for revision in persona.status.revisions:
                if serving and serving.revision == revision.id and revision.gate == "Failed":
                    deployment = self.world.cluster.get("Deployment", NAMESPACE, name)
                    # It may have been served before the gate was raised, with nothing better.
                    assert deployment is not None

    def at_rest(self, name: str) -> bool:
        ready = self.world.condition("Ready", name)
        return ready.status == "True" and not self.world.plan(name).actions

    def teardown(self) -> None:
        """Once the faults end, every PersonaModel comes to rest and stays there."""
        self.world.stored = {}
        for name in PERSONAS:
            if self.world.cluster.get(KIND, NAMESPACE, name) is None:
                return
            self.world.edit(name, suspend=False, evaluation={}, serving={"replicas": 1})
            self.world.annotate(name, retry="at last")
        for _ in range(80):
            for name in PERSONAS:
                self.reconcile(name)
                if self.world.cluster.get("Deployment", NAMESPACE, name):
                    self.world.cluster.roll_out(NAMESPACE, name)
            for job in self.running_jobs():
                if not job_ended(job):
                    self.world.cluster.finish(job, 0, success_message(at(job)[1]))
            self.world.cluster.advance(30)
            if all(self.at_rest(name) for name in PERSONAS):
                break
        for name in PERSONAS:
            ready = self.world.condition("Ready", name)
            assert ready.status == "True", ready
            plan = self.world.plan(name)
            assert plan.actions == ()
            assert plan.events == ()
            assert plan.status == self.world.persona(name).status


TestConvergence = OperatorMachine.TestCase
TestConvergence.settings = settings(
    max_examples=int(os.environ.get("CONVERGENCE_EXAMPLES", "15")),
    stateful_step_count=35,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
