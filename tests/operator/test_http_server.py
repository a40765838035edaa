"""/metrics, /healthz and /readyz."""

from typing import Any

from persona_operator.health import WatchHealth
from persona_operator.http_server import HttpServers
from persona_operator.metrics import OperatorMetrics


async def test_probes_and_metrics_report_a_stalled_watch(unused_tcp_port_factory: Any) -> None:
    import aiohttp

    now = [0.0]
    health = WatchHealth(60, clock=lambda: now[0])
    ready = [False]
    servers = HttpServers(OperatorMetrics(health.event_ages), health, lambda: ready[0])
    ports = unused_tcp_port_factory(), unused_tcp_port_factory()
    await servers.start(metrics_port=ports[0], health_port=ports[1], host="127.0.0.1")

    async def get(port: int, path: str) -> tuple[int, str]:
        async with session.get(f"http://127.0.0.1:{port}{path}") as response:
            return response.status, await response.text()

    async with aiohttp.ClientSession() as session:
        assert await get(ports[1], "/healthz") == (503, "starting")
        assert (await get(ports[1], "/readyz"))[0] == 503
        ready[0] = True
        assert (await get(ports[1], "/healthz"))[0] == 200
        assert (await get(ports[1], "/readyz"))[0] == 200
        health.expect(("Job", "a", "b"), "1")
        now[0] = 100
        status, text = await get(ports[1], "/healthz")
        assert status == 503
        assert "has stalled" in text
        status, text = await get(ports[0], "/metrics")
        assert status == 200
        assert "persona_pruner_watch_healthy 0.0" in text
    await servers.stop()
