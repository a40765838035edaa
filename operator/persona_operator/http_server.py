"""The operator's two small HTTP servers: /metrics, and /healthz with /readyz."""

from collections.abc import Callable

from aiohttp import web

from .health import WatchHealth
from .metrics import OperatorMetrics

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class HttpServers:
    """Serves metrics and probes until it is stopped.

    Args:
        metrics: rendered at each scrape.
        health: checked at each liveness probe.
        ready: returns whether the operator works, or waits for another one to end.
    """

    def __init__(
        self, metrics: OperatorMetrics, health: WatchHealth, ready: Callable[[], bool]
    ) -> None:
        self._metrics = metrics
        self._health = health
        self._ready = ready
        self._runners: list[web.AppRunner] = []

    async def start(self, *, metrics_port: int, health_port: int, host: str = "0.0.0.0") -> None:  # noqa: S104 -- a pod is reached at its own address
        """Listen on both ports; port 0 switches a server off."""
        metrics, probes = web.Application(), web.Application()
        metrics.router.add_get("/metrics", self._serve_metrics)
        probes.router.add_get("/healthz", self._serve_health)
        probes.router.add_get("/readyz", self._serve_ready)
        for application, port in ((metrics, metrics_port), (probes, health_port)):
            if port:
                runner = web.AppRunner(application, access_log=None)
                await runner.setup()
                await web.TCPSite(runner, host, port).start()
                self._runners.append(runner)

    async def stop(self) -> None:
        """Close both servers."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    async def _serve_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": _METRICS_TYPE})

    async def _serve_health(self, _request: web.Request) -> web.Response:
        if not self._ready():
            return web.Response(text="starting", status=503)
        problem = self._health.problem()
        self._metrics.healthy.set(problem is None)
        return web.Response(text=problem or "ok", status=503 if problem else 200)

    async def _serve_ready(self, _request: web.Request) -> web.Response:
        ready = self._ready()
        return web.Response(text="ok" if ready else "starting", status=200 if ready else 503)
