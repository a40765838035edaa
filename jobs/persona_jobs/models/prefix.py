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
from .attention import attend, attention_installed, causal_mask
from .compute import device_of
from .families import blocks, decoder, position_limit

TokenIds = Sequence[int]
Positions = Literal["last"] | Sequence[Sequence[int]]


def split(
    sequences: Sequence[TokenIds], *, before: Sequence[int] | None = None
) -> tuple[list[int], list[list[int]]]:
    """Split token sequences into their longest common prefix and each one's suffix.

    Every suffix keeps at least one token.

    Args:
        sequences: token ids, none empty.
        before: for each sequence, an index that the suffix must be able to predict (the start of
            the answer): the suffix then begins at index `before[i] - 1` or earlier.

    Raises:
        InputError: no sequence was given, or one is empty.
    """
    if not sequences or any(len(sequence) == 0 for sequence in sequences):
        raise InputError("there are no tokens to split into prefix and suffix")
    longest = min(len(sequence) for sequence in sequences) - 1
    if before is not None:
        longest = max(0, min(longest, *(index - 1 for index in before)))
    columns = zip(*(sequence[:longest] for sequence in sequences), strict=False)
    prefix = [column[0] for column in takewhile(lambda ids: len(set(ids)) == 1, columns)]
    return prefix, [list(sequence[len(prefix) :]) for sequence in sequences]


@dataclass(frozen=True)
class PrefixCache:
    """Keys and values of a prefix, one pair per layer; never written to after it was made.

    Attributes:
        keys: n_layers times `[1, kv_heads, length, head_dim]`, rotary embedding applied.
        values: likewise.
        length: tokens in the prefix.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    length: int


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
    _masks: dict[tuple[int | None, torch.device], Tensor] = field(default_factory=dict)

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Compute the attention as in `AttentionBackend.attend`."""
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
            return attend(query, key, value, scale=scale, causal=True, softcap=softcap)
        if (window, query.device) not in self._masks:
            self._masks[window, query.device] = causal_mask(
                seq, past, window=window, device=query.device
            )
        mask = self._masks[window, query.device]
        return attend(query, key, value, scale=scale, mask=mask, softcap=softcap)


@dataclass(frozen=True)
class ForwardOutput:
    """Result of a forward pass at the chosen positions, rows one after the other.

    Attributes:
        counts: chosen positions in each row; their sum is `n`.
        hidden_states: `[n, d]`, the decoder's output after its final norm.
        block_outputs: `[batch, n_blocks, d]`, the output of every block at each row's last token,
            or None. As in transformers' `hidden_states[1:]`, the last one is taken after the final
            norm.
    """

    counts: list[int]
    hidden_states: Tensor
    block_outputs: Tensor | None


def run_prefix(model: nn.Module, prefix_ids: TokenIds) -> PrefixCache:
    """Compute a prefix's keys and values with batch size 1 in the caller's gradient mode.

    Under `masked` with one mask, they are the masked model's.
    """
    if not prefix_ids:
        return EMPTY_PREFIX
    attention = CausalAttention(record=True)
    run_decoder(model, torch.tensor([list(prefix_ids)]), attention)
    return PrefixCache(tuple(attention.keys), tuple(attention.values), len(prefix_ids))


def extend_prefix(model: nn.Module, prefix: PrefixCache, ids: TokenIds) -> PrefixCache:
    """Return the cache of a prefix followed by `ids`; the given one is not changed."""
    if not ids or not prefix.length:
        return run_prefix(model, ids) if ids else prefix
    attention = CausalAttention(prefix, record=True)
    run_decoder(model, torch.tensor([list(ids)]), attention)
    return PrefixCache(
        tuple(torch.cat(pair, dim=2) for pair in zip(prefix.keys, attention.keys, strict=True)),
        tuple(torch.cat(pair, dim=2) for pair in zip(prefix.values, attention.values, strict=True)),
        prefix.length + len(ids),
    )


def forward_suffixes(
    model: nn.Module,
    prefix: PrefixCache,
    suffixes: Sequence[TokenIds],
    *,
    positions: Positions,
    block_outputs: bool = False,
) -> ForwardOutput:
    """Run `prefix + suffix` for every suffix, given the prefix's keys and values.

    The language-model head does not run. With one mask per row (`masked`), a prefix can't be
    shared: pass the whole sequences as `suffixes` and `EMPTY_PREFIX`.

    Args:
        model: a causal language model of a supported family.
        prefix: from `run_prefix` (detached or not), or `EMPTY_PREFIX`. It is not changed.
        suffixes: token ids of each row, none empty; padded inside.
        positions: where hidden states are wanted: at each row's last token, or at these indices
            into each suffix.
        block_outputs: whether to return every block's output at each row's last token.

    Raises:
        InputError: a suffix is empty, or a position is outside its suffix.
    """
    if not suffixes or any(len(suffix) == 0 for suffix in suffixes):
        raise InputError("every row needs at least one token after the prefix")
    lengths = [len(suffix) for suffix in suffixes]
    counts, index = _flat_positions(positions, lengths)
    input_ids = torch.zeros(len(suffixes), max(lengths), dtype=torch.long)
    for row, suffix in zip(input_ids, suffixes, strict=True):
        row[: len(suffix)] = torch.tensor(suffix)
    outputs: list[Tensor] = []
    last = torch.tensor(lengths) - 1
    with ExitStack() as stack:
        if block_outputs:
            keep = _keep_rows_at(outputs, last)
            for block in blocks(model)[:-1]:
                stack.callback(block.register_forward_hook(keep).remove)
        output = run_decoder(model, input_ids, CausalAttention(prefix))  # [batch, seq, d]
    if block_outputs:
        outputs.append(output[torch.arange(len(suffixes)), last])
    return ForwardOutput(
        counts=counts,
        hidden_states=output.flatten(0, 1).index_select(0, index.to(output.device)),
        block_outputs=_stack(outputs, output.device) if block_outputs else None,
    )


class PrefixGraph:
    """A prefix that was run once with its graph, for several backward passes (micro-batches).

    Use `cache` in every micro-batch and call `backward` on each loss as usual; a last call of this
    object's `backward` takes the gradients accumulated on keys and values through the prefix. The
    result equals that of running the prefix in each micro-batch, at the cost of one run.
    """

    def __init__(self, model: nn.Module, prefix_ids: TokenIds) -> None:
        self._graph = run_prefix(model, prefix_ids)
        self.cache = PrefixCache(
            tuple(key.detach().requires_grad_() for key in self._graph.keys),
            tuple(value.detach().requires_grad_() for value in self._graph.values),
            self._graph.length,
        )

    def backward(self) -> None:
        """Back-propagate the accumulated gradients; call it once, after all micro-batches."""
        outputs = (*self._graph.keys, *self._graph.values)
        leaves = (*self.cache.keys, *self.cache.values)
        # The first layer's keys and values come before every mask, so they may have no graph.
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
    """Return the decoder's output `[batch, seq, d]` after the final norm, without the head.

    Args:
        model: a causal language model of a supported family.
        input_ids: `[batch, seq]`, right-padded with any token.
        attention: the prefix, and where to record keys and values.

    Raises:
        InputError: the sequence is longer than `families.position_limit`.
    """
    device = device_of(model)
    past = attention.prefix.length
    limit, longest = position_limit(decoder(model).config), past + input_ids.shape[1]
    if limit is not None and longest > limit:
        raise InputError(
            f"a sequence of {longest} tokens is longer than the {limit} up to which the base "
            "model's positions don't depend on the length",
            hint="Shorten the persona, the instructions or the answers",
        )
    position_ids = torch.arange(past, past + input_ids.shape[1], device=device).unsqueeze(0)
    with attention_installed(model):
        output: Tensor = decoder(model)(
            input_ids=input_ids.to(device),
            position_ids=position_ids,
            use_cache=False,
            attention_backend=attention,
        ).last_hidden_state
    return output


def _flat_positions(positions: Positions, lengths: list[int]) -> tuple[list[int], Tensor]:
    """Return counts per row, and indices into the flattened `[batch * longest]` tokens."""
    if positions == "last":
        chosen: Sequence[Sequence[int]] = [[length - 1] for length in lengths]
    else:
        chosen = positions
    if len(chosen) != len(lengths):
        raise InputError(
            f"positions for {len(chosen)} rows were given, but there are {len(lengths)} rows"
        )
    longest = max(lengths)
    flat: list[int] = []
    for row, (indices, length) in enumerate(zip(chosen, lengths, strict=True)):
        if any(not 0 <= index < length for index in indices):
            raise InputError(
                f"row {row} has {length} tokens; positions {list(indices)} are outside it"
            )
        flat.extend(row * longest + index for index in indices)
    return [len(indices) for indices in chosen], torch.tensor(flat, dtype=torch.long)


def _stack(outputs: list[Tensor], device: torch.device) -> Tensor:
    """Return `[batch, n_blocks, d]`; blocks may be on several devices."""
    return torch.stack([output.to(device) for output in outputs], dim=1)


def _keep_rows_at(kept: list[Tensor], index: Tensor) -> Callable[..., None]:
    def keep(_: nn.Module, __: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        hidden_states = output if isinstance(output, Tensor) else output[0]
        rows = torch.arange(len(index), device=hidden_states.device)
        kept.append(hidden_states[rows, index.to(hidden_states.device)])

    return keep
