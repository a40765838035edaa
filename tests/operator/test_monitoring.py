"""Dashboards and alerts on a real Prometheus that scrapes the running operator."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.fake_cluster import Raw
from support.gated_persona import GATE
from support.operator_world import NAMESPACE, persona_document
from support.running_operator import Operator, config
from support.s3_server import free_port

FILES = Path(__file__).parents[2] / "charts" / "persona-pruner" / "files"
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
# What Grafana fills in; a persona and the namespace that the test has.
VARIABLES = {
    "$__rate_interval": "20s",
    "$namespace": NAMESPACE,
    "$persona": "captain",
}


def panels(dashboard: Raw) -> Iterator[Raw]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_has_what_grafana_needs(path: Path) -> None:
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    assert dashboard["uid"] == f"persona-pruner-{path.stem}"
    assert dashboard["schemaVersion"] >= 39
    ids = [panel["id"] for panel in panels(dashboard)]
    assert len(set(ids)) == len(ids)
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    taken: set[tuple[int, int]] = set()
    for panel in panels(dashboard):
        assert panel["type"] in {"stat", "table", "timeseries"}
        assert panel["title"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= names


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not on PATH")
def test_alerts_fire_when_they_should() -> None:
    assert PROMTOOL is not None
    tests = Path(__file__).with_name("alerts.yaml")
    command = [PROMTOOL, "test", "rules", str(tests)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@asynccontextmanager
async def prometheus(folder: Path, target: int) -> AsyncIterator[httpx.AsyncClient]:
    """Run Prometheus with the chart's rules, scraping a port of this machine."""
    assert PROMETHEUS is not None
    port = free_port()
    configuration = folder / "prometheus.yaml"
    scrape = {
        "job_name": "operator",
        "honor_labels": True,
        "static_configs": [{"targets": [f"127.0.0.1:{target}"]}],
    }
    document = {
        "global": {"scrape_interval": "300ms", "scrape_timeout": "300ms"},
        "rule_files": [str(FILES / "rules.yaml")],
        "scrape_configs": [scrape],
    }
    configuration.write_text(json.dumps(document), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        PROMETHEUS,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            # It starts to scrape some seconds after it is ready.
            for _ in range(300):
                try:
                    if await samples(client, "up == 1"):
                        break
                except (httpx.TransportError, json.JSONDecodeError):
                    pass
                await asyncio.sleep(0.1)
            yield client
    finally:
        process.terminate()
        await process.wait()


async def samples(client: httpx.AsyncClient, expression: str) -> list[float]:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    answer = (await client.get("/api/v1/query", params={"query": expression})).json()
    assert answer["status"] == "success", answer
    values = [float(item["value"][1]) for item in answer["data"]["result"]]
    return [value for value in values if value == value]  # not NaN


async def _persona(operator: Operator, name: str, **spec: Any) -> None:
    operator.cluster.create(persona_document(name, **spec))
    await operator.work_until(lambda: operator.ready(name).get("status") == "True", "Ready")


def _all(dashboards: list[Path]) -> list[str]:
    return [
        target["expr"]
        for path in dashboards
        for panel in panels(json.loads(path.read_text(encoding="utf-8")))
        for target in panel["targets"]
    ]


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not on PATH")
async def test_every_query_of_the_dashboards_finds_data(operator: Operator, tmp_path: Path) -> None:
    port = free_port()
    async with (
        operator.running(config(metricsPort=port)),
        prometheus(tmp_path, port) as client,
    ):
        operator.cluster.create(persona_document("stuck", execution={"profile": "missing"}))
        await _persona(operator, "captain", evaluation=GATE)
        # A counter is born with its first event; a rate needs a second one.
        await _persona(operator, "cook", evaluation=GATE, pruning={"sparsityPercent": 40})
        operator.cluster.create(persona_document("waiting"))
        empty = _all(DASHBOARDS)
        assert len(empty) > 20
        for _ in range(60):
            empty = [query for query in empty if not await samples(client, query)]
            if not empty:
                break
            await asyncio.sleep(0.25)
        assert empty == []
