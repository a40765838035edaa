"""An evaluation of a tiny model, with quick measurements of speed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from persona_jobs.evaluation import speed
from support.evaluation import World


@pytest.fixture(autouse=True)
def quick_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "MIN_ROUNDS": 1,
        "MAX_ROUNDS": 1,
        "PROMPT_TOKENS": 8,
        "DECODE_TOKENS": 2,
    }.items():
        monkeypatch.setattr(speed, name, value)


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., World]:
    return lambda **spec: World(tmp_path, **spec)
