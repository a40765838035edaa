"""An API server over HTTP in front of a FakeCluster: discovery, LIST, WATCH, and all the writes."""

import asyncio
import copy
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from aiohttp import web

from persona_jobs.api import GROUP, KIND, PLURAL, RECIPE_KIND, RECIPE_PLURAL, VERSION
from support.fake_cluster import FakeCluster, Raw

RESOURCES: dict[tuple[str, str], tuple[str, str]] = {
    ("v1", "namespaces"): ("Namespace", ""),
    ("apiextensions.k8s.io/v1", "customresourcedefinitions"): ("CustomResourceDefinition", ""),
    ("v1", "configmaps"): ("ConfigMap", ""),
    ("v1", "pods"): ("Pod", ""),
    ("v1", "services"): ("Service", ""),
    ("v1", "events"): ("Event", ""),
    ("batch/v1", "jobs"): ("Job", "status"),
    ("apps/v1", "deployments"): ("Deployment", "status"),
    ("autoscaling/v2", "horizontalpodautoscalers"): ("HorizontalPodAutoscaler", "status"),
    ("policy/v1", "poddisruptionbudgets"): ("PodDisruptionBudget", "status"),
    ("coordination.k8s.io/v1", "leases"): ("Lease", ""),
    (f"{GROUP}/{VERSION}", PLURAL): (KIND, "status"),
    (f"{GROUP}/{VERSION}", RECIPE_PLURAL): (RECIPE_KIND, ""),
}
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


class FakeApiServer:
    """An API server that can refuse requests and stall watches.

    Attributes:
        refuse: (method, plural) -> (HTTP status, reason, message) of requests that are refused.
        stalled: watches stay open and deliver nothing.
        chunk: number of objects per answer to a LIST; 0 for all of them.
        skew: how far its clock is ahead of the operator's.
        requests: (method, plural) of all requests.
    """

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.refuse: dict[tuple[str, str], tuple[int, str, str]] = {}
        self.stalled = False
        self.chunk = 0
        self.skew = timedelta(0)
        self.requests: list[tuple[str, str]] = []
        self.url = ""
        self._history: list[tuple[int, str, Raw]] = []
        self._news = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self._pending: set[asyncio.Task[None]] = set()
        cluster.listeners.append(self._record)

    async def start(self) -> None:
        application = web.Application()
        application.on_response_prepare.append(self._show_time)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _show_time(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = format_datetime(datetime.now(UTC) + self.skew, usegmt=True)

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def _record(self, event: str, document: Raw) -> None:
        version = int(document["metadata"]["resourceVersion"])
        self._history.append((version, event, document))
        task = asyncio.get_running_loop().create_task(self._notify())
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _notify(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        parts = request.match_info["path"].strip("/").split("/")
        if parts[0] == "version":
            return web.json_response({"major": "1", "minor": "34"})
        if parts == ["api"]:
            return web.json_response({"versions": ["v1"]})
        if parts == ["apis"]:
            return web.json_response({"groups": self._groups()})
        version = parts[1] if parts[0] == "api" else "/".join(parts[1:3])
        segments = parts[2:] if parts[0] == "api" else parts[3:]
        if not segments:
            return web.json_response({"resources": self._resources(version)})
        namespace = None
        if segments[0] == "namespaces" and len(segments) > 2:
            namespace, segments = segments[1], segments[2:]
        plural, name = segments[0], segments[1] if len(segments) > 1 else None
        if (version, plural) not in RESOURCES:
            return _status(404, "NotFound", f"no resource {version}/{plural}")
        self.requests.append((request.method, plural))
        if (request.method, plural) in self.refuse:
            return _status(*self.refuse[(request.method, plural)])
        kind, _ = RESOURCES[(version, plural)]
        return await self._object(request, kind, namespace, name, segments[2:] == ["status"])

    @staticmethod
    def _groups() -> list[Raw]:
        groups: dict[str, list[str]] = {}
        for version, _ in RESOURCES:
            if "/" in version:
                groups.setdefault(version.split("/")[0], []).append(version)
        return [
            {
                "name": group,
                "versions": [{"groupVersion": v, "version": v.split("/")[1]} for v in versions],
                "preferredVersion": {"groupVersion": versions[0], "version": "v"},
            }
            for group, versions in groups.items()
        ]

    @staticmethod
    def _resources(version: str) -> list[Raw]:
        found = []
        for (where, plural), (kind, subresource) in RESOURCES.items():
            if where == version:
                common = {"kind": kind, "namespaced": True, "verbs": VERBS}
                found.append({"name": plural, "singularName": kind.lower(), **common})
                if subresource:
                    found.append({"name": f"{plural}/{subresource}", **common})
        return found

    async def _object(
        self, request: web.Request, kind: str, namespace: str | None, name: str | None, status: bool
    ) -> web.StreamResponse:
        cluster, method = self.cluster, request.method
        if method == "GET" and name is None:
            if request.query.get("watch") == "true":
                return await self._watch(request, kind, namespace)
            items = [x for x in cluster.find(kind, namespace) if _selected(x, request)]
            head = {"resourceVersion": str(next(cluster.versions))}
            start = int(request.query.get("continue") or 0)
            if self.chunk and start + self.chunk < len(items):
                head["continue"] = str(start + self.chunk)
            chunk = items[start : start + self.chunk] if self.chunk else items
            return web.json_response({"items": chunk, "metadata": head})
        body = await request.json() if request.can_read_body else None
        if method == "POST":
            assert namespace is not None
            try:
                body["metadata"]["namespace"] = namespace
                return web.json_response(cluster.create(body), status=201)
            except FileExistsError:
                return _status(409, "AlreadyExists", "already exists")
        assert namespace is not None
        assert name is not None
        content = request.content_type
        if method == "PATCH" and content == "application/apply-patch+yaml":
            return web.json_response(cluster.apply(body))
        found = cluster.get(kind, namespace, name)
        if found is None:
            return _status(404, "NotFound", f"{kind} {name} not found")
        if method == "GET":
            return web.json_response(found)
        if method == "DELETE":
            cluster.delete(kind, namespace, name)
            return web.json_response({"status": "Success"})
        assert method == "PATCH"
        wanted = body.get("metadata", {}).get("resourceVersion") if isinstance(body, dict) else None
        if wanted is not None and wanted != found["metadata"]["resourceVersion"]:
            return _status(409, "Conflict", "the object has been modified")

        def change(document: Raw) -> None:
            if content == "application/json-patch+json":
                _json_patch(document, body)
            elif status:
                _merge(document, {"status": body.get("status", {})})
            else:
                _merge(document, body)

        return web.json_response(cluster.update(kind, namespace, name, change))

    async def _watch(
        self, request: web.Request, kind: str, namespace: str | None
    ) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        since = int(request.query.get("resourceVersion") or 0)
        while True:
            if not self.stalled:
                for version, event, document in list(self._history):
                    where = document["metadata"]["namespace"]
                    if version <= since or document["kind"] != kind:
                        continue
                    if namespace in {None, where} and _selected(document, request):
                        line = json.dumps({"type": event, "object": document}) + "\n"
                        await response.write(line.encode())
                since = max([since, *(version for version, _, _ in self._history)])
            async with self._news:
                await self._news.wait()


def _selected(document: Raw, request: web.Request) -> bool:
    labels = document["metadata"].get("labels") or {}
    selector = request.query.get("labelSelector", "")
    pairs = [part.split("=", 1) for part in selector.split(",") if part]
    return all(labels.get(name) == value for name, value in pairs)


def _merge(document: Raw, patch: Raw) -> None:
    for name, value in patch.items():
        if value is None:
            document.pop(name, None)
        elif isinstance(value, dict):
            inner = document.setdefault(name, {})
            _merge(inner, value)
        else:
            document[name] = copy.deepcopy(value)


def _json_patch(document: Raw, operations: list[Raw]) -> None:
    for operation in operations:
        *path, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"][1:].split("/")
        ]
        target: Any = document
        for part in path:
            target = target[int(part)] if isinstance(target, list) else target[part]
        if operation["op"] == "test":
            continue
        if operation["op"] == "remove":
            del target[int(last) if isinstance(target, list) else last]
        elif isinstance(target, list):
            target.insert(len(target) if last == "-" else int(last), operation["value"])
        else:
            target[last] = operation["value"]


def _status(code: int, reason: str, message: str) -> web.Response:
    document = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return web.json_response(document, status=code)
