"""Looking up results with the operator's own credentials."""

import asyncio
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from persona_jobs.api import Storage
from persona_jobs.errors import StoreError
from persona_jobs.store import FileStore, StageArtifacts, StageManifest, Store, open_store
from persona_operator.reconcile import Stored
from persona_operator.settings import Store as StoreSettings
from persona_operator.store_access import StoreAccess, is_operators_own, store_access
from persona_operator.store_probe import THREADS, StoreProbe, open_own_store
from support.credentials_service import Service
from support.s3_server import running_s3_server


def test_the_operators_credentials_are_used_on_the_administrators_store_only() -> None:
    default = StoreSettings(uri="s3://a/b", endpoint="http://x")
    environ = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    own = store_access(Storage(), default)
    assert is_operators_own(own, default)
    assert open_own_store(own, default, environ) is not None
    assert open_own_store(own, default, {}) is None
    for storage in ({"uri": "s3://a/other"}, {"endpoint": "http://evil.example"}):
        access = store_access(Storage.model_validate(storage), default)
        assert open_own_store(access, default, environ) is None


async def test_the_role_of_the_operators_own_pod_gives_access_to_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    service, key = Service(), ("mask", "a" * 64)
    with running_s3_server(tmp_path, "artifacts") as server:
        publish(open_store("s3://artifacts/p", server.options()), key, tmp_path)
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/role")
        default = StoreSettings(uri="s3://artifacts/p", endpoint=server.endpoint)
        store = open_own_store(store_access(Storage(), default), default, os.environ)
        assert store is not None
        found = StageArtifacts(store).finished(*key)
        assert found is not None
        assert found.metrics == {"steps": 5}
    service.server.shutdown()
    assert service.asked == ["GET /role"]


def publish(store: Store, key: tuple[str, str], directory: Path) -> None:
    folder = directory / "made"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    manifest = StageManifest(stage=key[0], stage_version=1, key=key[1], files={}, inputs={},
                             created_at=datetime.now(UTC), parameters={}, metrics={"steps": 5},
                             timings={}, versions={}, environment={})  # fmt: skip
    StageArtifacts(store).publish(manifest, folder)


class _Opener:
    """Opens nothing until it is let; counts the questions."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls = 0
        self.error = error

    def __call__(self, access: StoreAccess, default: StoreSettings) -> Store | None:
        self.calls += 1
        if self.error:
            raise self.error
        return None


async def test_a_lookup_never_blocks_and_its_answer_is_cached() -> None:
    now = [0.0]
    opener = _Opener(StoreError("is unreachable"))
    default = StoreSettings(uri="s3://a")
    probe = StoreProbe(default, opener=opener, clock=lambda: now[0])
    access, key = StoreAccess(uri="s3://a"), ("mask", "k" * 64)
    done = asyncio.Event()
    assert probe.look_up(access, [key], done.set) == {key: Stored("Pending")}
    await asyncio.wait_for(done.wait(), 5)
    assert probe.look_up(access, [key], done.set) == {key: Stored("Unknown")}
    assert opener.calls == 1
    now[0] = 20  # an unreachable store is asked again after a while
    done.clear()
    assert probe.look_up(access, [key], done.set) == {key: Stored("Pending")}
    await asyncio.wait_for(done.wait(), 5)
    assert opener.calls == 2


async def test_an_absent_result_is_looked_up_again_once_a_job_has_made_it(tmp_path: Path) -> None:
    key = ("mask", "a" * 64)
    store = FileStore(tmp_path / "store")
    default = StoreSettings(uri="s3://a")
    probe = StoreProbe(default, opener=lambda *_: store, clock=lambda: 0.0)
    done = asyncio.Event()

    async def look_up() -> Stored:
        done.clear()
        probe.look_up(StoreAccess(uri="s3://a"), [key], done.set)
        await asyncio.wait_for(done.wait(), 5)
        return probe.look_up(StoreAccess(uri="s3://a"), [key], done.set)[key]

    assert (await look_up()).state == "Absent"
    publish(store, key, tmp_path)
    assert probe.look_up(StoreAccess(uri="s3://a"), [key], done.set)[key].state == "Absent"
    probe.forget_absent(key)
    made = await look_up()
    assert (made.state, made.results) == ("Present", {"steps": 5})
    (tmp_path / "store" / "stages" / "mask" / key[1] / "result.json").write_text("cut off")
    probe.forget(StoreAccess(uri="s3://a"), [key])
    assert (await look_up()).state == "Absent"  # a result that isn't whole is none


async def test_a_users_own_store_is_never_queried() -> None:
    opener = _Opener()
    probe = StoreProbe(StoreSettings(uri="s3://a"), opener=opener)
    assert probe.look_up(StoreAccess(uri="s3://b"), [("mask", "k")], lambda: None) == {}
    assert opener.calls == 0


async def test_an_unreachable_store_is_one_fact_for_all_personas() -> None:
    opener = _Opener(StoreError("is unreachable"))
    errors: list[None] = []
    probe = StoreProbe(
        StoreSettings(uri="s3://a"),
        opener=opener,
        clock=lambda: 0.0,
        on_error=lambda: errors.append(None),
    )
    access = StoreAccess(uri="s3://a")
    keys = [("mask", str(number) * 64) for number in range(10)]
    answered = asyncio.Semaphore(0)
    for key in keys:
        assert probe.look_up(access, [key], answered.release) == {key: Stored("Pending")}
    for _ in keys:
        await asyncio.wait_for(answered.acquire(), 5)
    assert 1 <= opener.calls <= THREADS
    assert len(errors) == opener.calls
    further = ("slice", "f" * 64)
    assert probe.look_up(access, [further], answered.release) == {further: Stored("Unknown")}
    assert 1 <= opener.calls <= THREADS


async def test_a_hanging_store_leaves_the_threads_of_others_alone() -> None:
    hanging = threading.Event()

    def opener(*_: object) -> None:
        hanging.wait(20)

    probe = StoreProbe(StoreSettings(uri="s3://a"), opener=opener)
    for number in range(100):
        probe.look_up(StoreAccess(uri="s3://a"), [("mask", str(number))], lambda: None)
    try:
        await asyncio.wait_for(asyncio.to_thread(lambda: None), 5)
    finally:
        hanging.set()
        probe.close()
