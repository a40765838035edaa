"""The `system_fingerprint` of a checkpoint."""

from pathlib import Path

from persona_jobs.serve.__main__ import fingerprint


def test_other_weights_have_another_fingerprint(tmp_path: Path) -> None:
    config, weights = tmp_path / "config.json", tmp_path / "model-2.safetensors"
    config.write_text("{}")
    data = bytearray(8 << 20)
    weights.write_bytes(data)
    seen = {fingerprint(tmp_path, "float32", "cpu")}
    assert seen == {fingerprint(tmp_path, "float32", "cpu")}
    for start, end in ((0, 8 << 10), (5 << 20, (5 << 20) + 4096), ((8 << 20) - 1, 8 << 20)):
        data[start:end] = b"\1" * (end - start)
        weights.write_bytes(data)
        seen.add(fingerprint(tmp_path, "float32", "cpu"))
    weights.rename(tmp_path / "model-1.safetensors")
    seen.add(fingerprint(tmp_path, "float32", "cpu"))
    seen.add(fingerprint(tmp_path, "bfloat16", "cpu"))
    seen.add(fingerprint(tmp_path, "float32", "cuda"))
    assert len(seen) == 7
