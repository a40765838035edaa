"""Batched text generation over a shared prefix.

The prompts' common prefix is run once. Rows that finish leave the batch at once and waiting
prompts take their places, so every step works on rows that still generate.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .attention import attention_installed
from .chat import end_of_turn
from .families import decoder, head, position_limit
from .kv_cache import KVCache
from .masking import masked
from .prefix import CausalAttention, PrefixCache, run_decoder, run_prefix, split
from .sampling import draw_uniforms, next_tokens, row_stream


@dataclass(frozen=True)
class Generated:
    """One answer.

    Attributes:
        ids: generated tokens without the stop token.
        text: the same, decoded without special tokens.
        finished: whether the model ended its turn; False: the answer reached `max_new_tokens`.
    """

    ids: list[int]
    text: str
    finished: bool


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    masks: Tensor | None = None,
    batch_size: int = 16,
    row_ids: Sequence[int] | None = None,
    on_answer: Callable[[int, Generated], None] | None = None,
) -> list[Generated]:
    """Generate answers to prompts and return them in the prompts' order.

    An answer depends on its prompt, its mask, the seed and its row id, not on the other prompts or
    the batch size (up to the rounding of matrix products).

    Args:
        model: a causal language model of a supported family.
        tokenizer: its tokenizer.
        prompts: token ids, each ending where the answer begins.
        max_new_tokens: longest answer, the stop token counted.
        temperature: 0 for greedy decoding, else the divisor of the logits.
        seed: of all draws.
        masks: `[n_layers, d_ff]` for all rows, `[len(prompts), n_layers, d_ff]` for one mask per
            prompt, or None. With one mask per prompt, no prefix is shared.
        batch_size: rows decoded at once; more is faster and takes more memory.
        row_ids: which stream of random numbers each prompt draws from; default: its index.
        on_answer: called with the prompt's index when an answer is complete; what it raises ends
            the generation.

    Raises:
        InputError: a prompt is empty or too long for the model, or an argument is out of range.
    """
    _check(model, prompts, max_new_tokens, temperature, batch_size)
    rows = row_ids if row_ids is not None else range(len(prompts))
    own_masks = masks is not None and masks.dim() == 3
    if len(rows) != len(prompts) or (
        own_masks and masks is not None and len(masks) != len(prompts)
    ):
        raise InputError("row ids and masks need exactly one entry per prompt")
    if not prompts:
        return []
    share = len(prompts) > 1 and not own_masks
    prefix_ids, suffixes = split(prompts) if share else ([], [list(prompt) for prompt in prompts])
    shared_mask = masked(model, masks) if masks is not None and not own_masks else nullcontext()
    with torch.inference_mode(), shared_mask:
        batch = _Batch(
            model=model,
            tokenizer=tokenizer,
            suffixes=suffixes,
            prefix=run_prefix(model, prefix_ids),
            stop=stop_tokens(model, tokenizer),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            streams=[row_stream(seed, row) for row in rows],
            row_masks=masks if own_masks else None,
            slots=min(batch_size, len(prompts)),
            on_answer=on_answer,
        )
        batch.run()
    return [batch.answers[index] for index in range(len(prompts))]


def stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the token ids that end an answer.

    They come from the generation configuration, the tokenizer and its chat template.
    """
    config = getattr(model, "generation_config", None)
    configured = getattr(config, "eos_token_id", None)
    ids = list(configured) if isinstance(configured, list | tuple) else [configured]
    ids.append(tokenizer.eos_token_id)
    if tokenizer.chat_template:
        ids.append(end_of_turn(tokenizer))
    return frozenset(token for token in ids if token is not None)


def _check(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    batch_size: int,
) -> None:
    if max_new_tokens < 1 or batch_size < 1 or temperature < 0:
        raise InputError(
            f"can't generate with max_new_tokens {max_new_tokens}, batch size {batch_size} and "
            f"temperature {temperature}",
            hint="Use at least 1 for the first two and at least 0 for the temperature",
        )
    limits = (getattr(model.config, "max_position_embeddings", None), position_limit(model.config))
    limit = min((length for length in limits if length is not None), default=None)
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise InputError(f"prompt {index} is empty")
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise InputError(
                f"prompt {index} has {len(prompt)} tokens; with {max_new_tokens} for the answer "
                f"that is more than the model's {limit}",
                hint="Shorten the persona or the question, or ask for a shorter answer",
            )


@dataclass
class _Batch:
    """The state of one call of `generate`; slot i of the cache decodes prompt `prompt_of[i]`."""

    model: Any
    tokenizer: Any
    suffixes: list[list[int]]
    prefix: PrefixCache
    stop: frozenset[int]
    max_new_tokens: int
    temperature: float
    streams: list[torch.Generator]
    row_masks: Tensor | None
    slots: int
    on_answer: Callable[[int, Generated], None] | None
    answers: dict[int, Generated] = field(default_factory=dict)
    prompt_of: list[int] = field(default_factory=list)
    tokens: dict[int, list[int]] = field(default_factory=dict)
    cache: KVCache | None = None

    def run(self) -> None:
        # Similar lengths are prefilled together, the longest first.
        waiting = sorted(range(len(self.suffixes)), key=lambda index: -len(self.suffixes[index]))
        refill = max(1, self.slots // 4)
        while waiting or self.prompt_of:
            free = self.slots - len(self.prompt_of)
            if waiting and (free >= refill or not self.prompt_of):
                taken, waiting = waiting[:free], waiting[free:]
                self._prefill(taken)
            if self.prompt_of:
                self._step()

    def _prefill(self, prompts: list[int]) -> None:
        suffixes = [self.suffixes[prompt] for prompt in prompts]
        lengths = [len(suffix) for suffix in suffixes]
        input_ids = torch.zeros(len(suffixes), max(lengths), dtype=torch.long)
        for row, suffix in zip(input_ids, suffixes, strict=True):
            row[: len(suffix)] = torch.tensor(suffix)
        attention = CausalAttention(self.prefix, record=True)
        with self._masked(prompts):
            output = run_decoder(self.model, input_ids, attention)
        if self.cache is None:
            self.cache = KVCache.allocate(
                self.prefix,
                attention.keys,
                slots=self.slots,
                capacity=max(len(suffix) for suffix in self.suffixes) + self.max_new_tokens,
            )
        self.cache.add_rows(attention.keys, attention.values, lengths)
        self.prompt_of += prompts
        self.tokens.update({prompt: [] for prompt in prompts})
        last = torch.tensor(lengths, device=output.device) - 1
        self._append(prompts, output[torch.arange(len(suffixes), device=output.device), last])

    def _step(self) -> None:
        assert self.cache is not None  # noqa: S101
        self.cache.begin_step()
        newest = [[self.tokens[prompt][-1]] for prompt in self.prompt_of]
        with self._masked(self.prompt_of), attention_installed(self.model):
            hidden_states = decoder(self.model)(
                input_ids=torch.tensor(newest, device=self.cache.lengths.device),
                position_ids=self.cache.position_ids(),
                use_cache=False,
                attention_backend=self.cache,
            ).last_hidden_state[:, 0]
        self._append(list(self.prompt_of), hidden_states)

    def _append(self, prompts: list[int], hidden_states: Tensor) -> None:
        """Draw one token per prompt from its hidden state `[rows, d]`; finished rows leave."""
        logits = head(self.model)(hidden_states)
        uniforms = None
        if self.temperature > 0:
            streams = [self.streams[prompt] for prompt in prompts]
            uniforms = draw_uniforms(streams, logits.shape[-1])
        drawn = next_tokens(logits, self.temperature, uniforms).tolist()
        for prompt, token in zip(prompts, drawn, strict=True):
            stopped = token in self.stop
            if not stopped:
                self.tokens[prompt].append(token)
            if stopped or len(self.tokens[prompt]) == self.max_new_tokens:
                self._finish(prompt, finished=stopped)

    def _finish(self, prompt: int, *, finished: bool) -> None:
        assert self.cache is not None  # noqa: S101
        slot = self.prompt_of.index(prompt)
        self.cache.drop_row(slot)
        self.prompt_of[slot] = self.prompt_of[-1]
        self.prompt_of.pop()
        ids = self.tokens.pop(prompt)
        answer = Generated(ids, self.tokenizer.decode(ids, skip_special_tokens=True), finished)
        self.answers[prompt] = answer
        if self.on_answer is not None:
            self.on_answer(prompt, answer)

    def _masked(self, prompts: list[int]) -> AbstractContextManager[None]:
        if self.row_masks is None:
            return nullcontext()
        return masked(self.model, self.row_masks[prompts])
