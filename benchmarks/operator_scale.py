"""The operator with many PersonaModels, against an API server in memory that plays the stages.

For each number of finished PersonaModels the real operator process starts; measured are the time
and its processor time until a PersonaModel that waited for it gets its first Job, its memory and
its requests at rest. Then new ones are created at a steady rate: requests and writes per
PersonaModel until it is served, processor time, and the delay from the end of a Job to the
operator's next Job or applied object.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from results import add_output, report

HERE = Path(__file__).parent
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: c
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "{url}"}}}}]
users: [{{name: u, user: {{}}}}]
"""
SETTINGS = """
store: {uri: "s3://models/personas", credentialsSecret: store}
profiles: {default: {cpu: "1", memory: 4Gi}}
namespaces: [stories]
metricsPort: 0
healthPort: 0
logLevel: WARNING
"""
WATCHED = re.compile(r"WATCH|leases")


def call(url: str, method: str = "GET") -> str:
    with urlopen(Request(url, method=method), timeout=120) as response:
        return str(response.read().decode())


@contextmanager
def process(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield started
    finally:
        started.terminate()
        started.wait(30)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024)


def stats(url: str, *, reset: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call(f"{url}/stats{'?reset=1' if reset else ''}"))
    return found


def wait(url: str, holds: Any, seconds: float) -> float | None:
    """Return the seconds until something holds, None where it didn't in time."""
    started = time.monotonic()
    while not holds(stats(url)):
        if time.monotonic() - started > seconds:
            return None
        time.sleep(0.2)
    return round(time.monotonic() - started, 1)


@contextmanager
def operator(url: str) -> Iterator[int]:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("kubeconfig", KUBECONFIG.format(url=url)), ("settings", SETTINGS)):
            Path(folder, name).write_text(text)
        where = {
            "KUBECONFIG": str(Path(folder, "kubeconfig")),
            "PERSONA_OPERATOR_CONFIG": str(Path(folder, "settings")),
        }
        with process("-m", "persona_operator", **where) as started:
            yield started.pid


def restart(count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of an operator that starts with `count` finished PersonaModels."""
    server = ["--finished", str(count), "--stage-seconds", "1"]
    with process(str(HERE / "operator_server.py"), *server) as played:
        assert played.stdout is not None
        url = played.stdout.readline().split()[0]
        call(f"{url}/make?name=new", "POST")
        with operator(url) as pid:
            first = wait(url, lambda s: s["requests"].get("POST jobs"), options.patience)
            results: dict[str, Any] = {
                f"{count}: s to the first Job": first if first is not None else "never",
                f"{count}: CPU s to the first Job": round(cpu_seconds(pid), 1),
            }
            if first is None:
                results[f"{count}: RSS, peak MiB"] = memory(pid, "VmHWM")
                return results
            wait(url, lambda s: "new" in s["ready"], options.patience)
            time.sleep(15)
            stats(url, reset=True)
            before = cpu_seconds(pid)
            time.sleep(options.rest)
            rest = stats(url)["requests"]
            quiet = {name: n for name, n in rest.items() if not WATCHED.search(name)}
            return {
                **results,
                f"{count}: RSS MiB": memory(pid, "VmRSS"),
                f"{count}: RSS, peak MiB": memory(pid, "VmHWM"),
                f"{count}: requests/s at rest": round(sum(quiet.values()) / options.rest, 2),
                f"{count}: which": json.dumps(quiet),
                f"{count}: CPU % at rest": round(
                    100 * (cpu_seconds(pid) - before) / options.rest, 1
                ),
            }


def lives(count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of `count` PersonaModels that are created at a steady rate."""
    seconds = str(options.stage_seconds)
    with process(str(HERE / "operator_server.py"), "--stage-seconds", seconds) as played:
        assert played.stdout is not None
        url = played.stdout.readline().split()[0]
        with operator(url) as pid:
            call(f"{url}/make?name=warm", "POST")
            wait(url, lambda s: "warm" in s["ready"], options.patience)
            stats(url, reset=True)
            before, started = cpu_seconds(pid), time.monotonic()
            for number in range(count):
                left = started + number / options.rate - time.monotonic()
                time.sleep(max(left, 0))
                call(f"{url}/make?name=new-{number:05d}", "POST")
            done = wait(url, lambda s: len(s["ready"]) == count + 1, options.patience)
            total = time.monotonic() - started
            time.sleep(10)
            found = stats(url)
            requests = {n: c for n, c in found["requests"].items() if not WATCHED.search(n)}
            writes = {n: c for n, c in requests.items() if n.split()[0] not in {"GET", "LIST"}}
            delays = sorted(found["delays"]) or [0.0]
            events = writes.get("POST events", 0)
            return {
                "lives: done": f"{len(found['ready']) - 1} of {count}",
                "lives: s until all are served": round(total, 1) if done is not None else "never",
                "lives: requests per life": round(sum(requests.values()) / count, 1),
                "lives: writes per life": round((sum(writes.values()) - events) / count, 1),
                "lives: Events per life": round(events / count, 1),
                "lives: which writes": json.dumps(
                    {n: round(c / count, 1) for n, c in writes.items()}
                ),
                "lives: CPU ms per life": round(1000 * (cpu_seconds(pid) - before) / count),
                "lives: ms event to action, p50": round(1000 * statistics.median(delays)),
                "lives: ms event to action, p99": round(1000 * delays[int(len(delays) * 0.99)]),
                "lives: RSS MiB": memory(pid, "VmRSS"),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_output(parser)
    parser.add_argument("--finished", type=int, nargs="*", default=[0, 100, 1000])
    parser.add_argument("--new", type=int, default=1000, help="0 leaves that part out")
    parser.add_argument("--rate", type=float, default=5.0, help="new PersonaModels per second")
    parser.add_argument("--stage-seconds", type=float, default=10.0)
    parser.add_argument("--rest", type=float, default=60.0, help="seconds at rest")
    parser.add_argument("--patience", type=float, default=300.0, help="longest wait in seconds")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for count in options.finished:
        results |= restart(count, options)
    if options.new:
        results |= lives(options.new, options)
    most = max(options.finished, default=0)
    limits = {
        f"{most}: s to the first Job": 15,
        f"{most}: CPU s to the first Job": 20,
        f"{most}: RSS MiB": 200,
        f"{most}: requests/s at rest": 1,
        "lives: writes per life": 25,
        "lives: CPU ms per life": 80,
        "lives: ms event to action, p99": 500,
    }
    present = {name: limit for name, limit in limits.items() if name in results}
    report(
        "operator_scale",
        options,
        results,
        bounds={name: f"≤ {limit}" for name, limit in present.items()},
        met={
            name: isinstance(results[name], int | float) and results[name] <= limit
            for name, limit in present.items()
        },
    )


if __name__ == "__main__":
    main()
