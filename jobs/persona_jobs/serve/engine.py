"""The model and the loop that generates one answer; it blocks and belongs to one thread."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from transformers import DynamicCache, GenerationConfig, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from ..dataset import Message
from ..errors import InputError
from ..models import chat, loading
from ..models.cache_argument import cache_argument
from ..models.compute import Compute
from .sampling import AnswerPenalties, Sampling, checkpoint_defaults, generation_config

MIN_SHARED_TOKENS = 8
"""Shorter common prefixes of two prompts are not reused."""

logger = logging.getLogger(__name__)


class Engine:
    """One loaded checkpoint.

    It is not thread-safe: only one thread may call `generate` at a time. Meanwhile, one other
    thread may call `render` and one may call `decode`.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        max_context_tokens: token limit of prompt and answer; None for the model's own.

    Raises:
        InputError: `max_context_tokens` exceeds the model's limit, or the checkpoint has no
            end-of-turn token.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, max_context_tokens: int | None = None
    ) -> None:
        longest = int(model.config.get_text_config(decoder=True).max_position_embeddings)
        if max_context_tokens is not None and max_context_tokens > longest:
            raise InputError(
                f"A context of {max_context_tokens} tokens exceeds the model's limit of {longest}",
                hint=f"Set it to {longest} or less, or remove it",
                subject="spec.serving.maxContextTokens",
            )
        own = model.generation_config
        ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
        self.end_tokens = frozenset([ends] if isinstance(ends, int) else ends or ())
        if tokenizer.eos_token_id is not None:
            self.end_tokens |= {tokenizer.eos_token_id}
        if not self.end_tokens:
            raise InputError(
                "The checkpoint names no end-of-turn token",
                hint="Set eos_token_id in its generation_config.json",
            )
        self.max_context_tokens = max_context_tokens or longest
        self.defaults = checkpoint_defaults(own)
        pad = own.pad_token_id if own.pad_token_id is not None else min(self.end_tokens)
        # Beams, forced tokens and similar settings of a checkpoint do not work with streaming.
        model.generation_config = GenerationConfig(
            eos_token_id=sorted(self.end_tokens), pad_token_id=pad, bos_token_id=own.bos_token_id
        )
        self._model = model
        self._tokenizer = tokenizer
        self._prefix = _PrefixCache(model.config)

    @classmethod
    def load(
        cls, directory: Path, compute: Compute, *, max_context_tokens: int | None = None
    ) -> Self:
        """Load a plain Hugging Face checkpoint.

        Raises:
            InputError: the checkpoint does not exist, or its architecture is not supported.
            CorruptArtifactError: its weights or tokenizer are damaged.
        """
        started = time.monotonic()
        model, tokenizer = loading.load(directory, compute)
        engine = cls(model, tokenizer, max_context_tokens=max_context_tokens)
        logger.info(
            "The model was loaded in %.1f s on %s: %s", time.monotonic() - started, compute.device,
            compute.reason,
        )  # fmt: skip
        return engine

    def render(self, messages: list[Message]) -> list[int]:
        """Return the token ids of a conversation up to the start of the answer.

        Raises:
            InputError: the chat template refuses the messages.
        """
        return chat.render(self._tokenizer, messages)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens without special tokens."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        on_token: Callable[[int], bool],
    ) -> None:
        """Generate an answer token by token.

        Args:
            prompt: token ids of the conversation.
            max_new_tokens: token limit of the answer.
            sampling: how tokens are chosen. The same seed gives the same answer on the same
                machine, except for rounding errors.
            on_token: called with each token, including the end-of-turn token; the generation stops
                when it returns False.
        """
        streamer = _TokenStreamer(on_token)
        processors = []
        if sampling.presence_penalty or sampling.frequency_penalty:
            processors.append(
                AnswerPenalties(len(prompt), sampling.presence_penalty, sampling.frequency_penalty)
            )
        ids = torch.tensor([list(prompt)], device=self._model.device)
        torch.manual_seed(sampling.seed)
        cache = self._prefix.take(prompt)
        with torch.inference_mode():
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=generation_config(sampling, max_new_tokens),
                logits_processor=processors,
                stopping_criteria=[streamer.criterion],
                streamer=streamer,
                **cache_argument(self._model, cache),
            )
        self._prefix.put([*prompt, *streamer.tokens], cache)

    def warm_up(self) -> None:
        """Generate one token, so that the first request is not slower than later ones."""
        prompt = self.render([{"role": "user", "content": "Hello"}])
        limit = self.max_context_tokens - 1
        self.generate(
            prompt[:limit],
            max_new_tokens=1,
            sampling=Sampling(temperature=0),
            on_token=lambda _: True,
        )


class _TokenStreamer(BaseStreamer):  # type: ignore[misc]
    """A streamer that passes on each new token and can stop the generation."""

    def __init__(self, on_token: Callable[[int], bool]) -> None:
        self._on_token = on_token
        self._prompt_seen = False
        self._stop = False
        self.tokens: list[int] = []
        self.criterion = _StopCriterion(self)

    def put(self, value: torch.Tensor) -> None:
        """Receive the prompt in the first call, and then each new token."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        token = int(value.reshape(-1)[0])
        self.tokens.append(token)
        self._stop = not self._on_token(token)

    def end(self) -> None:
        """Do nothing; `generate` returns to its caller."""

    @property
    def stop(self) -> bool:
        """Return whether the generation has to stop."""
        return self._stop


class _StopCriterion(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, streamer: _TokenStreamer) -> None:
        self._streamer = streamer

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        del scores
        return torch.full((input_ids.shape[0],), self._streamer.stop, device=input_ids.device)


class _PrefixCache:
    """The KV cache of the last conversation, reused by a conversation with the same start.

    All conversations start with the persona, and a later turn starts with all earlier ones, so
    only the new tokens have to be computed. One conversation is kept.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._ids: list[int] = []
        self._cache: Any = None
        kinds = getattr(config.get_text_config(decoder=True), "layer_types", None) or ()
        # Sliding windows drop their oldest tokens, so that their caches can't be shortened.
        self._usable = all(kind == "full_attention" for kind in kinds)

    def take(self, prompt: Sequence[int]) -> Any:
        """Return a cache with the known start of the prompt, always without its last token."""
        cache, self._cache = self._cache, None
        shared = 0
        for known, token in zip(self._ids, prompt[:-1], strict=False):
            if known != token:
                break
            shared += 1
        if cache is None or shared < MIN_SHARED_TOKENS:
            return DynamicCache(config=self._config)
        cache.crop(shared - cache.get_seq_length())  # a negative number removes that many tokens
        return cache

    def put(self, ids: list[int], cache: Any) -> None:
        """Keep the cache of a finished generation, which has all tokens but the last."""
        if self._usable:
            self._ids, self._cache = ids[: cache.get_seq_length()], cache
