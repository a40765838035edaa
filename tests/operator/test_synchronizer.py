"""The cache is filled at the start, and later lists find what a watch has missed."""

from collections.abc import AsyncIterator

import pytest
from kubernetes import client

from persona_jobs.api import KIND
from persona_operator.health import WatchHealth
from persona_operator.kube_api import KubeApi
from persona_operator.object_cache import ObjectCache
from persona_operator.synchronizer import Synchronizer
from support.fake_api_server import FakeApiServer
from support.operator_world import NAMESPACE, World, persona_document


class Setup:
    def __init__(self, world: World, server: FakeApiServer) -> None:
        configuration = client.Configuration()
        configuration.host = server.url
        self.world, self.server, self.cache = world, server, ObjectCache()
        self.health = WatchHealth(60.0)
        self.synchronizer = Synchronizer(
            KubeApi(client.ApiClient(configuration)), self.cache, self.health, [None]
        )


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    world = World()
    server = FakeApiServer(world.cluster)
    await server.start()
    for name in ("captain", "poet"):
        world.add(persona_document(name))
        world.run(name, until="mask" if name == "poet" else None)
    world.cluster.make_pod(world.job("mask", "poet"))
    yield Setup(world, server)
    await server.stop()


async def test_the_first_lists_hold_every_object(setup: Setup) -> None:
    setup.server.chunk = 3
    await setup.synchronizer.first_lists()
    for kind in (KIND, "Job", "Pod", "Deployment", "ConfigMap", "Service"):
        expected = {
            (NAMESPACE, item["metadata"]["name"]) for item in setup.world.cluster.find(kind)
        }
        assert set(setup.cache.identities(kind, None)) == expected != set(), kind
    document = setup.world.cluster.get(KIND, NAMESPACE, "poet")
    assert setup.cache.persona((NAMESPACE, "poet")) == document


async def test_a_later_list_finds_what_the_watches_missed(setup: Setup) -> None:
    cluster = setup.world.cluster
    await setup.synchronizer.first_lists()
    assert await setup.synchronizer.resync() == set()
    cluster.delete("Deployment", NAMESPACE, "captain")
    cluster.delete("Pod", NAMESPACE, cluster.find("Pod")[0]["metadata"]["name"])
    setup.world.edit("poet", pruning={"sparsityPercent": 40})
    found = await setup.synchronizer.resync()
    assert found == {(NAMESPACE, "captain"), (NAMESPACE, "poet")}
    assert setup.cache.pods.identities() == []
    assert setup.cache.deployments.find((NAMESPACE, "captain")) == {}
    poet = setup.cache.persona((NAMESPACE, "poet"))
    assert poet is not None
    assert poet["spec"]["pruning"] == {"sparsityPercent": 40}
    assert await setup.synchronizer.resync() == set()
