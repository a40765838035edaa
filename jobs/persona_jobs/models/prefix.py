"""Forward pass of many sequences that share a prefix, which is run once.

A persona's system prompt opens every conversation. Its keys and values are computed with batch
size 1 and read by all rows; attention is causal, so the result equals the pass over each whole
sequence. It works under autograd too: gradients flow through the prefix's keys and values.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import InputError
from .attention import attend, causal_mask, installed
from .families import blocks, decoder

TokenIds = Sequence[int]
Positions = Literal["all", "last"] | Sequence[Sequence[int]]


def split(
    sequences: Sequence[TokenIds], *, before: Sequence[int] | None = None
) -> tuple[list[int], list[list[int]]]:
    """Split token sequences into their longest common prefix and what is left of each.

    Every rest keeps at least one token.

    Args:
        sequences: token ids, none empty.
        before: for each sequence, an index that the rest must be able to predict (the start of the
            answer): the rest then begins before it, at index `before[i] - 1` or earlier.

    Raises:
        InputError: there is no sequence, or one is empty.
    """
    if not sequences or any(len(sequence) == 0 for sequence in sequences):
        raise InputError("there are no tokens to split into prefix and rest")
    longest = min(len(sequence) for sequence in sequences) - 1
    if before is not None:
        longest = max(0, min(longest, *(index - 1 for index in before)))
    columns = zip(*(sequence[:longest] for sequence in sequences), strict=False)
    prefix = [column[0] for column in takewhile(lambda ids: len(set(ids)) == 1, columns)]
    return prefix, [list(sequence[len(prefix) :]) for sequence in sequences]


@dataclass(frozen=True)
class PrefixCache:
    """Keys and values of a prefix, one pair a layer; never written to after it was made.

    Attributes:
        keys: n_layers times `[1, kv_heads, length, head_dim]`, rotary embedding applied.
        values: likewise.
        length: tokens in the prefix.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    length: int

    def detach(self) -> "PrefixCache":
        """The same numbers without their graph."""
        keys = tuple(key.detach() for key in self.keys)
        return PrefixCache(keys, tuple(value.detach() for value in self.values), self.length)


EMPTY_PREFIX = PrefixCache((), (), 0)


@dataclass
class CausalAttention:
    """Attention of right-padded rows over a shared prefix and their own earlier tokens.

    Attributes:
        prefix: keys and values that every row sees, or `EMPTY_PREFIX`.
        keys: with `record`, each layer's keys of the rows, `[batch, kv_heads, seq, head_dim]`.
        values: likewise.
        record: whether to keep the rows' keys and values.
    """

    prefix: PrefixCache = EMPTY_PREFIX
    record: bool = False
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """See `SharedAttention.attend`."""
        if self.record:
            self.keys.append(key)
            self.values.append(value)
        rows, seq = query.shape[0], query.shape[2]
        past = self.prefix.length
        if window is not None and past + seq <= window:
            window = None
        if past:
            key = torch.cat([self.prefix.keys[layer].expand(rows, -1, -1, -1), key], dim=2)
            value = torch.cat([self.prefix.values[layer].expand(rows, -1, -1, -1), value], dim=2)
        elif window is None:
            return attend(query, key, value, scale=scale, causal=True)
        if window not in self._masks:
            self._masks[window] = causal_mask(seq, past, window=window, device=query.device)
        return attend(query, key, value, scale=scale, mask=self._masks[window])


@dataclass(frozen=True)
class ForwardOutput:
    """What a forward pass computed at the chosen positions, rows one after the other.

    Attributes:
        counts: chosen positions in each row; their sum is `n`.
        hidden: `[n, hidden]`, the decoder's output after its final norm.
        logits: `[n, vocab]`, or None when they were not asked for.
        block_states: `[batch, n_blocks, hidden]`, the output of every block at each row's last
            token, or None. As in transformers' `hidden_states[1:]`, the last one is taken after
            the final norm.
    """

    counts: list[int]
    hidden: Tensor
    logits: Tensor | None
    block_states: Tensor | None


def run_prefix(model: nn.Module, prefix_ids: TokenIds) -> PrefixCache:
    """Keys and values of a prefix, computed with batch size 1 in the caller's gradient mode.

    Under `masked` with one mask, they are the masked model's.
    """
    if not prefix_ids:
        return EMPTY_PREFIX
    attention = CausalAttention(record=True)
    run_decoder(model, torch.tensor([list(prefix_ids)]), attention)
    return PrefixCache(tuple(attention.keys), tuple(attention.values), len(prefix_ids))


def forward_rests(
    model: nn.Module,
    prefix: PrefixCache,
    rests: Sequence[TokenIds],
    *,
    positions: Positions = "all",
    logits: bool = True,
    block_states: bool = False,
) -> ForwardOutput:
    """Forward pass of `prefix + rest` for every rest, given the prefix's keys and values.

    Args:
        model: a causal language model of a supported family.
        prefix: from `run_prefix` (detached or not), or `EMPTY_PREFIX`. It is not changed.
        rests: token ids of each row, none empty; padded inside.
        positions: where outputs are wanted: at every token, at each row's last, or at these
            indices into each rest. The language-model head runs at these only.
        logits: whether to run the language-model head.
        block_states: whether to return every block's output at each row's last token.

    Raises:
        InputError: a rest is empty, or a position is outside its rest.
    """
    if not rests or any(len(rest) == 0 for rest in rests):
        raise InputError("every row needs at least one token after the prefix")
    lengths = [len(rest) for rest in rests]
    counts, index = _flat_positions(positions, lengths)
    input_ids = torch.zeros(len(rests), max(lengths), dtype=torch.long)
    for row, rest in zip(input_ids, rests, strict=True):
        row[: len(rest)] = torch.tensor(rest)
    states: list[Tensor] = []
    last = torch.tensor(lengths) - 1
    with ExitStack() as stack:
        if block_states:
            keep = _keep_rows_at(states, last.to(_device(model)))
            for block in blocks(model)[:-1]:
                stack.callback(block.register_forward_hook(keep).remove)
        output = run_decoder(model, input_ids, CausalAttention(prefix))  # [batch, seq, hidden]
    if block_states:
        states.append(output[torch.arange(len(rests)), last])
    hidden = output.flatten(0, 1).index_select(0, index.to(output.device))
    head: Any = model.get_output_embeddings() if logits else None  # type: ignore[operator]
    return ForwardOutput(
        counts=counts,
        hidden=hidden,
        logits=head(hidden) if logits else None,
        block_states=torch.stack(states, dim=1) if block_states else None,
    )


def forward_with_prefix(
    model: nn.Module,
    prefix_ids: TokenIds,
    rests: Sequence[TokenIds],
    *,
    positions: Positions = "all",
    logits: bool = True,
    block_states: bool = False,
) -> ForwardOutput:
    """`run_prefix` and `forward_rests` in one step: the prefix is in the same graph.

    Use it under `masked` with one mask. With a mask a row the prefix can't be shared: pass the
    whole sequences as `rests` and no prefix.
    """
    prefix = run_prefix(model, prefix_ids)
    return forward_rests(
        model, prefix, rests, positions=positions, logits=logits, block_states=block_states
    )


class PrefixGraph:
    """A prefix that was run once with its graph, for several backward passes (micro-batches).

    Use `cache` in every micro-batch and call `backward` on each loss as usual; a last call of this
    object's `backward` carries the gradients that gathered on keys and values through the prefix.
    The sum equals that of running the prefix in each micro-batch, at the cost of one run.
    """

    def __init__(self, model: nn.Module, prefix_ids: TokenIds) -> None:
        self._graph = run_prefix(model, prefix_ids)
        self.cache = PrefixCache(
            tuple(key.detach().requires_grad_() for key in self._graph.keys),
            tuple(value.detach().requires_grad_() for value in self._graph.values),
            self._graph.length,
        )

    def backward(self) -> None:
        """Carry the gathered gradients on; only once, after all micro-batches."""
        outputs = (*self._graph.keys, *self._graph.values)
        leaves = (*self.cache.keys, *self.cache.values)
        # The first layer's keys and values lie before every mask, so they may have no graph.
        pairs = [
            (output, leaf.grad)
            for output, leaf in zip(outputs, leaves, strict=True)
            if output.requires_grad and leaf.grad is not None
        ]
        if pairs:
            torch.autograd.backward(
                [output for output, _ in pairs], [gradient for _, gradient in pairs]
            )


def run_decoder(
    model: nn.Module,
    input_ids: Tensor,
    attention: CausalAttention,
) -> Tensor:
    """Decoder output `[batch, seq, hidden]` after the final norm, without the head.

    Args:
        model: a causal language model of a supported family.
        input_ids: `[batch, seq]`, right-padded with any token.
        attention: the prefix, and where to record keys and values.
    """
    device = _device(model)
    past = attention.prefix.length
    position_ids = torch.arange(past, past + input_ids.shape[1], device=device).unsqueeze(0)
    with installed(model):
        output: Tensor = decoder(model)(
            input_ids=input_ids.to(device),
            position_ids=position_ids,
            use_cache=False,
            shared_attention=attention,
        ).last_hidden_state
    return output


def _flat_positions(positions: Positions, lengths: list[int]) -> tuple[list[int], Tensor]:
    """Counts a row, and indices into the flattened `[batch * longest]` tokens."""
    if positions == "all":
        chosen: Sequence[Sequence[int]] = [range(length) for length in lengths]
    elif positions == "last":
        chosen = [[length - 1] for length in lengths]
    else:
        chosen = positions
    if len(chosen) != len(lengths):
        raise InputError(f"positions of {len(chosen)} rows were given for {len(lengths)} rows")
    longest = max(lengths)
    flat: list[int] = []
    for row, (indices, length) in enumerate(zip(chosen, lengths, strict=True)):
        if any(not 0 <= index < length for index in indices):
            raise InputError(f"row {row} has {length} tokens; positions {list(indices)} leave it")
        flat.extend(row * longest + index for index in indices)
    return [len(indices) for indices in chosen], torch.tensor(flat, dtype=torch.long)


def _keep_rows_at(states: list[Tensor], index: Tensor) -> Callable[..., None]:
    def keep(_: nn.Module, __: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        hidden = output if isinstance(output, Tensor) else output[0]
        states.append(hidden[torch.arange(len(index), device=hidden.device), index])

    return keep


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
