"""Kubernetes objects in memory, with the controllers that the operator depends on.

Objects have the API server's shape, so the operator's own parsing is tested with them. Jobs and
Deployments move only when a test says so: that is where the interesting orders come from.
"""

import copy
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

Raw = dict[str, Any]
START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def stamp(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


class FakeCluster:
    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Raw] = {}
        self.now = START
        self.versions = itertools.count(1)
        self.uids = itertools.count(1)
        self.created: list[tuple[str, str]] = []
        self.listeners: list[Callable[[str, Raw], None]] = []

    # The API server

    def get(self, kind: str, namespace: str, name: str) -> Raw | None:
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    def find(self, kind: str, namespace: str | None = None) -> list[Raw]:
        return [
            copy.deepcopy(document)
            for (found, where, _), document in sorted(self.objects.items())
            if found == kind and namespace in {None, where}
        ]

    def create(self, document: Raw) -> Raw:
        head = document["metadata"]
        at = (document["kind"], head["namespace"], head["name"])
        if at in self.objects:
            raise FileExistsError(at)
        made = copy.deepcopy(document)
        made["metadata"] |= {
            "uid": f"uid-{next(self.uids)}",
            "creationTimestamp": stamp(self.now),
            "generation": 1,
        }
        self.created.append((document["kind"], head["name"]))
        self._put("ADDED", at, made)
        return copy.deepcopy(made)

    def apply(self, document: Raw) -> Raw:
        head = document["metadata"]
        at = (document["kind"], head["namespace"], head["name"])
        old = self.objects.get(at)
        if old is None:
            return self.create(document)
        made = {**copy.deepcopy(old), **copy.deepcopy(document)}
        made["metadata"] = {**old["metadata"], **copy.deepcopy(head)}
        if old.get("spec") != document.get("spec"):
            made["metadata"]["generation"] = old["metadata"]["generation"] + 1
        if self._same(old, made):
            return copy.deepcopy(old)
        self._put("MODIFIED", at, made)
        return copy.deepcopy(made)

    def update(self, kind: str, namespace: str, name: str, change: Callable[[Raw], None]) -> Raw:
        at = (kind, namespace, name)
        old = self.objects[at]
        made = copy.deepcopy(old)
        change(made)
        if self._same(old, made):
            return copy.deepcopy(old)
        if old.get("spec") != made.get("spec"):
            made["metadata"]["generation"] = old["metadata"]["generation"] + 1
        self._put("MODIFIED", at, made)
        self._finalize(at)
        return copy.deepcopy(made)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        at = (kind, namespace, name)
        document = self.objects[at]
        if document["metadata"].get("finalizers"):
            if "deletionTimestamp" not in document["metadata"]:
                made = copy.deepcopy(document)
                made["metadata"]["deletionTimestamp"] = stamp(self.now)
                self._put("MODIFIED", at, made)
            return
        self._remove(at)

    def _finalize(self, at: tuple[str, str, str]) -> None:
        head = self.objects[at]["metadata"]
        if "deletionTimestamp" in head and not head.get("finalizers"):
            self._remove(at)

    def _remove(self, at: tuple[str, str, str]) -> None:
        gone = self.objects.pop(at)
        gone["metadata"]["resourceVersion"] = str(next(self.versions))
        self._notify_listeners("DELETED", gone)
        uid = gone["metadata"]["uid"]
        for other, document in list(self.objects.items()):
            owners = document["metadata"].get("ownerReferences") or []
            if any(owner["uid"] == uid for owner in owners) and other in self.objects:
                self._remove(other)

    def _put(self, event: str, at: tuple[str, str, str], document: Raw) -> None:
        document["metadata"]["resourceVersion"] = str(next(self.versions))
        self.objects[at] = document
        self._notify_listeners(event, document)

    def _notify_listeners(self, event: str, document: Raw) -> None:
        for listener in list(self.listeners):
            listener(event, copy.deepcopy(document))

    @staticmethod
    def _same(old: Raw, new: Raw) -> bool:
        def bare(document: Raw) -> Raw:
            head = {k: v for k, v in document["metadata"].items() if k != "resourceVersion"}
            return {**document, "metadata": head}

        return bare(old) == bare(new)

    # Time, the Job controller, the kubelet

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def open_jobs(self, namespace: str | None = None) -> list[Raw]:
        return [job for job in self.find("Job", namespace) if not job_ended(job)]

    def pods_of(self, job: Raw) -> list[Raw]:
        uid = job["metadata"]["uid"]
        return [
            pod
            for pod in self.find("Pod", job["metadata"]["namespace"])
            if pod["metadata"]["ownerReferences"][0]["uid"] == uid
        ]

    def make_pod(self, job: Raw) -> Raw:
        """The Job controller makes the pod of a Job that isn't suspended."""
        head = job["metadata"]
        template = job["spec"]["template"]
        pod = self.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{head['name']}-{next(self.uids)}",
                    "namespace": head["namespace"],
                    "labels": template["metadata"]["labels"],
                    "ownerReferences": [{"kind": "Job", "name": head["name"], "uid": head["uid"]}],
                },
                "spec": template["spec"],
                "status": {"phase": "Pending"},
            }
        )
        self._job_status(job, lambda status: status.update(startTime=stamp(self.now), active=1))
        return pod

    def run_pod(self, pod: Raw) -> None:
        self.pod_status(pod, phase="Running", state={"running": {"startedAt": stamp(self.now)}})

    def end_pod(self, pod: Raw, code: int, message: str = "", reason: str = "") -> None:
        ended = {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "message": message,
            "finishedAt": stamp(self.now),
        }
        phase = "Succeeded" if code == 0 else "Failed"
        self.pod_status(pod, phase=phase, state={"terminated": ended})

    def pod_status(
        self, pod: Raw, *, phase: str, state: Raw | None = None, conditions: Any = ()
    ) -> None:
        head = pod["metadata"]

        def change(document: Raw) -> None:
            status: Raw = {"phase": phase, "conditions": list(conditions)}
            if state is not None:
                name = document["spec"]["containers"][0]["name"]
                status["containerStatuses"] = [
                    {"name": name, "image": "i", "restartCount": 0, "state": state}
                ]
            document["status"] = status

        self.update("Pod", head["namespace"], head["name"], change)

    def end_by_kubelet(self, job: Raw, reason: str, message: str, code: int = 137) -> None:
        """The kubelet ends the Job's pod as a whole (eviction, deadline), and the Job fails."""
        pod = self.pods_of(job)[-1]
        self.end_pod(pod, code)
        head = pod["metadata"]

        def change(document: Raw) -> None:
            document["status"] |= {"phase": "Failed", "reason": reason, "message": message}

        self.update("Pod", head["namespace"], head["name"], change)
        text = "Job has reached the specified backoff limit"
        self.end_job(job, failed=("BackoffLimitExceeded", text))

    def delete_pods(self, job: Raw) -> None:
        for pod in self.pods_of(job):
            self._remove(("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"]))

    def end_job(self, job: Raw, *, failed: tuple[str, str] | None = None) -> None:
        condition = {
            "type": "Failed" if failed else "Complete",
            "status": "True",
            "reason": failed[0] if failed else "CompletionsReached",
            "message": failed[1] if failed else "",
            "lastTransitionTime": stamp(self.now),
        }

        def change(status: Raw) -> None:
            status.setdefault("conditions", []).append(condition)
            status["active"] = 0

        self._job_status(job, change)

    def _job_status(self, job: Raw, change: Callable[[Raw], None]) -> None:
        head = job["metadata"]

        def apply(document: Raw) -> None:
            change(document.setdefault("status", {}))

        self.update("Job", head["namespace"], head["name"], apply)

    def finish(
        self, job: Raw, code: int = 0, message: str = "", reason: str = "", *, pod_kept: bool = True
    ) -> None:
        """A Job runs to its end at once."""
        pods = self.pods_of(job)
        pod = pods[-1] if pods else self.make_pod(job)
        self.run_pod(pod)
        self.end_pod(pod, code, message, reason)
        if not pod_kept:
            self.delete_pods(job)
        if code == 0:
            self.end_job(job)
        elif code in {2, 3}:
            text = (
                f"Container stage for pod {pod['metadata']['name']} failed with exit code {code} "
                "matching FailJob rule at index 1"
            )
            self.end_job(job, failed=("PodFailurePolicy", text))
        else:
            text = "Job has reached the specified backoff limit"
            self.end_job(job, failed=("BackoffLimitExceeded", text))

    # The Deployment controller

    def roll_out(self, namespace: str, name: str, *, ready: int | None = None) -> None:
        def change(document: Raw) -> None:
            wanted = document["spec"].get("replicas", 1)
            up = wanted if ready is None else min(ready, wanted)
            document["status"] = {
                "observedGeneration": document["metadata"]["generation"],
                "replicas": wanted,
                "updatedReplicas": wanted,
                "readyReplicas": up,
                "availableReplicas": up,
            }

        self.update("Deployment", namespace, name, change)


def job_ended(job: Raw) -> bool:
    conditions = job.get("status", {}).get("conditions") or []
    return any(item["type"] in {"Complete", "Failed"} for item in conditions)


def done_message(stage: str, key: str = "", **metrics: Any) -> str:
    return json.dumps({"stage": stage, "key": key, "outcome": "Done", "metrics": metrics})


def failed_message(stage: str, error: str, message: str, hint: str = "", subject: str = "") -> str:
    failure = {"errorClass": error, "message": message, "hint": hint, "subject": subject}
    return json.dumps({"stage": stage, "outcome": "Failed", "failure": failure})


def evaluation_metrics(score: float = 80.0, dense: float = 82.0, loss: float = 2.0) -> Raw:
    def variant(persona_score: float, generic_loss: float, size: int) -> Raw:
        return {
            "parameters": size // 2,
            "checkpointBytes": size,
            "personaScore": persona_score,
            "genericLoss": generic_loss,
            "prefillTokensPerSecond": 900.0,
            "decodeTokensPerSecond": 25.0,
        }

    return {
        "served": "recovered",
        "chancePersonaScore": 9.1,
        "queries": 20,
        "variants": {
            "dense": variant(dense, 1.9, 270_000_000),
            "recovered": variant(score, loss, 210_000_000),
        },
    }


def evaluation_message(score: float = 80.0, dense: float = 82.0, loss: float = 2.0) -> str:
    return done_message("evaluate", **evaluation_metrics(score, dense, loss))


def lookup_message(**found: str) -> str:
    names = ("baseModel", "instructions", "referencePersonas")
    return done_message("resolve", sources={**dict.fromkeys(names, "c" * 40), **found})


def success_message(stage: str) -> str:
    if stage == "resolve":
        return lookup_message()
    return evaluation_message() if stage == "evaluate" else done_message(stage, loss=0.5)
