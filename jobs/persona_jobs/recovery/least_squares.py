"""Ridge least squares from streamed Gram matrices."""

import torch
from torch import Tensor


class GramAccumulator:
    """Sums of inputs and targets; its size does not depend on the number of tokens.

    Args:
        inputs: k, number of input channels.
        outputs: d, number of output channels.
        device: where the sums are kept, in float64.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        self.gram = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        self.cross = torch.zeros(inputs, outputs, dtype=torch.float64, device=device)

    def add(self, activations: Tensor, targets: Tensor, *, weight: float = 1.0) -> None:
        """Add the activations `[n, k]` and targets `[n, d]` of n tokens, each with a weight."""
        self.gram += weight * (activations.T @ activations).double()
        self.cross += weight * (activations.T @ targets).double()

    def solve(self, original: Tensor, ridge: float) -> Tensor:
        """Return weights `[d, k]` that map activations to targets and stay close to `original`.

        Minimises `|A W' - T|^2 + ridge * sum_c e_c |W_c - original_c|^2` over W, where `e_c` is
        the energy of channel c: the penalty is relative, so a channel that hardly ever fires keeps
        its weights and a busy one follows the data.

        Args:
            original: the weights before, `[d, k]`.
            ridge: strength of the penalty, above 0.
        """
        system, target = self.ridged(original, ridge)
        factor = torch.linalg.cholesky(system)
        return torch.cholesky_solve(target, factor).T.to(original.dtype)

    def ridged(self, original: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
        """Return matrices H `[k, k]` and B `[k, d]` with `H W' = B` at the minimum of `solve`."""
        energy = self.gram.diagonal()
        # A channel that never fires would make the system singular; it keeps its weights.
        floor = energy.mean().clamp(min=1e-30) * 1e-8
        penalty = ridge * energy.clamp(min=floor)
        system = self.gram + torch.diag(penalty)
        return system, self.cross + penalty.unsqueeze(1) * original.double().T
