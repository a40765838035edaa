"""The model and the loop that generates one answer; blocking, for one thread."""

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
from ..models.compute import Compute
from .sampling import AnswerPenalties, Sampling, checkpoint_defaults, generation_config

MIN_SHARED_TOKENS = 8
"""Shorter common prefixes of two prompts aren't worth keeping."""

logger = logging.getLogger(__name__)


class Engine:
    """One loaded checkpoint.

    Not thread-safe: `generate` is to be called by one thread at a time. `render` and `decode`
    may be called beside it, each by one thread.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        max_context_tokens: longest sequence of prompt and answer; None for the model's own.

    Raises:
        InputError: `max_context_tokens` is beyond the model's, or there is no end-of-turn token.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, max_context_tokens: int | None = None
    ) -> None:
        longest = int(model.config.get_text_config(decoder=True).max_position_embeddings)
        if max_context_tokens is not None and max_context_tokens > longest:
            raise InputError(
                f"a context of {max_context_tokens} tokens is longer than the model's {longest}",
                hint=f"set it to {longest} or less, or leave it out",
                subject="spec.serving.maxContextTokens",
            )
        own = model.generation_config
        ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
        self.end_tokens = frozenset([ends] if isinstance(ends, int) else ends or ())
        if tokenizer.eos_token_id is not None:
            self.end_tokens |= {tokenizer.eos_token_id}
        if not self.end_tokens:
            raise InputError(
                "the checkpoint names no end-of-turn token",
                hint="set eos_token_id in its generation_config.json",
            )
        self.max_context_tokens = max_context_tokens or longest
        self.defaults = checkpoint_defaults(own)
        pad = own.pad_token_id if own.pad_token_id is not None else min(self.end_tokens)
        # Beams, forced tokens and the like of a checkpoint don't go with streaming.
        model.generation_config = GenerationConfig(
            eos_token_id=sorted(self.end_tokens), pad_token_id=pad, bos_token_id=own.bos_token_id
        )
        self._model = model
        self._tokenizer = tokenizer
        self._prefix = _SharedPrefix(model.config)

    @classmethod
    def load(
        cls, directory: Path, compute: Compute, *, max_context_tokens: int | None = None
    ) -> Self:
        """Load a plain Hugging Face checkpoint.

        Raises:
            InputError: there is none, or its architecture isn't supported.
            CorruptArtifactError: its weights or tokenizer are damaged.
        """
        started = time.monotonic()
        model, tokenizer = loading.load(directory, compute)
        engine = cls(model, tokenizer, max_context_tokens=max_context_tokens)
        logger.info(
            "model loaded in %.1f s on %s: %s", time.monotonic() - started, compute.device,
            compute.reason,
        )  # fmt: skip
        return engine

    def render(self, messages: list[Message]) -> list[int]:
        """Return the token ids of a conversation, up to where the answer starts.

        Raises:
            InputError: the chat template refuses the messages.
        """
        return chat.render(self._tokenizer, messages)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out."""
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
            max_new_tokens: most tokens of the answer.
            sampling: how tokens are chosen. The same seed gives the same answer on the same
                machine, up to rounding.
            on_token: called with each token, the end-of-turn token included; the generation stops
                when it returns False.
        """
        control = _Control(on_token)
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
                past_key_values=cache,
                logits_processor=processors,
                stopping_criteria=[control.criterion],
                streamer=control,
            )
        self._prefix.put([*prompt, *control.tokens], cache)

    def warm_up(self) -> None:
        """Generate one token, so that the first request finds everything in place."""
        prompt = self.render([{"role": "user", "content": "Hello"}])
        limit = self.max_context_tokens - 1
        self.generate(
            prompt[:limit],
            max_new_tokens=1,
            sampling=Sampling(temperature=0),
            on_token=lambda _: True,
        )


class _Control(BaseStreamer):  # type: ignore[misc]
    """Passes tokens on as they come, and ends the generation on request."""

    def __init__(self, on_token: Callable[[int], bool]) -> None:
        self._on_token = on_token
        self._prompt_seen = False
        self._stop = False
        self.tokens: list[int] = []
        self.criterion = _StopCriterion(self)

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt (first call) or the newest token."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        token = int(value.reshape(-1)[0])
        self.tokens.append(token)
        self._stop = not self._on_token(token)

    def end(self) -> None:
        """Do nothing: the caller sees the end of `generate`."""

    @property
    def stop(self) -> bool:
        """Whether no further token is wanted."""
        return self._stop


class _StopCriterion(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, control: _Control) -> None:
        self._control = control

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        del scores
        return torch.full((input_ids.shape[0],), self._control.stop, device=input_ids.device)


class _SharedPrefix:
    """Keys and values of the last conversation, for the next one that starts alike.

    All conversations start with the persona, and a later turn starts with all earlier ones: only
    what is new has to be computed. One conversation is kept.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._ids: list[int] = []
        self._cache: Any = None
        kinds = getattr(config.get_text_config(decoder=True), "layer_types", None) or ()
        # Sliding windows forget their oldest tokens, so they can't be cut back.
        self._usable = all(kind == "full_attention" for kind in kinds)

    def take(self, prompt: Sequence[int]) -> Any:
        """Return a cache that holds the prompt's known start; the last token is always left out."""
        cache, self._cache = self._cache, None
        shared = 0
        for known, token in zip(self._ids, prompt[:-1], strict=False):
            if known != token:
                break
            shared += 1
        if cache is None or shared < MIN_SHARED_TOKENS:
            return DynamicCache(config=self._config)
        cache.crop(shared - cache.get_seq_length())  # negative: that many tokens less
        return cache

    def put(self, ids: list[int], cache: Any) -> None:
        """Keep the cache of a finished generation: it holds all tokens but the last."""
        if self._usable:
            self._ids, self._cache = ids[: cache.get_seq_length()], cache


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch says that the device or the machine ran out of memory."""
    # On a CPU torch raises a plain RuntimeError that names its allocator.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(
        error
    )
