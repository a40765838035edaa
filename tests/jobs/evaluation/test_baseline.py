import torch

from persona_jobs.evaluation.baseline import make_baseline
from persona_jobs.models.families import ffn_layers
from support.tiny import tiny_model


def test_baseline_keeps_the_strongest_channels_and_recovers_the_sliced_model():
    dense = tiny_model()
    rms = torch.rand(3, 64, generator=torch.Generator().manual_seed(5))
    seen = []

    def recover(model: torch.nn.Module) -> None:
        seen.append(model)
        with torch.no_grad():
            ffn_layers(model)[0].down.weight.mul_(0.5)

    plain = make_baseline(dense, rms, 16, None)
    recovered = make_baseline(dense, rms, 16, recover)
    assert plain.mask.sum(dim=1).tolist() == [16] * 3
    for layer in range(3):
        assert rms[layer][plain.mask[layer]].min() >= rms[layer][~plain.mask[layer]].max()
    assert ffn_layers(plain.model)[0].intermediate_size == 16
    assert seen == [recovered.model]
    assert torch.equal(recovered.mask, plain.mask)
    halved = ffn_layers(plain.model)[0].down.weight * 0.5
    assert torch.equal(ffn_layers(recovered.model)[0].down.weight, halved)
