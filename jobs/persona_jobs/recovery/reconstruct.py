"""Reconstruction of each block: gate, up and down together, fitted to the dense block's output.

The refit solves for `down_proj` alone; the kept rows of gate and up stay what they were for all
channels. Here all three are fitted by Adam, block by block from the bottom, on the pruned network's
own residual stream: with `u` the input of the FFN and `r` the residual around it, both of the
network whose lower blocks are reconstructed already, and `y` the dense network's block output, the
FFN f minimises the mean of `|r + f(u) - y|^2 / |y|^2`. Blocks fitted to the dense output on the
pruned inputs recover more than single matrices do ("A Free Lunch in LLM Compression", arXiv
2510.14444). The error is relative because the next block normalises its input; otherwise the few
tokens with massive activations would outweigh all others.

Each block stops early on held-out tokens, and its weights before are a candidate for its best.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.families import ffn_norm
from ..training.schedule import batch_indices
from ..training.trainer import Control, Trainer, TrainingConfig
from .streams import StreamSet, run_block
from .walk import BlockStep, Streams

# Held-out tokens of each kind that a block is judged by, at most.
MAX_HELD_OUT_TOKENS = 4096


@dataclass(frozen=True)
class FfnTokens:
    """Tokens of one kind of data, as the FFN of a block sees them.

    Attributes:
        inputs: the FFN's inputs `[n, hidden]`.
        targets: what the FFN should put out, `[n, hidden]`.
        sizes: squared norms of the dense block's outputs, `[n, 1]`.
        weight: share of their mean error in the loss.
    """

    inputs: Tensor
    targets: Tensor
    sizes: Tensor
    weight: float

    def error(self, ffn: nn.Module, rows: Sequence[int] | slice = slice(None)) -> Tensor:
        """Return the weighted mean relative error of the rows."""
        difference = ffn(self.inputs[rows]) - self.targets[rows]
        error: Tensor = (difference.square() / self.sizes[rows]).sum(dim=-1).mean()
        return self.weight * error


def reconstruct_block(step: BlockStep, config: TrainingConfig, control: Control) -> int:
    """Fit the FFN's weights of a block to the dense block's output.

    Args:
        step: the block and its streams.
        config: hyperparameters; batches are tokens.
        control: interruption.

    Returns:
        The optimizer step with the lowest held-out error, 0 where the old weights stay.
    """
    ffn = _Ffn(step)
    sizes = [round(config.batch_size * streams.weight) for streams in step.train.pruned]
    limits = [max(1, size) * config.steps for size in sizes]
    train = list(_tokens(step, step.train, limits, config.seed))
    held_out_limits = [MAX_HELD_OUT_TOKENS] * len(step.held_out.pruned)
    held_out = list(_tokens(step, step.held_out, held_out_limits, config.seed))

    def gradient(number: int) -> float:
        total = 0.0
        for offset, (tokens, size) in enumerate(zip(train, sizes, strict=True)):
            seed = config.seed + offset
            rows = batch_indices(len(tokens.inputs), max(1, size), number, seed)
            loss = tokens.error(ffn, rows)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def held_out_error() -> float:
        with torch.no_grad():
            return sum(float(tokens.error(ffn)) for tokens in held_out)

    trainer = Trainer(dict(step.parameters), config)
    for parameter in step.parameters.values():
        parameter.requires_grad_(True)
    try:
        trainer.run(gradient, held_out_error, control)
    finally:
        for parameter in step.parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None
    step.load(trainer.best)
    return trainer.best_step


class _Ffn(nn.Module):
    """What a block adds to the residual: its FFN, and the norm behind it where there is one."""

    def __init__(self, step: BlockStep) -> None:
        super().__init__()
        self.mlp = step.mlp
        self.norm = ffn_norm(step.block.model, step.block.block)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the FFN's contribution `[n, hidden]`."""
        output: Tensor = self.mlp(inputs)
        return output if self.norm is None else self.norm(output)


def _tokens(
    step: BlockStep, streams: Streams, limits: Sequence[int], seed: int
) -> Iterator[FfnTokens]:
    """Yield each set's tokens; of more than its limit, that many at random."""
    captured: dict[str, Tensor] = {}

    def keep(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        captured["input"], captured["output"] = inputs[0], output

    norm = ffn_norm(step.block.model, step.block.block)
    handle = step.mlp.register_forward_hook(keep)
    try:
        for dense, pruned, limit in zip(streams.dense, streams.pruned, limits, strict=True):
            chosen = iter(_chosen(pruned, limit, seed))
            rows: list[tuple[Tensor, Tensor, Tensor]] = []
            with torch.no_grad():
                outputs = run_block(step.block.model, step.block.block, step.block.layer, pruned)
                for target, (_, output) in zip(dense.parts(), outputs, strict=True):
                    mask = next(chosen).to(output.device)
                    added = captured["output"] if norm is None else norm(captured["output"])
                    wanted = target.stream.to(output.device)[mask]
                    rows.append(
                        (
                            captured["input"][mask],
                            wanted - (output - added)[mask],
                            wanted.square().sum(dim=-1, keepdim=True),
                        )
                    )
            inputs, targets, sizes = (torch.cat(parts) for parts in zip(*rows, strict=True))
            yield FfnTokens(inputs, targets, sizes, pruned.weight)
    finally:
        handle.remove()


def _chosen(streams: StreamSet, limit: int, seed: int) -> list[Tensor]:
    """Return which tokens of each batch are used, bool `[rows, seq]`."""
    masks = [part.valid.clone() for part in streams.parts()]
    count = sum(int(mask.sum()) for mask in masks)
    if count > limit:
        generator = torch.Generator().manual_seed(seed)
        used = torch.zeros(count, dtype=torch.bool)
        used[torch.randperm(count, generator=generator)[:limit]] = True
        for mask, part in zip(masks, torch.split(used, [int(m.sum()) for m in masks]), strict=True):
            mask[mask.clone()] = part
    return masks
