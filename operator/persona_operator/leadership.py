"""One operator at a time: whoever holds the Leases works, others of its kind wait.

There is one Lease per watched namespace, or one for the whole cluster, so that operators of two
releases exclude each other too where they watch the same namespaces. The clocks of the machines
don't matter: a Lease has ended when its holder hasn't renewed it for its duration, as measured by
the one who waits. (client-go's leader election works the same way.)
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .errors import ApiUnavailableError
from .kube_api import KubeApi

logger = logging.getLogger(__name__)
LEASE_NAME = "persona-pruner-operator"


@dataclass
class _Observed:
    """What a Lease said, and since when it has said the same."""

    record: tuple[str, str]
    since: float


class Leadership:
    """Takes, renews and returns the Leases.

    Args:
        api: the API server.
        namespaces: the namespaces of the Leases.
        identity: name of this operator's pod, or whatever tells it from others.
        seconds: a Lease that isn't renewed for this long has ended.
        clock: returns the seconds of a steady clock.
    """

    def __init__(
        self,
        api: KubeApi,
        namespaces: Iterable[str],
        identity: str,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        # Everybody asks in the same order, so two operators never wait for each other.
        self._namespaces = sorted(namespaces)
        self._identity = identity
        self._seconds = seconds
        self._clock = clock
        self._observed: dict[str, _Observed] = {}
        self._renewal: asyncio.Task[None] | None = None

    async def take(self, waits: Callable[[], None]) -> None:
        """Wait until this operator holds all Leases.

        Args:
            waits: called once another operator is seen to hold one of them.

        Raises:
            ApiRefusedError: the Leases may not be read or written.
        """
        announced = ""
        while True:
            holder = await self._try_all()
            if holder is None:
                return
            if holder not in {"", announced}:
                announced = holder
                logger.info("Another operator is at work: %s. This one waits.", holder)
                waits()
            await asyncio.sleep(self._seconds / 7)

    def keep(self, lost: Callable[[], None]) -> None:
        """Renew the Leases from now on; call `lost` when that fails for too long."""
        self._renewal = asyncio.get_running_loop().create_task(self._renew_forever(lost))

    async def give_back(self) -> None:
        """Renew nothing more, and let another operator take over at once."""
        if self._renewal is None:
            return
        self._renewal.cancel()
        for namespace in self._namespaces:
            try:
                found = await self._api.get("Lease", namespace, LEASE_NAME)
                if found is not None and _holder(found) == self._identity:
                    await self._write(found, namespace, "")
            except ApiUnavailableError as error:
                logger.warning("A Lease ends by itself: %s", error)

    async def _renew_forever(self, lost: Callable[[], None]) -> None:
        renewed = self._clock()
        while True:
            await asyncio.sleep(self._seconds / 5)
            try:
                # The answer may be late: what counts is when it was asked for.
                asked = self._clock()
                limit = self._seconds * 2 / 3
                if await asyncio.wait_for(self._try_all(), limit) is None:
                    renewed = asked
            except TimeoutError:
                logger.warning("The API server doesn't answer when Leases are renewed")
            except Exception:
                logger.exception("The Leases can't be renewed")
            if self._clock() - renewed > self._seconds * 2 / 3:
                lost()
                return

    async def _try_all(self) -> str | None:
        """Return None where this operator holds all Leases, else who holds the first other one."""
        for namespace in self._namespaces:
            try:
                holder = await self._try(namespace)
            except ApiUnavailableError as error:
                logger.warning("Lease %s/%s can't be renewed: %s", namespace, LEASE_NAME, error)
                return ""
            if holder != self._identity:
                return holder
        return None

    async def _try(self, namespace: str) -> str:
        """Take or renew one Lease and return who holds it now."""
        found = await self._api.get("Lease", namespace, LEASE_NAME)
        if found is None:
            manifest = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": LEASE_NAME, "namespace": namespace},
                "spec": self._spec(self._identity, 0),
            }
            return self._identity if await self._api.create(manifest) else ""
        spec, holder = found.get("spec") or {}, _holder(found)
        record = (holder, str(spec.get("renewTime")))
        observed = self._observed.get(namespace)
        if observed is None or observed.record != record:
            observed = self._observed[namespace] = _Observed(record, self._clock())
        duration = float(spec.get("leaseDurationSeconds") or self._seconds)
        ended = self._clock() - observed.since > duration
        if holder not in {"", self._identity} and not ended:
            return holder
        await self._write(found, namespace, self._identity)
        return self._identity

    async def _write(self, found: dict[str, Any], namespace: str, holder: str) -> None:
        """Write a Lease, unless somebody else was faster: then ApiUnavailableError is raised."""
        changes = int((found.get("spec") or {}).get("leaseTransitions") or 0)
        changes += holder not in {"", _holder(found)}
        patch = {
            "metadata": {"resourceVersion": found["metadata"]["resourceVersion"]},
            "spec": self._spec(holder, changes),
        }
        await self._api.merge("Lease", namespace, LEASE_NAME, patch)

    def _spec(self, holder: str, changes: int) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(round(self._seconds), 1),
            "renewTime": now,
            "leaseTransitions": changes,
        }


def _holder(lease: dict[str, Any]) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")
