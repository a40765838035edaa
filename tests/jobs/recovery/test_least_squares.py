import torch

from persona_jobs.recovery.least_squares import GramAccumulator


def test_a_channel_that_never_fires_keeps_its_weights():
    torch.manual_seed(0)
    activations = torch.randn(50, 4)
    activations[:, 2] = 0
    original = torch.randn(3, 4)
    gram = GramAccumulator(4, 3, torch.device("cpu"))
    gram.add(activations, activations @ torch.randn(4, 3))
    solved = gram.solve(original, ridge=0.1)
    assert torch.allclose(solved[:, 2], original[:, 2], atol=1e-4)
    assert torch.isfinite(solved).all()
