"""The work queue."""

import asyncio

from persona_operator.work_queue import MAX_PARALLEL, WorkQueue


async def test_a_key_runs_once_at_a_time_and_further_requests_become_one_run() -> None:
    running, most, runs = 0, 0, 0

    async def work(_: tuple[str, str]) -> None:
        nonlocal running, most, runs
        running += 1
        most = max(most, running)
        runs += 1
        await asyncio.sleep(0.02)
        running -= 1

    queue = WorkQueue(work)
    for _ in range(10):
        queue.add(("a", "b"))
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.1)
    assert most == 1
    assert 2 <= runs <= 4
    await queue.stop()


async def test_keys_run_in_parallel_up_to_the_limit() -> None:
    running, most = 0, 0

    async def work(_: tuple[str, str]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    queue = WorkQueue(work)
    for number in range(3 * MAX_PARALLEL):
        queue.add(("a", str(number)))
    await asyncio.sleep(0.1)
    assert most == MAX_PARALLEL
    await queue.stop()


async def test_an_earlier_request_wins_over_a_later_one() -> None:
    done = asyncio.Event()

    async def work(_: tuple[str, str]) -> None:
        done.set()

    queue = WorkQueue(work)
    queue.add(("a", "b"), 3600)
    queue.add(("a", "b"), 0)
    await asyncio.wait_for(done.wait(), 5)
    await queue.stop()


async def test_a_failure_stops_no_other_work_and_stopping_waits_for_it() -> None:
    finished = []

    async def work(key: tuple[str, str]) -> None:
        if key[1] == "bad":
            raise RuntimeError("bad")
        await asyncio.sleep(0.05)
        finished.append(key)

    queue = WorkQueue(work)
    queue.add(("a", "bad"))
    queue.add(("a", "good"))
    await asyncio.sleep(0.01)
    await queue.stop()
    assert finished == [("a", "good")]
    queue.add(("a", "late"))
    await asyncio.sleep(0.02)
    assert len(finished) == 1


async def test_keys_without_a_place_are_counted_as_waiting() -> None:
    go_on = asyncio.Event()

    async def work(_: tuple[str, str]) -> None:
        await go_on.wait()

    queue = WorkQueue(work)
    for number in range(MAX_PARALLEL + 3):
        queue.add(("a", str(number)))
    queue.add(("a", "later"), delay=60)
    await asyncio.sleep(0.05)
    assert queue.waiting == 3
    go_on.set()
    await asyncio.sleep(0.05)
    assert queue.waiting == 0
    await queue.stop()
