"""The model and its tokenizer: from messages to token ids, and from token ids to text."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from ..dataset import Message
from ..errors import InputError
from ..models import chat, loading
from ..models.compute import Compute
from ..models.families import position_limit
from .sampling import checkpoint_defaults
from .token_bytes import TokenBytes

logger = logging.getLogger(__name__)


class Engine:
    """One loaded checkpoint.

    It may be used by several threads at a time, of which one runs the model.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        max_context_tokens: token limit of prompt and answer; None for the model's own.

    Attributes:
        model: the model.
        max_context_tokens: token limit of prompt and answer.
        end_tokens: the tokens that end an answer.
        defaults: the checkpoint's own sampling settings.
        token_bytes: the bytes of each token.

    Raises:
        InputError: `max_context_tokens` exceeds the model's limit, or the checkpoint has no
            end-of-turn token.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, max_context_tokens: int | None = None
    ) -> None:
        config = model.config.get_text_config(decoder=True)
        limits = (config.max_position_embeddings, position_limit(config))
        longest = min(int(limit) for limit in limits if limit is not None)
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
        self.model = model
        self.max_context_tokens = max_context_tokens or longest
        self.defaults = checkpoint_defaults(own)
        self.token_bytes = TokenBytes(tokenizer)
        self._tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        directory: Path,
        compute: Compute,
        *,
        tokenizer: Path | None = None,
        max_context_tokens: int | None = None,
    ) -> Self:
        """Load a plain Hugging Face checkpoint.

        Args:
            directory: the checkpoint.
            compute: device and number format.
            tokenizer: checkpoint whose tokenizer and chat template are used; None for its own.
            max_context_tokens: token limit of prompt and answer; None for the model's own.

        Raises:
            InputError: the checkpoint does not exist, or its architecture is not supported.
            CorruptArtifactError: its weights or tokenizer are damaged.
        """
        started = time.monotonic()
        model = loading.load_model(directory, compute)
        engine = cls(
            model,
            loading.load_tokenizer(tokenizer or directory),
            max_context_tokens=max_context_tokens,
        )
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
        return chat.render(self._tokenizer, messages, pinned_date=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens without special tokens."""
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
