"""One operator at a time, over the API server in memory."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from kubernetes import client

from persona_operator.kube_api import KubeApi
from persona_operator.leadership import Leadership
from support.fake_api_server import FakeApiServer
from support.fake_cluster import FakeCluster
from support.operator_world import NAMESPACE, persona_document
from support.running_operator import Operator, config


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    made = FakeApiServer(FakeCluster())
    await made.start()
    yield made
    await made.stop()


def candidate(server: FakeApiServer, identity: str, *namespaces: str) -> Leadership:
    configuration = client.Configuration()
    configuration.host = server.url
    api = KubeApi(client.ApiClient(configuration))
    return Leadership(api, namespaces or ("a",), identity, seconds=1.0)


async def is_taken(leadership: Leadership, seconds: float) -> bool:
    try:
        await asyncio.wait_for(leadership.take(lambda: None), seconds)
    except TimeoutError:
        return False
    return True


def holders(server: FakeApiServer) -> dict[str, str]:
    found = server.cluster.find("Lease")
    return {item["metadata"]["namespace"]: item["spec"]["holderIdentity"] for item in found}


async def test_a_second_operator_waits_until_the_first_one_gives_back(
    server: FakeApiServer,
) -> None:
    first, second = candidate(server, "first"), candidate(server, "second")
    lost, waits = asyncio.Event(), asyncio.Event()
    await asyncio.wait_for(first.take(lambda: None), 5)
    first.keep(lost.set)
    takes = asyncio.create_task(second.take(waits.set))
    await asyncio.wait_for(waits.wait(), 5)
    await asyncio.sleep(3)  # three times as long as a Lease lives
    assert not takes.done()
    assert holders(server) == {"a": "first"}
    await first.give_back()
    await asyncio.wait_for(takes, 5)
    assert holders(server) == {"a": "second"}
    assert server.cluster.find("Lease")[0]["spec"]["leaseTransitions"] == 1
    assert not lost.is_set()


async def test_a_dead_operator_is_followed_and_notices_when_it_wakes_up(
    server: FakeApiServer,
) -> None:
    first, second = candidate(server, "first"), candidate(server, "second")
    await asyncio.wait_for(first.take(lambda: None), 5)
    assert not await is_taken(second, 0.5)
    assert await is_taken(second, 5)
    second.keep(lambda: None)
    lost = asyncio.Event()
    first.keep(lost.set)
    await asyncio.wait_for(lost.wait(), 5)
    assert holders(server) == {"a": "second"}
    await second.give_back()


async def test_a_leader_that_cannot_renew_stops_before_its_lease_ends(
    server: FakeApiServer,
) -> None:
    leader = candidate(server, "first")
    await asyncio.wait_for(leader.take(lambda: None), 5)
    lost = asyncio.Event()
    leader.keep(lost.set)
    server.refuse[("PATCH", "leases")] = (500, "InternalError", "etcd is down")
    await asyncio.wait_for(lost.wait(), 5)


async def test_operators_with_a_common_namespace_exclude_each_other(
    server: FakeApiServer,
) -> None:
    first, second = candidate(server, "first", "a", "b"), candidate(server, "second", "c", "b")
    assert await is_taken(first, 5)
    first.keep(lambda: None)
    assert not await is_taken(second, 2)
    other = candidate(server, "other", "d")
    assert await is_taken(other, 5)
    assert holders(server) == {"a": "first", "b": "first", "d": "other"}
    await first.give_back()


@contextmanager
def process(server: FakeApiServer, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    settings = config(leaseSeconds=3).model_dump(mode="json", by_alias=True, exclude_none=True)
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    where = {
        "KUBECONFIG": str(folder / "kubeconfig"),
        "PERSONA_OPERATOR_CONFIG": str(folder / "settings.yaml"),
    }
    started = subprocess.Popen(
        [sys.executable, "-m", "persona_operator"],
        env={**os.environ, **where},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait(10)


def leader(server: FakeApiServer) -> str:
    return holders(server).get(NAMESPACE, "")


async def eventually(operator: Operator, holds: Callable[[], object]) -> None:
    """Play the controllers until something holds; processes may take long to start."""
    async with asyncio.timeout(120):
        while not holds():
            operator.work()
            await asyncio.sleep(0.1)


async def test_the_other_operator_continues_when_the_first_is_killed_or_stopped(
    operator: Operator, tmp_path: Path
) -> None:
    server, cluster = operator.server, operator.cluster
    with process(server, tmp_path) as first:
        await eventually(operator, lambda: leader(server))
        killed = leader(server)
        with process(server, tmp_path) as second:
            cluster.create(persona_document())
            await eventually(operator, lambda: len(operator.created_jobs()) >= 3)
            first.send_signal(signal.SIGKILL)
            await eventually(operator, lambda: leader(server) not in {"", killed})
            await eventually(operator, lambda: operator.ready().get("status") == "True")
            assert len(operator.created_jobs()) == len(set(operator.created_jobs())) == 7
            stopped = leader(server)
            with process(server, tmp_path):
                second.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(second.wait, 60) == 0
                await eventually(operator, lambda: leader(server) not in {"", stopped})
                cluster.create(persona_document("poet"))
                await eventually(operator, lambda: operator.ready("poet").get("status") == "True")
