"""Mean unit vectors on disk: small, exact enough, and filled in any order."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from persona_jobs.errors import CorruptArtifactError
from persona_jobs.scoring.mean_unit_file import MeanUnitFile, MeanUnitVectors
from persona_jobs.scoring.sensitivity import block_scores

SHAPE = (40, 6, 576)


def unit_vectors(seed):
    """Vectors with one channel that is far larger than the others, as those of real models."""
    values = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    values[..., 3] = 120.0
    return F.normalize(values, dim=-1)


def written(path, values):
    file = MeanUnitFile(path, SHAPE)
    for rows in torch.randperm(SHAPE[0], generator=torch.Generator().manual_seed(1)).split(7):
        file.put(rows.tolist(), values[rows])
    file.flush()
    return path


def test_scores_from_the_file_differ_by_a_few_millionths(tmp_path):
    mean, target = unit_vectors(0), unit_vectors(2)
    path = written(tmp_path / "f", mean)
    stored = MeanUnitVectors(path, SHAPE)
    exact = block_scores(mean, target).mean(dim=1)
    read = block_scores(stored.rows(range(SHAPE[0])), target).mean(dim=1)
    assert float((read - exact).abs().max()) < 5e-6
    half = block_scores(mean.half(), target).mean(dim=1)
    assert float((half - exact).abs().max()) > 5e-5, "float16 would not do"


def test_the_file_has_two_bytes_per_number_and_is_plain_safetensors(tmp_path):
    path = written(tmp_path / "f", unit_vectors(0))
    numbers = SHAPE[0] * SHAPE[1] * SHAPE[2]
    assert path.stat().st_size == pytest.approx(2 * numbers, rel=0.01)
    tensors = load_file(path)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "mean_unit": SHAPE,
        "scale": SHAPE[:2],
    }


def test_rows_of_an_earlier_start_are_taken_over_unchanged(tmp_path):
    mean = unit_vectors(0)
    whole = written(tmp_path / "whole", mean)
    first = MeanUnitFile(tmp_path / "first", SHAPE)
    first.put([4, 2], mean[[4, 2]])
    (tmp_path / "a").mkdir()
    first.write_unsaved(tmp_path / "a")
    first.put([0], mean[[0]])
    (tmp_path / "b").mkdir()
    first.write_unsaved(tmp_path / "b")
    second = MeanUnitFile(tmp_path / "second", SHAPE)
    second.read_part(tmp_path / "b")
    second.read_part(tmp_path / "a")
    assert second.done == {0, 2, 4}
    left = [row for row in range(SHAPE[0]) if row not in second.done]
    second.put(left, mean[left])
    second.flush()
    assert (tmp_path / "second").read_bytes() == whole.read_bytes()


def test_parts_of_another_model_are_refused(tmp_path):
    file = MeanUnitFile(tmp_path / "f", SHAPE)
    file.put([1], unit_vectors(0)[[1]])
    file.write_unsaved(tmp_path)
    with pytest.raises(ValueError, match="does not fit"):
        MeanUnitFile(tmp_path / "g", (40, 6, 64)).read_part(tmp_path)
    with pytest.raises(ValueError, match="does not fit"):
        MeanUnitFile(tmp_path / "g", (1, 6, 576)).read_part(tmp_path)


def test_vectors_stored_as_float32_are_read_as_they_are(tmp_path):
    mean = unit_vectors(0)
    save_file({"mean_unit": mean}, tmp_path / "f")
    assert torch.equal(MeanUnitVectors(tmp_path / "f", SHAPE).rows([3, 1]), mean[[3, 1]])


def test_vectors_of_another_shape_are_refused(tmp_path):
    written(tmp_path / "f", unit_vectors(0))
    with pytest.raises(CorruptArtifactError, match=r"\[40, 6, 576\] don't fit"):
        MeanUnitVectors(tmp_path / "f", (40, 6, 64))
