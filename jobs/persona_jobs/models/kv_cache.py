"""Keys and values of the rows being decoded, after a shared prefix."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .attention import capped
from .prefix import PrefixCache


@dataclass
class KVCache:
    """An attention backend for decoding: keys and values in buffers allocated once.

    Rows occupy the slots 0 to `active - 1`; a row that leaves is replaced by the last one, so a
    step only works on rows that still generate. The prefix is held once and read once per step for
    all rows: scores over prefix and own tokens are joined before one softmax, which is exact.

    Attributes:
        prefix: keys and values that every row sees.
        keys: n_layers times `[slots, kv_heads, capacity, head_dim]`.
        values: likewise.
        lengths: `[slots]`, own tokens of each row in the buffers, the prefix not counted.
    """

    prefix: PrefixCache
    keys: list[Tensor]
    values: list[Tensor]
    lengths: Tensor
    active: int = 0
    _steps: "dict[torch.device, _Step]" = field(default_factory=dict, repr=False)

    @classmethod
    def allocate(
        cls, prefix: PrefixCache, like: list[Tensor], *, slots: int, capacity: int
    ) -> "KVCache":
        """Allocate empty buffers for `slots` rows of up to `capacity` own tokens.

        Args:
            prefix: keys and values that every row sees, or `EMPTY_PREFIX`.
            like: each layer's keys `[batch, kv_heads, seq, head_dim]`, for shape, type and device.
            slots: rows decoded at once.
            capacity: own tokens of the longest row.
        """

        def empty(key: Tensor) -> Tensor:
            return key.new_zeros(slots, key.shape[1], capacity, key.shape[3])

        return cls(
            prefix,
            [empty(key) for key in like],
            [empty(key) for key in like],
            torch.zeros(slots, dtype=torch.long, device=like[0].device),
        )

    def add_rows(self, keys: list[Tensor], values: list[Tensor], lengths: list[int]) -> None:
        """Fill free slots with rows that were prefilled.

        Args:
            keys: n_layers times `[rows, kv_heads, seq, head_dim]`, right-padded.
            values: likewise.
            lengths: valid tokens of each row.
        """
        start, end, longest = self.active, self.active + len(lengths), max(lengths)
        for buffers, news in ((self.keys, keys), (self.values, values)):
            for buffer, new in zip(buffers, news, strict=True):
                buffer[start:end, :, :longest] = new
        self.lengths[start:end] = torch.tensor(lengths, device=self.lengths.device)
        self.active = end

    def drop_row(self, slot: int) -> None:
        """Free a slot; the last active row moves into it."""
        last = self.active - 1
        if slot != last:
            length = int(self.lengths[last])
            for buffer in (*self.keys, *self.values):
                buffer[slot, :, :length] = buffer[last, :, :length]
            self.lengths[slot] = self.lengths[last]
        self.active = last

    def begin_step(self) -> None:
        """Prepare one forward pass of a single new token in every active row."""
        lengths = self.lengths[: self.active]
        total = int(lengths.max()) + 1
        positions = torch.arange(total, device=lengths.device)
        step = _Step(
            rows=torch.arange(self.active, device=lengths.device),
            at=lengths.clone(),
            total=total,
            excluded=positions > lengths.unsqueeze(1),
            positions=positions,
        )
        self._steps = {lengths.device: step}
        self.lengths[: self.active] += 1

    def position_ids(self) -> Tensor:
        """Return the position of each active row's new token in its sequence, `[active, 1]`."""
        return (self._current(self.lengths.device).at + self.prefix.length).unsqueeze(1)

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
        """Compute the attention as in `AttentionBackend.attend`; `seq` is 1."""
        step = self._current(query.device)
        rows, heads, _, size = query.shape
        kv_heads = key.shape[1]
        groups = heads // kv_heads
        self.keys[layer][step.rows, :, step.at] = key[:, :, 0]
        self.values[layer][step.rows, :, step.at] = value[:, :, 0]
        own_keys = self.keys[layer][:rows, :, : step.total]
        own_values = self.values[layer][:rows, :, : step.total]
        grouped = query.reshape(rows, kv_heads, groups, size) * scale
        # [rows, kv_heads, groups, total]
        scores = capped(grouped @ own_keys.transpose(2, 3), softcap)
        excluded = step.excluded
        if window is not None:
            excluded = excluded | (step.positions <= (step.at - window).unsqueeze(1))
        scores = scores.masked_fill(excluded[:, None, None], float("-inf"))
        past = self.prefix.length
        if not past:
            weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
            return (weights @ own_values).view(rows, heads, 1, size)
        # All rows' queries of one head read the one copy of the prefix's keys together.
        together = grouped.transpose(0, 1).reshape(kv_heads, rows * groups, size)
        shared = capped(together @ self.prefix.keys[layer][0].transpose(1, 2), softcap)
        shared = shared.view(kv_heads, rows, groups, past).transpose(0, 1)
        if window is not None:
            behind = torch.arange(past, device=query.device) <= (step.at + past - window).unsqueeze(
                1
            )
            shared = shared.masked_fill(behind[:, None, None], float("-inf"))
        weights = torch.cat([shared, scores], dim=-1).softmax(-1, dtype=torch.float32)
        weights = weights.to(query.dtype)
        over_prefix = weights[..., :past].transpose(0, 1).reshape(kv_heads, rows * groups, past)
        from_prefix = over_prefix @ self.prefix.values[layer][0]
        from_prefix = from_prefix.view(kv_heads, rows, groups, size).transpose(0, 1)
        output = weights[..., past:] @ own_values + from_prefix
        return output.reshape(rows, heads, 1, size)

    def _current(self, device: torch.device) -> "_Step":
        """Return the step on the device of a layer; layers may be on several."""
        if not self._steps:
            raise RuntimeError("begin_step was not called")
        if device not in self._steps:
            self._steps[device] = self._steps[self.lengths.device].to(device)
        return self._steps[device]


@dataclass(frozen=True)
class _Step:
    """One decoding step: where new tokens go, and which buffer positions each row must not read."""

    rows: Tensor  # [active]
    at: Tensor  # [active]
    total: int
    excluded: Tensor  # bool [active, total]
    positions: Tensor  # [total]

    def to(self, device: torch.device) -> "_Step":
        return _Step(
            self.rows.to(device),
            self.at.to(device),
            self.total,
            self.excluded.to(device),
            self.positions.to(device),
        )
