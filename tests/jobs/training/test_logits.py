import torch

from persona_jobs.training.logits import chunks, logits
from support.tiny import tiny_model


def test_chunks_cover_all_positions():
    covered = [index for part in chunks(700) for index in range(part.start, part.stop)]
    assert covered == list(range(700))
    assert list(chunks(0)) == []


def test_logits_are_float32_whatever_the_model_s_format():
    model = tiny_model().to(torch.bfloat16)
    states = torch.randn(3, 32, dtype=torch.bfloat16)
    result = logits(model, states)
    assert result.dtype == torch.float32
    assert result.shape == (3, model.config.vocab_size)
