"""Builds and connects the operator's parts; kopf passes them to every handler."""

import asyncio
import logging
import socket
import time
import uuid
from dataclasses import dataclass, field

from kubernetes import client

from .controller import Controller
from .expectations import Expectations
from .health import WatchHealth
from .http_server import HttpServers
from .kube_api import KubeApi, load_client
from .leadership import Leadership
from .metrics import OperatorMetrics
from .object_cache import ObjectCache
from .owned_objects import OwnedObjects
from .settings import Settings
from .store_probe import StoreProbe

logger = logging.getLogger(__name__)


@dataclass
class Runtime:
    """The running operator.

    Attributes:
        settings: the administrator's settings.
        api_client: the kubernetes client; created at the start where it is left out.
        stopped: set once the operator must end, because another one may take over.
    """

    settings: Settings
    api_client: client.ApiClient | None = None
    health: WatchHealth = field(init=False)
    metrics: OperatorMetrics = field(init=False)
    controller: Controller = field(init=False)
    stopped: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _servers: HttpServers = field(init=False)
    _ready: bool = field(init=False, default=False)
    _leadership: Leadership | None = field(init=False, default=None)
    _ending: asyncio.Task[None] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.health = WatchHealth(self.settings.watch_deadline_seconds)
        self.metrics = OperatorMetrics(self.health.event_ages, self._queued)
        self._servers = HttpServers(self.metrics, self.health, lambda: self._ready)

    def _queued(self) -> int:
        return self.controller.queued if hasattr(self, "controller") else 0

    async def start(self) -> None:
        """Wait until no other operator works, fill the cache, then start the controller.

        The startup probe fails until the cache is filled, or until another operator is known to
        be at work.

        Raises:
            ApiUnavailableError, ApiRefusedError: the objects of some kind can't be listed.
        """
        settings = self.settings
        api = KubeApi(self.api_client or load_client(), on_request=self.metrics.request)
        now = api.clock.now
        probe = StoreProbe(
            settings.store,
            absent_seconds=settings.store_probe_seconds,
            now=now,
            on_error=self.metrics.store_errors.inc,
        )
        owned = OwnedObjects(ObjectCache(), Expectations(time.monotonic, now))
        self.controller = Controller(settings, api, owned, probe, self.health, self.metrics)
        await self._servers.start(
            metrics_port=settings.metrics_port, health_port=settings.health_port
        )
        leases = settings.namespaces or [settings.lease_namespace]
        identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        self._leadership = Leadership(api, leases, identity, settings.lease_seconds)
        await self._leadership.take(self._stand_by)
        self._leadership.keep(self._lose)
        # Fails at once with a clear message when the CRD or the permission is missing.
        await self.controller.start()
        self._ready = True

    def _stand_by(self) -> None:
        self._ready = True

    def _lose(self) -> None:
        logger.error("The Leases weren't renewed in time, so another operator may take over")
        self._ending = asyncio.get_running_loop().create_task(self.controller.stop())
        self.stopped.set()

    async def stop(self) -> None:
        """Finish running reconciliations and stop the servers."""
        self._ready = False
        if hasattr(self, "controller"):
            await self.controller.stop()
        if self._leadership is not None:
            await self._leadership.give_back()
        await self._servers.stop()
