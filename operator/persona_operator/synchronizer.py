"""Keeps the cache like the cluster where the watches alone can't: at the start, and now and then.

kopf doesn't show where the first list of its watches ends, so the operator lists every kind itself
before anything is watched. Later lists ask for metadata alone: they find what a watch missed.
"""

import logging
from collections.abc import Iterable

from persona_jobs.api import KIND

from .health import WatchHealth
from .kube_api import KubeApi
from .labels import MANAGED_SELECTOR
from .object_cache import KINDS, OWNED_KINDS, ObjectCache, PersonaKey
from .tables import Identity

logger = logging.getLogger(__name__)


class Synchronizer:
    """Lists the cluster's objects into the cache.

    Every coroutine raises `ApiUnavailableError` or `ApiRefusedError`.

    Args:
        api: the API server.
        cache: the objects in the cluster.
        health: learns what the watches have to deliver.
        namespaces: the watched namespaces; None alone stands for all of them.
    """

    def __init__(
        self,
        api: KubeApi,
        cache: ObjectCache,
        health: WatchHealth,
        namespaces: Iterable[str | None],
    ) -> None:
        self._api = api
        self._cache = cache
        self._health = health
        self._namespaces = list(namespaces)

    async def first_lists(self) -> None:
        """Fill the cache with the objects of every kind."""
        for kind in KINDS:
            for namespace in self._namespaces:
                async for chunk, _ in self._api.list(kind, namespace, _selector(kind)):
                    for document in chunk:
                        self._cache.observe(kind, document)

    async def check_watch(self) -> None:
        """Expect the watch to deliver the PersonaModels as they are now."""
        for namespace in self._namespaces:
            async for chunk, _ in self._api.list(KIND, namespace, metadata_only=True):
                for document in chunk:
                    metadata = document["metadata"]
                    at = (KIND, metadata["namespace"], metadata["name"])
                    self._health.expect(at, metadata["resourceVersion"])

    async def resync(self) -> set[PersonaKey]:
        """Find what the watches missed, and return the PersonaModels that it concerns."""
        changed: set[PersonaKey] = set()
        for kind in KINDS:
            for namespace in self._namespaces:
                changed |= await self._resync(kind, namespace)
        return changed

    async def _resync(self, kind: str, namespace: str | None) -> set[PersonaKey]:
        before = self._cache.identities(kind, namespace)
        listed: dict[Identity, str] = {}
        listed_at = ""
        chunks = self._api.list(kind, namespace, _selector(kind), metadata_only=True)
        async for chunk, version in chunks:
            listed_at = version
            for document in chunk:
                metadata = document["metadata"]
                listed[metadata["namespace"], metadata["name"]] = metadata["resourceVersion"]
        changed: set[PersonaKey] = set()
        for at in set(before) - set(listed):
            concerned = self._cache.concerned(kind, at)
            # What was created while the list was read is newer than the list.
            if self._cache.remove(kind, at, listed_at):
                self._health.forget((kind, *at))
                changed.update(concerned)
        for at, newest in listed.items():
            if not self._cache.is_older(kind, at, newest):
                continue
            found = await self._api.get(kind, *at)
            if found is not None and self._cache.observe(kind, found):
                logger.info("A change of %s %s/%s was read that no watch has shown yet", kind, *at)
                changed.update(self._cache.concerned(kind, at))
        return changed


def _selector(kind: str) -> str:
    return MANAGED_SELECTOR if kind in OWNED_KINDS else ""
