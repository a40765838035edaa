"""An API server in memory for thousands of objects that also plays Jobs and Deployments.

It knows what the operator and kopf ask for: discovery, LIST in chunks, WATCH, all writes. Each
document is encoded once. `/stats` shows the requests since the last `/stats?reset=1`, the delays
from a Job's end to the operator's next write for its PersonaModel, and how many are ready.
"""

import argparse
import asyncio
import collections
import itertools
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from persona_jobs.api import KIND, PLURAL
from support.fake_api_server import RESOURCES, FakeApiServer
from support.fake_cluster import stamp, success_message
from support.operator_world import NAMESPACE, World, persona_document, settings

Raw = dict[str, Any]
Key = tuple[str, str]
PERSONA = "persona-pruner.io/persona"
HISTORY = 20_000
TEXT = " ".join(["You speak in short sentences full of nautical words."] * 16)
# What the API server adds to an object that was applied.
MANAGED = [{"manager": "x", "operation": "Apply", "fieldsV1": {f"f:{k}": {} for k in range(120)}}]


def persona(name: str) -> Raw:
    document = persona_document(name, persona={"text": f"You are {name}. {TEXT}"})
    document["metadata"]["managedFields"] = MANAGED
    return document


class Server:
    def __init__(self, stage_seconds: float) -> None:
        self.objects: dict[str, dict[Key, Raw]] = collections.defaultdict(dict)
        self.owned: dict[str, set[tuple[str, Key]]] = collections.defaultdict(set)
        self.watches: dict[str, list[asyncio.Queue[tuple[Raw, bytes]]]] = collections.defaultdict(
            list
        )
        self.history: dict[str, collections.deque[tuple[int, Raw, bytes]]] = (
            collections.defaultdict(lambda: collections.deque(maxlen=HISTORY))
        )
        self.version, self.uids = itertools.count(1), itertools.count(1)
        self.current = 0
        self.requests: collections.Counter[str] = collections.Counter()
        self.waiting: dict[str, float] = {}
        self.delays: list[float] = []
        self.ready: dict[str, float] = {}
        self.started: dict[str, float] = {}
        self.stage_seconds = stage_seconds
        self.tasks: set[asyncio.Task[None]] = set()

    # Objects

    def put(self, event: str, kind: str, key: Key, document: Raw) -> Raw:
        self.current = next(self.version)
        document["metadata"]["resourceVersion"] = str(self.current)
        if event == "DELETED":
            self.objects[kind].pop(key, None)
        else:
            self.objects[kind][key] = document
        line = json.dumps({"type": event, "object": document}).encode() + b"\n"
        self.history[kind].append((self.current, document, line))
        for queue in self.watches[kind]:
            queue.put_nowait((document, line))
        return document

    def create(self, document: Raw) -> Raw:
        kind, head = document["kind"], document["metadata"]
        now = stamp(datetime.now(UTC))
        uid = f"uid-{next(self.uids)}"
        head |= {"uid": uid, "creationTimestamp": now, "generation": 1}
        key = (head["namespace"], head["name"])
        for owner in head.get("ownerReferences") or []:
            self.owned[owner["uid"]].add((kind, key))
        self.put("ADDED", kind, key, document)
        self.play(kind, key)
        return document

    def change(self, kind: str, key: Key, changed: Raw) -> Raw:
        old = self.objects[kind][key]
        if changed == old:
            return old
        changed["metadata"] = dict(changed["metadata"])
        newer = changed.get("spec") != old.get("spec")
        if newer:
            changed["metadata"]["generation"] = old["metadata"]["generation"] + 1
        self.put("MODIFIED", kind, key, changed)
        if kind == KIND:
            self.seen_ready(changed)
        if newer:
            self.play(kind, key)
        return changed

    def delete(self, kind: str, key: Key) -> None:
        gone = self.objects[kind].get(key)
        if gone is None:
            return
        self.put("DELETED", kind, key, dict(gone, metadata=dict(gone["metadata"])))
        for other, owned in self.owned.pop(gone["metadata"]["uid"], ()):
            self.delete(other, owned)

    def seen_ready(self, document: Raw) -> None:
        name = document["metadata"]["name"]
        found = document.get("status", {}).get("conditions", [])
        if any(item["type"] == "Ready" and item["status"] == "True" for item in found):
            now = asyncio.get_running_loop().time()
            self.ready.setdefault(name, now - self.started.get(name, now))

    # The controllers

    def play(self, kind: str, key: Key) -> None:
        plays = {"Job": self.play_job, "Deployment": self.play_deployment}
        if kind in plays:
            task = asyncio.get_running_loop().create_task(plays[kind](key))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def set_status(self, kind: str, key: Key, **status: Any) -> None:
        document = self.objects[kind].get(key)
        if document is not None:
            self.change(kind, key, {**document, "status": {**document.get("status", {}), **status}})

    def make_pod(self, owner: Raw, name: str, ready: bool) -> Key:
        head, template = owner["metadata"], owner["spec"]["template"]
        controller = {"kind": owner["kind"], "name": head["name"], "uid": head["uid"]}
        metadata = {
            "name": name,
            "namespace": head["namespace"],
            "labels": template["metadata"]["labels"],
            "ownerReferences": [controller],
            "managedFields": MANAGED,
        }
        status = {"phase": "Pending", "conditions": []}
        if ready:
            status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        self.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
                     "spec": template["spec"], "status": status})  # fmt: skip
        return head["namespace"], name

    async def play_job(self, key: Key) -> None:
        job = self.objects["Job"].get(key)
        if job is None or job["spec"].get("suspend"):
            return
        await asyncio.sleep(0.05)
        if key not in self.objects["Job"]:
            return
        stage = job["metadata"]["labels"]["persona-pruner.io/stage"]
        pod = self.make_pod(job, f"{key[1]}-x", ready=False)
        self.set_status("Job", key, startTime=stamp(datetime.now(UTC)), active=1)
        await asyncio.sleep(self.stage_seconds / 4)
        self.container(pod, "Running", {"running": {"startedAt": stamp(datetime.now(UTC))}})
        await asyncio.sleep(self.stage_seconds * 3 / 4)
        now = stamp(datetime.now(UTC))
        ended = {"exitCode": 0, "reason": "Completed", "message": success_message(stage)}
        self.container(pod, "Succeeded", {"terminated": {**ended, "finishedAt": now}})
        done = {"type": "Complete", "status": "True", "lastTransitionTime": now}
        name = job["metadata"]["labels"][PERSONA]
        if key in self.objects["Job"]:
            self.waiting[name] = asyncio.get_running_loop().time()
            self.set_status("Job", key, active=0, conditions=[done])

    def container(self, pod: Key, phase: str, state: Raw) -> None:
        states = [{"name": "stage", "image": "i", "restartCount": 0, "state": state}]
        self.set_status("Pod", pod, phase=phase, containerStatuses=states)

    async def play_deployment(self, key: Key) -> None:
        await asyncio.sleep(self.stage_seconds / 2)
        document = self.objects["Deployment"].get(key)
        if document is None:
            return
        pod = f"{key[1]}-serves-{document['metadata']['generation']}"
        self.make_pod(document, pod, ready=True)
        wanted = document["spec"].get("replicas", 1)
        counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        self.set_status("Deployment", key, observedGeneration=document["metadata"]["generation"],
                        **dict.fromkeys(counts, wanted))  # fmt: skip

    # HTTP

    async def serve(self, request: web.Request) -> web.StreamResponse:
        parts = request.match_info["path"].strip("/").split("/")
        if parts[0] == "version":
            return answer({"major": "1", "minor": "34"})
        if parts == ["api"]:
            return answer({"versions": ["v1"]})
        if parts == ["apis"]:
            groups = FakeApiServer._groups()
            return answer({"groups": groups})
        version = parts[1] if parts[0] == "api" else "/".join(parts[1:3])
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        if not rest:
            return answer({"resources": FakeApiServer._resources(version)})
        namespace = None
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        plural, name = rest[0], rest[1] if len(rest) > 1 else None
        if (version, plural) not in RESOURCES:
            return failure(404, "NotFound")
        kind = RESOURCES[(version, plural)][0]
        if request.method == "GET" and name is None:
            if request.query.get("watch") == "true":
                self.requests[f"WATCH {plural}"] += 1
                return await self.watch(request, kind)
            self.requests[f"LIST {plural}"] += 1
            return self.list(request, kind)
        self.requests[f"{request.method} {plural}{'/status' if rest[2:] else ''}"] += 1
        if request.method == "GET":
            found = self.objects[kind].get((namespace or "", name or ""))
            return answer(found) if found else failure(404, "NotFound")
        body = await request.json() if request.can_read_body else None
        return self.write(request, kind, (namespace or "", name or ""), body, rest[2:])

    def write(
        self, request: web.Request, kind: str, key: Key, body: Any, rest: list[str]
    ) -> web.Response:
        if kind == "Event":
            return answer(body, 201)
        if request.method == "DELETE":
            self.delete(kind, key)
            return answer({"status": "Success"})
        if request.method == "POST":
            key = (key[0], body["metadata"]["name"])
            body["metadata"]["namespace"] = key[0]
            if key in self.objects[kind]:
                return failure(409, "AlreadyExists")
            self.acted(body)
            body["metadata"]["managedFields"] = MANAGED
            return answer(self.create(body), 201)
        old = self.objects[kind].get(key)
        if request.content_type == "application/apply-patch+yaml":
            self.acted(body)
            body["metadata"]["managedFields"] = MANAGED
            if old is None:
                return answer(self.create(body))
            metadata = {**old["metadata"], **body["metadata"]}
            return answer(self.change(kind, key, {**old, **body, "metadata": metadata}))
        if old is None:
            return failure(404, "NotFound")
        patch = {"status": body.get("status", {})} if rest == ["status"] else body
        return answer(self.change(kind, key, merged(old, patch)))

    def acted(self, body: Raw) -> None:
        name = (body["metadata"].get("labels") or {}).get(PERSONA, "")
        since = self.waiting.pop(name, None)
        if since is not None:
            self.delays.append(asyncio.get_running_loop().time() - since)

    def list(self, request: web.Request, kind: str) -> web.Response:
        limit = int(request.query.get("limit") or 0) or sys.maxsize
        start = int(request.query.get("continue") or 0)
        found = [item for item in self.objects[kind].values() if selected(item, request)]
        chunk = found[start : start + limit]
        head = {"resourceVersion": str(self.current)}
        if start + limit < len(found):
            head["continue"] = str(start + limit)
        if "PartialObjectMetadata" in request.headers.get("Accept", ""):
            chunk = [{"metadata": item["metadata"]} for item in chunk]
        return answer({"items": chunk, "metadata": head})

    async def watch(self, request: web.Request, kind: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[tuple[Raw, bytes]] = asyncio.Queue()
        since = int(request.query.get("resourceVersion") or 0)
        for version, document, line in self.history[kind]:
            if version > since:
                queue.put_nowait((document, line))
        self.watches[kind].append(queue)
        try:
            while True:
                document, line = await queue.get()
                if selected(document, request):
                    await response.write(line)
        finally:
            self.watches[kind].remove(queue)

    async def stats(self, request: web.Request) -> web.Response:
        found = {
            "requests": dict(self.requests),
            "delays": self.delays,
            "ready": self.ready,
            "objects": {kind: len(found) for kind, found in self.objects.items()},
        }
        text = json.dumps(found)
        if request.query.get("reset"):
            self.requests.clear()
            self.delays = []
        return web.Response(text=text)

    async def make(self, request: web.Request) -> web.Response:
        name = request.query["name"]
        self.started[name] = asyncio.get_running_loop().time()
        self.create(persona(name))
        return web.Response(text="ok")

    def finished(self, count: int) -> None:
        """Add PersonaModels that are served, with all that the operator leaves of them."""
        for number in range(count):
            name = f"finished-{number:05d}"
            world = World(settings())
            world.cluster.uids = itertools.count(10_000_000 + number * 1000)
            world.cluster.now = datetime.now(UTC)
            world.add(persona(name))
            world.run(name)
            for (kind, namespace, own), document in world.cluster.objects.items():
                document["metadata"]["managedFields"] = MANAGED
                self.put("ADDED", kind, (namespace, own), document)
                for owner in document["metadata"].get("ownerReferences") or []:
                    self.owned[owner["uid"]].add((kind, (namespace, own)))
            deployment = self.objects["Deployment"][(NAMESPACE, name)]
            self.make_pod(deployment, f"{name}-serves", ready=True)
        for history in self.history.values():
            history.clear()


def answer(document: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=json.dumps(document).encode(), status=status, content_type="application/json"
    )


def failure(code: int, reason: str) -> web.Response:
    return answer({"kind": "Status", "code": code, "reason": reason, "message": reason}, code)


def selected(document: Raw, request: web.Request) -> bool:
    labels = document["metadata"].get("labels") or {}
    pairs = [part.split("=", 1) for part in request.query.get("labelSelector", "").split(",")]
    return all(labels.get(pair[0]) == pair[-1] for pair in pairs if pair[0])


def merged(document: Raw, patch: Raw) -> Raw:
    made = dict(document)
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        elif isinstance(value, dict):
            made[name] = merged(made.get(name) or {}, value)
        else:
            made[name] = value
    return made


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--finished", type=int, default=0)
    parser.add_argument("--stage-seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    server = Server(arguments.stage_seconds)
    server.finished(arguments.finished)
    application = web.Application(client_max_size=1 << 26)
    application.router.add_get("/stats", server.stats)
    application.router.add_post("/make", server.make)
    application.router.add_route("*", "/{path:.*}", server.serve)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]} {PLURAL}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
