"""The real operator, kopf included, over an API server in memory."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import kopf
from kubernetes import client

import persona_operator.handlers  # noqa: F401 -- registers the handlers with kopf
from persona_jobs.api import KIND
from persona_operator.runtime import Runtime
from persona_operator.settings import Settings
from support.fake_api_server import FakeApiServer
from support.fake_cluster import Raw, success_message
from support.operator_world import NAMESPACE, settings

PATIENCE = 20.0


class Operator:
    """A cluster with an API server; operators run against it and stop again."""

    def __init__(self, server: FakeApiServer) -> None:
        self.server = server
        self.cluster = server.cluster

    @asynccontextmanager
    async def running(self, config: Settings) -> AsyncIterator[Runtime]:
        configuration = client.Configuration()
        configuration.host = self.server.url
        runtime = Runtime(config, client.ApiClient(configuration))
        stop, ready = threading.Event(), threading.Event()

        def run() -> None:
            asyncio.run(
                kopf.operator(
                    memo=runtime,
                    namespaces=[NAMESPACE],
                    standalone=True,
                    stop_flag=stop,
                    ready_flag=ready,
                )
            )

        # A loop of its own: kopf ends whatever else runs in its loop when it stops.
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            assert await asyncio.to_thread(ready.wait, PATIENCE)
            yield runtime
        finally:
            stop.set()
            await asyncio.to_thread(thread.join, PATIENCE)
            assert not thread.is_alive()

    async def until(self, holds: Callable[[], Any], what: str) -> None:
        for _ in range(int(PATIENCE / 0.05)):
            if holds():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never: {what}; {self.ready()}")

    def ready(self, name: str = "captain") -> Raw:
        document = self.cluster.get(KIND, NAMESPACE, name) or {}
        conditions = document.get("status", {}).get("conditions", [])
        return next((item for item in conditions if item["type"] == "Ready"), {})

    def status(self, name: str = "captain") -> Raw:
        document = self.cluster.get(KIND, NAMESPACE, name) or {}
        return document.get("status", {})

    def created_jobs(self) -> list[str]:
        return [name for kind, name in self.cluster.created if kind == "Job"]

    def work(self) -> None:
        """Controllers and nodes do their part once."""
        self.cluster.now = datetime.now(UTC) + self.server.skew
        for job in self.cluster.open_jobs():
            if not job["spec"].get("suspend"):
                stage = job["metadata"]["labels"]["persona-pruner.io/stage"]
                self.cluster.finish(job, 0, success_message(stage))
        for deployment in self.cluster.find("Deployment"):
            head = deployment["metadata"]
            if "status" not in deployment or (
                deployment["status"]["observedGeneration"] != head["generation"]
            ):
                self.cluster.roll_out(head["namespace"], head["name"])

    async def work_until(self, holds: Callable[[], Any], what: str) -> None:
        def check() -> Any:
            self.work()
            return holds()

        await self.until(check, what)


def config(**changes: Any) -> Settings:
    return settings(
        **{
            "namespaces": [NAMESPACE],
            "metricsPort": 0,
            "healthPort": 0,
            "reconcileIntervalSeconds": 0.5,
            "retry": {"backoffSeconds": 0.5},
            **changes,
        }
    )
