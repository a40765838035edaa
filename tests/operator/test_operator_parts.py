"""The small parts around the reconciler, each by itself."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_jobs.api import Execution, Serving, Storage
from persona_jobs.errors import InputError, StoreError
from persona_jobs.store import Store
from persona_operator.children import Children, Indexes, index_job, index_pod
from persona_operator.deletion import removable_keys, used_keys
from persona_operator.errors import ApiRefusedError, ApiUnavailableError, api_error
from persona_operator.health import WatchHealth
from persona_operator.http_server import HttpServers
from persona_operator.kopf_settings import SpecFreeDiffBaseStorage
from persona_operator.log import JsonFormatter
from persona_operator.merge_patch import merge_patch
from persona_operator.metrics import OperatorMetrics
from persona_operator.profiles import max_retries, serving_profile, stage_profile
from persona_operator.reconcile import Job, Stored
from persona_operator.reconcile.stage_results import summarize
from persona_operator.settings import Profile, Settings
from persona_operator.settings import Store as StoreSettings
from persona_operator.store_access import StoreAccess, is_operators_own, store_access
from persona_operator.store_probe import StoreProbe, open_own_store
from persona_operator.work_queue import WorkQueue
from support.fake_cluster import evaluation_metrics
from support.operator_world import World, persona_document

# Settings


def test_settings_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        """
jobsImage: registry.example/jobs:1
store: {uri: s3://models, credentialsSecret: store, caConfigMap: {name: ca}}
profiles:
  gpu: {gpus: 1, nodeSelector: {pool: gpu}, tolerations: [{key: gpu, operator: Exists}]}
retry: {maxRetries: 1}
namespaces: [a, b]
"""
    )
    loaded = Settings.load(path)
    assert loaded.profiles["gpu"].gpus == 1
    assert loaded.store.ca_config_map is not None
    assert loaded.store.ca_config_map.key == "ca.crt"
    assert (loaded.retry.max_retries, loaded.namespaces) == (1, ["a", "b"])


def test_no_settings_are_all_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("")
    assert Settings.load(path) == Settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("jobImage: x", "jobImage"),
        ("profiles: {gpu: {gpus: -1}}", "profiles.gpu.gpus"),
        ("cache: {claimName: a, hostPath: /b}", "exactly one"),
        ("[", "not valid YAML"),
    ],
)
def test_wrong_settings_name_the_field(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        Settings.load(path)


def test_missing_settings_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="PERSONA_OPERATOR_CONFIG"):
        Settings.load(tmp_path / "none.yaml")


# Profiles

PROFILES = {
    "default": Profile(cpu="1"),
    "mask": Profile(cpu="2"),
    "gpu": Profile(cpu="4", gpus=1, active_deadline_seconds=100),
}


@pytest.mark.parametrize(
    ("stage", "execution", "cpu"),
    [
        ("score", {}, "1"),
        ("mask", {}, "2"),
        ("mask", {"profile": "gpu"}, "4"),
        ("mask", {"profile": "gpu", "stages": [{"name": "mask", "profile": "default"}]}, "1"),
        ("mask", {"stages": [{"name": "mask", "resources": {"cpu": "9"}}]}, "9"),
        ("score", {"stages": [{"name": "mask", "resources": {"cpu": "9"}}]}, "1"),
    ],
)
def test_which_profile_a_stage_gets(stage: Any, execution: dict[str, Any], cpu: str) -> None:
    assert stage_profile(stage, Execution.model_validate(execution), PROFILES).cpu == cpu


def test_time_limits() -> None:
    assert stage_profile("score", Execution(), PROFILES).active_deadline_seconds == 86_400
    gpu = Execution(profile="gpu")
    assert stage_profile("score", gpu, PROFILES).active_deadline_seconds == 100
    own = Execution.model_validate({"stages": [{"name": "score", "activeDeadlineSeconds": 60}]})
    assert stage_profile("score", own, PROFILES).active_deadline_seconds == 60


def test_retries_and_serving_profiles() -> None:
    own = Execution.model_validate({"stages": [{"name": "score", "maxRetries": 7}]})
    assert (max_retries("score", own, 3), max_retries("mask", own, 3)) == (7, 3)
    assert serving_profile(Serving(), PROFILES).cpu == "1"
    assert serving_profile(Serving(profile="gpu"), PROFILES).gpus == 1
    assert serving_profile(Serving(), {}) == Profile()


# Stores


def test_the_specs_storage_comes_before_the_administrators() -> None:
    default = StoreSettings(uri="s3://a/b/", endpoint="http://x", credentials_secret="s")
    assert store_access(Storage(), default) == StoreAccess(
        uri="s3://a/b", endpoint="http://x", credentials_secret="s"
    )
    own = Storage.model_validate(
        {"uri": "s3://c", "addressingStyle": "VirtualHost", "credentialsSecretRef": {"name": "t"}}
    )
    access = store_access(own, default)
    assert (access.uri, access.addressing_style) == ("s3://c", "virtual")
    assert access.credentials_secret == "t"


def test_a_directory_must_be_in_the_shared_volume() -> None:
    volume = {"claimName": "c", "mountPath": "/store"}
    default = StoreSettings.model_validate({"uri": "file:///store/p", "volume": volume})
    assert store_access(Storage(), default).volume is not None
    for uri in ("file:///elsewhere", "file:///storeroom"):
        with pytest.raises(InputError, match="other nodes can't see"):
            store_access(Storage(uri=uri), default)


def test_the_operators_credentials_are_for_the_administrators_store_only() -> None:
    default = StoreSettings(uri="s3://a/b", endpoint="http://x")
    environ = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    own = store_access(Storage(), default)
    assert is_operators_own(own, default)
    assert open_own_store(own, default, environ) is not None
    assert open_own_store(own, default, {}) is None
    for storage in ({"uri": "s3://a/other"}, {"endpoint": "http://evil.example"}):
        access = store_access(Storage.model_validate(storage), default)
        assert open_own_store(access, default, environ) is None


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


async def test_a_probe_never_blocks_and_remembers() -> None:
    now = [0.0]
    opener = _Opener(StoreError("is away"))
    default = StoreSettings(uri="s3://a")
    probe = StoreProbe(default, opener=opener, clock=lambda: now[0])
    access, key = StoreAccess(uri="s3://a"), ("mask", "k" * 64)
    done = asyncio.Event()
    assert probe.look_up(access, [key], done.set) == {key: Stored("Asking")}
    await asyncio.wait_for(done.wait(), 5)
    assert probe.look_up(access, [key], done.set) == {key: Stored("Unknown")}
    assert (opener.calls, probe.errors) == (1, 1)
    now[0] = 20  # an unreachable store is asked again after a while
    done.clear()
    assert probe.look_up(access, [key], done.set) == {key: Stored("Asking")}
    await asyncio.wait_for(done.wait(), 5)
    assert opener.calls == 2


async def test_a_store_of_a_users_own_is_not_asked() -> None:
    opener = _Opener()
    probe = StoreProbe(StoreSettings(uri="s3://a"), opener=opener)
    assert probe.look_up(StoreAccess(uri="s3://b"), [("mask", "k")], lambda: None) == {}
    assert opener.calls == 0


# Deletion


def test_only_what_no_other_persona_uses_is_removed() -> None:
    world = World()
    for name in ("captain", "poet"):
        world.add(persona_document(name))
        world.run(name)
    captain, poet = world.persona("captain"), world.persona("poet")
    own, shared = removable_keys(captain, [poet])
    assert {stage for stage, _ in own} == {
        "score", "rewrite", "mask", "recover", "slice", "evaluate",
    }  # fmt: skip
    assert shared == 1
    assert own.isdisjoint(used_keys(poet))
    assert removable_keys(captain, [])[1] == 0


def test_results_of_earlier_specs_are_removed_too() -> None:
    world = World()
    world.add(persona_document())
    world.run()
    before = used_keys(world.persona())
    world.edit("captain", pruning={"sparsityPercent": 50})
    world.run()
    assert before < used_keys(world.persona())


# Children


def _indexes(jobs: list[Any], pods: list[Any]) -> Indexes:
    by_key: dict[Any, list[Any]] = {}
    for document in jobs:
        for key, job in index_job(document).items():
            by_key.setdefault(key, []).append(job)
    by_pod: dict[Any, list[Any]] = {}
    for document in pods:
        for key, pod in index_pod(document).items():
            by_pod.setdefault(key, []).append(pod)
    return Indexes(by_key, by_pod, {}, ())


def test_a_job_counts_from_the_decision_on() -> None:
    world = World()
    world.add(persona_document())
    plan = world.plan()
    manifest = next(item.manifest for item in plan.actions if item.manifest["kind"] == "Job")  # type: ignore[union-attr]
    now = [0.0]
    children = Children(_indexes([], []), lambda: now[0])
    children.reserve(manifest)
    stage = (manifest["metadata"]["labels"]["persona-pruner.io/stage"],
             manifest["metadata"]["annotations"]["persona-pruner.io/key"])  # fmt: skip
    assert [job.active for job in children.jobs(("stories", "poet"), [stage])] == [True]
    assert len(children.jobs(("stories", "captain"), [])) == 1
    assert children.active_jobs() == 1
    now[0] = 60  # a lost answer of the API server doesn't hold a stage back for ever
    assert children.jobs(("stories", "captain"), []) == ()


def test_what_the_watch_shows_comes_before_what_was_reserved() -> None:
    world = World()
    world.add(persona_document())
    world.step()
    world.cluster.make_pod(world.job("reference"))
    children = Children(_indexes(world.cluster.find("Job"), world.cluster.find("Pod")), lambda: 0.0)
    children.reserve(world.job("reference"))
    (job,) = children.jobs(("stories", "captain"), [])
    assert len(job.pods) == 1
    assert children.active_jobs() == 1
    children.expect_suspend("stories", job.name, suspend=True)
    assert children.jobs(("stories", "captain"), [])[0].suspended
    children.release("stories", job.name)
    assert not children.jobs(("stories", "captain"), [])[0].suspended


# Health


def test_a_deaf_watch() -> None:
    now = [0.0]
    health = WatchHealth(60, clock=lambda: now[0])
    health.expect(("Job", "a", "b"), "5")
    now[0] = 61
    assert "Job" in (health.problem() or "")
    health.seen(("Job", "a", "b"), "5")
    assert health.problem() is None


def test_a_watch_that_lags_is_not_deaf() -> None:
    now = [0.0]
    health = WatchHealth(60, clock=lambda: now[0])
    health.expect(("Job", "a", "b"), "9")
    now[0] = 50
    health.seen(("Job", "a", "b"), "7")
    now[0] = 100
    assert health.problem() is None
    now[0] = 120
    assert health.problem()


def test_further_changes_do_not_hide_a_deaf_watch() -> None:
    now = [0.0]
    health = WatchHealth(60, clock=lambda: now[0])
    for step in range(10):
        now[0] = step * 10.0
        health.expect(("PersonaModel", "a", "b"), str(step))
    assert health.problem()


def test_what_was_seen_already_or_is_gone_is_not_waited_for() -> None:
    now = [0.0]
    health = WatchHealth(60, clock=lambda: now[0])
    health.seen(("Job", "a", "b"), "9")
    health.expect(("Job", "a", "b"), "9")
    health.expect(("Job", "a", "c"), "10")
    health.seen(("Job", "a", "c"), "11", deleted=True)
    now[0] = 100
    assert health.problem() is None
    assert health.event_ages() == {"Job": 100}


async def test_the_http_servers(unused_tcp_port_factory: Any) -> None:
    import aiohttp

    now = [0.0]
    health = WatchHealth(60, clock=lambda: now[0])
    ready = [False]
    servers = HttpServers(OperatorMetrics(health.event_ages), health, lambda: ready[0])
    ports = unused_tcp_port_factory(), unused_tcp_port_factory()
    await servers.start(metrics_port=ports[0], health_port=ports[1], host="127.0.0.1")

    async def get(port: int, path: str) -> tuple[int, str]:
        async with session.get(f"http://127.0.0.1:{port}{path}") as response:
            return response.status, await response.text()

    async with aiohttp.ClientSession() as session:
        assert (await get(ports[1], "/healthz"))[0] == 200
        assert (await get(ports[1], "/readyz"))[0] == 503
        ready[0] = True
        assert (await get(ports[1], "/readyz"))[0] == 200
        health.expect(("Job", "a", "b"), "1")
        now[0] = 100
        status, text = await get(ports[1], "/healthz")
        assert status == 503
        assert "deaf" in text
        status, text = await get(ports[0], "/metrics")
        assert status == 200
        assert "persona_pruner_watch_healthy 0.0" in text
    await servers.stop()


# The work queue


async def test_one_at_a_time_for_a_key_and_requests_become_one_more_run() -> None:
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


async def test_keys_run_side_by_side_up_to_the_limit() -> None:
    running, most = 0, 0

    async def work(_: tuple[str, str]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    queue = WorkQueue(work, parallel=3)
    for number in range(9):
        queue.add(("a", str(number)))
    await asyncio.sleep(0.1)
    assert most == 3
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


async def test_a_failure_ends_nothing_and_stopping_waits() -> None:
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


# Patches, errors, logs, metrics

json_values = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=2), json_values, max_size=4)


def _merge(old: Any, patch: Any) -> Any:
    """RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), value)
    return result


@given(objects, objects)
def test_a_merge_patch_leads_from_the_old_to_the_new(old: Any, new: Any) -> None:
    assert _merge(old, merge_patch(old, new)) == new
    assert merge_patch(new, new) == {}


@pytest.mark.parametrize("status", [0, 409, 429, 500, 503])
def test_what_may_pass_is_retried(status: int) -> None:
    error = api_error(status, {"message": "later"}, "GET /x", "7")
    assert isinstance(error, ApiUnavailableError)
    assert error.delay == 7


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_what_is_refused_is_not(status: int) -> None:
    error = api_error(status, {"message": "no", "reason": "Forbidden"}, "GET /x")
    assert isinstance(error, ApiRefusedError)
    assert (error.status, error.reason) == (status, "Forbidden")
    assert "GET /x: no" in str(error)


def test_logs_are_json_with_persona_and_stage() -> None:
    logger = logging.getLogger("test")
    info = (ValueError, ValueError("boom"), None)
    record = logger.makeRecord(
        "test", logging.INFO, "f", 1, "Job %s", ("x",), info,
        extra={"namespace": "stories", "persona": "captain", "stage": "mask"},
    )  # fmt: skip
    line = json.loads(JsonFormatter().format(record))
    assert line["message"] == "Job x"
    assert (line["namespace"], line["persona"], line["stage"]) == ("stories", "captain", "mask")
    assert "boom" in line["exception"]


def test_every_metric_is_documented() -> None:
    world = World()
    world.add(persona_document())
    metrics = OperatorMetrics(lambda: {"Job": 1.0})
    old = world.persona().status
    world.run()
    metrics.observe(("stories", "captain"), old, world.persona().status)
    metrics.request("GET", "jobs", 200)
    names = {
        line.split()[2] for line in metrics.render().decode().splitlines()
        if line.startswith("# TYPE") and not line.split()[2].endswith("_created")
    }  # fmt: skip
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert names
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_ended_attempts_are_counted_once() -> None:
    world = World()
    world.add(persona_document())
    metrics = OperatorMetrics()
    world.step()
    before = world.persona().status
    world.cluster.make_pod(world.job("reference"))
    world.cluster.advance(30)
    world.cluster.finish(world.job("reference"))
    world.step()
    after = world.persona().status
    metrics.observe(("stories", "captain"), before, after)
    metrics.observe(("stories", "captain"), after, after)
    text = metrics.render().decode()
    labels = '{outcome="succeeded",stage="reference"}'
    assert f"persona_pruner_stage_attempts_total{labels} 1.0" in text
    assert f"persona_pruner_stage_duration_seconds_sum{labels} 30.0" in text


def test_metrics_in_the_status_are_short_strings() -> None:
    long = {f"m{number}": number for number in range(100)}
    assert len(summarize(long)) == 24
    assert summarize({"text": "x" * 500})["text"] == "x" * 120
    assert summarize({"flag": True, "tiny": 1e-9}) == {"flag": "true", "tiny": "1e-09"}
    assert "variants" not in summarize(evaluation_metrics())


def test_the_diff_base_holds_no_persona_text() -> None:
    import kopf

    storage = SpecFreeDiffBaseStorage(prefix="persona-pruner.io")
    body = kopf.Body(persona_document(artifactPolicy="Delete"))  # type: ignore[arg-type]
    assert dict(storage.build(body=body)) == {"spec": {"artifactPolicy": "Delete"}}


def test_a_job_of_unknown_origin_is_read_without_failing() -> None:
    job = Job.from_object({"metadata": {"name": "x", "namespace": "y"}, "spec": {}, "status": None})
    assert (job.attempt, job.key, job.active) == (1, "", True)
