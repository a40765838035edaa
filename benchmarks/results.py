"""Results of a benchmark: shown as lines, and written as JSON where the caller asks for it."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the folder for the results."""
    parser.add_argument("--output", type=Path, help="folder for NAME.json with the results")


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns, and the seconds of processor time it took.

    On a shared machine, wall time would measure the other processes too.
    """
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def memory(field: str) -> float:
    """Return this process's memory in MiB; `ru_maxrss` would begin with that of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def report(
    name: str,
    options: argparse.Namespace,
    results: dict[str, Any],
    *,
    bounds: dict[str, str],
    met: dict[str, bool],
) -> None:
    """Print the results beside their bounds, and write them if asked to.

    Args:
        name: the benchmark's name.
        options: its options, with those of `add_output`.
        results: figures by name.
        bounds: what some of them should be, in words.
        met: whether they are.
    """
    for key, value in results.items():
        bound = (
            f"   bound {bounds[key]}: {'met' if met[key] else 'NOT MET'}" if key in bounds else ""
        )
        print(f"{key:28} {value}{bound}")
    if options.output is None:
        return
    content = {
        "benchmark": name,
        "results": results,
        "bounds": bounds,
        "met": met,
        "machine": {
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
        },
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (options.output / f"{name}.json").write_text(text, encoding="utf-8")
