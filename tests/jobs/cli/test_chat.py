"""`persona chat` with a checkpoint's directory."""

import io
import json
from pathlib import Path

import pytest
import torch

from persona_jobs.cli.chat import chat_with
from support.tiny import tiny_checkpoint


def test_temperature_0_decodes_greedily(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_checkpoint(tmp_path)
    settings = {"do_sample": True, "temperature": 5.0, "top_p": 0.99, "top_k": 1000}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))

    def answer(seed: int, temperature: float) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n\n"))
        torch.manual_seed(seed)
        chat_with(tmp_path, None, max_tokens=12, temperature=temperature)
        return capsys.readouterr().out

    assert len({answer(seed, 0.0) for seed in range(4)}) == 1
    assert len({answer(seed, 5.0) for seed in range(4)}) > 1
