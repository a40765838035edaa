"""Many PersonaModels: the real operator writes only what changes, and shares a limit fairly."""

import asyncio

from support.fake_cluster import Raw, success_message
from support.operator_world import COMMIT, NAMESPACE, persona_document
from support.running_operator import Operator, config


def is_write(request: tuple[str, str]) -> bool:
    return request[0] != "GET" and request[1] != "leases"


def stage_reasons(operator: Operator, names: list[str]) -> list[str]:
    stages = [operator.status(name).get("stages", [{}])[0] for name in names]
    return [stage.get("reason", "") for stage in stages]


async def test_waiting_for_a_place_writes_nothing_and_a_freed_one_is_taken_at_once(
    operator: Operator,
) -> None:
    # Personas with base models of their own share nothing.
    names = [f"sailor-{number}" for number in range(5)]
    async with operator.running(config(maxParallelStages=2)):
        for name in names:
            model = {"uri": f"hf://org/{name}", "revision": COMMIT}
            operator.cluster.create(persona_document(name, baseModel=model))
        await operator.until(
            lambda: stage_reasons(operator, names).count("WaitingForCapacity") == 3, "three wait"
        )
        await asyncio.sleep(1)
        operator.server.requests.clear()
        await asyncio.sleep(3)
        quiet = [request for request in operator.server.requests if is_write(request)]
        assert quiet == []
        assert len(operator.cluster.open_jobs()) == 2
        operator.cluster.finish(operator.cluster.open_jobs()[0], 0, success_message("reference"))
        await operator.until(lambda: len(operator.created_jobs()) == 3, "the freed place is taken")
        assert len(operator.cluster.open_jobs()) == 2


async def test_an_idle_operator_asks_for_nothing(operator: Operator) -> None:
    async with operator.running(config()):
        names = ["captain", "cook", "poet"]
        for name in names:
            operator.cluster.create(persona_document(name))
        await operator.work_until(
            lambda: all(operator.ready(name).get("status") == "True" for name in names), "Ready"
        )
        await asyncio.sleep(2)
        operator.server.requests.clear()
        await asyncio.sleep(3)  # six times the interval of the periodic work
    assert [request for request in operator.server.requests if is_write(request)] == []
    assert [plural for _, plural in operator.server.requests if plural != "leases"] == []


def port(operator: Operator) -> int:
    service = operator.cluster.get("Service", NAMESPACE, "captain") or {}
    return int(service["spec"]["ports"][0]["port"])


async def test_a_restart_applies_nothing_that_is_in_the_cluster_already(operator: Operator) -> None:
    async with operator.running(config()):
        operator.cluster.create(persona_document())
        await operator.work_until(lambda: operator.ready().get("status") == "True", "Ready")
        await asyncio.sleep(1)
    operator.server.requests.clear()
    async with operator.running(config(resyncSeconds=1)):
        await asyncio.sleep(4)
        assert [request for request in operator.server.requests if is_write(request)] == []

        def drift(document: Raw) -> None:
            document["spec"]["ports"][0]["port"] = 9999

        operator.cluster.update("Service", NAMESPACE, "captain", drift)
        await operator.until(lambda: port(operator) == 8000, "the port is back")
