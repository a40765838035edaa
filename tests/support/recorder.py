"""Record every stage Job and pod that ever existed in some namespaces."""

import json
import threading
from collections import Counter
from dataclasses import dataclass

import httpx

from persona_jobs.pipeline.pins import RESOLVE
from support.cluster import Cluster, Object

STAGE = "persona-pruner.io/stage"
KEY = "persona-pruner.io/key"
PERSONA = "persona-pruner.io/persona"


@dataclass
class Seen:
    """One Job or pod as last observed."""

    kind: str
    namespace: str
    name: str
    persona: str
    stage: str
    key: str
    created: str
    manifest: Object
    succeeded: str | None = None


class Recorder:
    """Watches Jobs and pods of stages in its own threads until `stop` is called."""

    def __init__(self, cluster: Cluster, namespaces: list[str]) -> None:
        self._cluster = cluster
        self._seen: dict[str, Seen] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, args=(kind, path, namespace), daemon=True)
            for namespace in namespaces
            for kind, path in (("Job", "apis/batch/v1"), ("Pod", "api/v1"))
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def jobs(self, stage: str, key: str) -> list[Seen]:
        return self._of("Job", stage, key)

    def pods(self, stage: str, key: str) -> list[Seen]:
        return self._of("Pod", stage, key)

    def of_persona(self, namespace: str, persona: str) -> Counter[str]:
        """Return the number of Jobs by stage, without those that look up the sources."""
        with self._lock:
            return Counter(
                item.stage
                for item in self._seen.values()
                if (item.kind, item.namespace, item.persona) == ("Job", namespace, persona)
                and item.stage != RESOLVE
            )

    def manifests(self, namespace: str, persona: str, stage: str) -> list[Object]:
        """Return the Jobs of one stage, those that are gone included."""
        wanted = ("Job", namespace, persona, stage)
        with self._lock:
            return [
                item.manifest
                for item in self._seen.values()
                if (item.kind, item.namespace, item.persona, item.stage) == wanted
            ]

    def _of(self, kind: str, stage: str, key: str) -> list[Seen]:
        with self._lock:
            found = [
                item
                for item in self._seen.values()
                if (item.kind, item.stage, item.key) == (kind, stage, key[:63])
            ]
        return sorted(found, key=lambda item: item.created)

    def _watch(self, kind: str, prefix: str, namespace: str) -> None:
        url = f"/{prefix}/namespaces/{namespace}/{kind.lower()}s"
        while not self._stopped.is_set():
            try:
                self._watch_once(kind, url)
            except (httpx.HTTPError, json.JSONDecodeError):
                self._stopped.wait(0.5)

    def _watch_once(self, kind: str, url: str) -> None:
        http = self._cluster.http
        listed = http.get(url, params={"labelSelector": STAGE}).raise_for_status().json()
        for item in listed["items"]:
            self._note(kind, item)
        params = {
            "labelSelector": STAGE,
            "watch": "1",
            "resourceVersion": listed["metadata"]["resourceVersion"],
            "timeoutSeconds": "20",
        }
        with http.stream("GET", url, params=params) as stream:
            for line in stream.iter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR" or self._stopped.is_set():
                    return
                self._note(kind, event["object"])

    def _note(self, kind: str, item: Object) -> None:
        metadata, labels = item["metadata"], item["metadata"]["labels"]
        with self._lock:
            seen = self._seen.setdefault(
                metadata["uid"],
                Seen(
                    kind=kind,
                    namespace=metadata["namespace"],
                    name=metadata["name"],
                    persona=labels[PERSONA],
                    stage=labels[STAGE],
                    key=labels[KEY],
                    created=metadata["creationTimestamp"],
                    manifest=item,
                ),
            )
            seen.succeeded = seen.succeeded or _succeeded(kind, item)


def _succeeded(kind: str, item: Object) -> str | None:
    """Return when a Job or pod succeeded, or None."""
    status = item.get("status", {})
    if kind == "Job":
        done: str | None = status.get("completionTime")
        return done
    for container in status.get("containerStatuses", []):
        ended = container.get("state", {}).get("terminated")
        if ended and ended["exitCode"] == 0:
            return str(ended["finishedAt"])
    return None
