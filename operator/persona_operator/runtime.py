"""Builds and connects the operator's parts; kopf passes them to every handler."""

import time
from dataclasses import dataclass, field

from kubernetes import client

from .controller import Controller
from .expectations import Expectations
from .health import WatchHealth
from .http_server import HttpServers
from .kube_api import KubeApi, load_client
from .metrics import OperatorMetrics
from .object_cache import ObjectCache
from .owned_objects import OwnedObjects
from .settings import Settings
from .store_probe import StoreProbe


@dataclass
class Runtime:
    """The running operator.

    Attributes:
        settings: the administrator's settings.
        api_client: the kubernetes client; created at the start where it is left out.
    """

    settings: Settings
    api_client: client.ApiClient | None = None
    health: WatchHealth = field(init=False)
    metrics: OperatorMetrics = field(init=False)
    controller: Controller = field(init=False)
    _servers: HttpServers = field(init=False)
    _started: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.health = WatchHealth(self.settings.watch_deadline_seconds)
        self.metrics = OperatorMetrics(self.health.event_ages, self._queued)
        self._servers = HttpServers(self.metrics, self.health, lambda: self._started)

    def _queued(self) -> int:
        return self.controller.queued if hasattr(self, "controller") else 0

    async def start(self) -> None:
        """Fill the cache, then start the controller and the HTTP servers.

        The startup probe finds nobody that answers before the cache is filled.

        Raises:
            ApiUnavailableError, ApiRefusedError: the objects of some kind can't be listed.
        """
        settings = self.settings
        api = KubeApi(self.api_client or load_client(), on_request=self.metrics.request)
        now = api.clock.now
        probe = StoreProbe(settings.store, absent_seconds=settings.store_probe_seconds, now=now)
        owned = OwnedObjects(ObjectCache(), Expectations(time.monotonic, now))
        self.controller = Controller(settings, api, owned, probe, self.health, self.metrics)
        # Fails at once with a clear message when the CRD or the permission is missing.
        await self.controller.start()
        await self._servers.start(
            metrics_port=settings.metrics_port, health_port=settings.health_port
        )
        self._started = True

    async def stop(self) -> None:
        """Finish running reconciliations and stop the servers."""
        self._started = False
        if hasattr(self, "controller"):
            await self.controller.stop()
        await self._servers.stop()
