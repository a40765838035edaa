"""The requests that the model works on at the same time; it blocks and belongs to one thread.

Each step runs the model once: on the newest token of every answer, and on one chunk of a prompt.
So answers go on while a long prompt is read, and a request joins or leaves between two steps. A
request's tokens do not depend on the others, except for the rounding of matrix products.

The continuous batching of `transformers` is not used: it draws from one stream of random numbers
for all requests, and has neither their penalties nor the likeliest tokens for `top_logprobs`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..models.families import head
from ..models.row_cache import RowCache, run_rows
from .api_errors import ApiError
from .engine import Engine
from .sampling import Sampling, TokenChooser

MIN_SHARED_TOKENS = 8
"""Shorter common prefixes of two conversations are not reused."""
CHUNK_TOKENS = {"cpu": 64, "cuda": 512}
"""Tokens of prompts that one step reads: it takes a moment on either kind of device."""


@dataclass(frozen=True)
class Token:
    """A generated token.

    Attributes:
        id: the token.
        logprob: its log-probability by the model alone, without temperature, penalties and other
            sampling settings, in nats; None if the request doesn't ask for it.
        top: the likeliest tokens with their log-probabilities, the likeliest first.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Answer(Protocol):
    """The receiver of an answer's tokens."""

    @property
    def cancelled(self) -> bool:
        """Return whether nobody waits for the answer."""
        ...

    def push(self, token: Token) -> bool:
        """Add a token and return whether the generation continues."""
        ...

    def finish(self) -> None:
        """End the answer, whose last token was pushed."""
        ...

    def fail(self, error: ApiError) -> None:
        """End the answer with an error."""
        ...


@dataclass(frozen=True)
class Job:
    """What to generate.

    Attributes:
        prompt: token ids of the conversation.
        max_new_tokens: token limit of the answer.
        sampling: how tokens are chosen.
        answer: receives the tokens.
        top_logprobs: how many of the likeliest tokens each token comes with; None: it also comes
            without its own log-probability.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling
    answer: Answer
    top_logprobs: int | None = None

    @property
    def limit(self) -> int:
        """Return the tokens that prompt and answer may have."""
        return len(self.prompt) + self.max_new_tokens


class _Row:
    """A request that is being answered."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.ids = list(job.prompt)
        self.cache = RowCache(job.limit)
        self._chooser = TokenChooser(job.sampling, job.prompt)

    @property
    def unread(self) -> int:
        """Return the tokens that the model has not run on yet; 1 while decoding."""
        return len(self.ids) - self.cache.length

    @property
    def decoding(self) -> bool:
        return len(self.ids) > len(self.job.prompt)

    def next_ids(self, count: int) -> list[int]:
        return self.ids[self.cache.length : self.cache.length + count]

    def add(self, logits: Tensor) -> bool:
        """Choose the next token by the scores `[vocabulary]`; return whether the row continues."""
        prompt = len(self.job.prompt)
        token = self._chooser.choose(logits, self.ids[prompt:])
        self.ids.append(token)
        chosen = _with_logprobs(token, logits, self.job.top_logprobs)
        return self.job.answer.push(chosen) and len(self.ids) < self.job.limit


def _with_logprobs(token: int, logits: Tensor, top: int | None) -> Token:
    if top is None:
        return Token(token)
    logprobs = logits.float().log_softmax(-1)
    values, ids = logprobs.topk(min(top, len(logprobs)))
    likeliest = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return Token(token, float(logprobs[token]), likeliest)


class Batch:
    """The rows that the model works on, and the conversations it remembers.

    All conversations start with the persona, and a later turn starts with all earlier ones, so
    keys and values are kept and only the new tokens of a prompt are computed.

    Args:
        engine: the model.
        max_rows: requests that are answered at the same time.
        max_tokens: tokens whose keys and values are held at the same time, those that running
            requests may still need included; at least one whole context.
    """

    def __init__(self, engine: Engine, *, max_rows: int, max_tokens: int) -> None:
        self._engine = engine
        self._max_rows = max_rows
        self._max_tokens = max(max_tokens, engine.max_context_tokens)
        self._chunk = CHUNK_TOKENS.get(engine.model.device.type, max(CHUNK_TOKENS.values()))
        self._rows: list[_Row] = []
        self._kept: list[_Row] = []
        self._steps = 0

    def __len__(self) -> int:
        """Return the number of requests that are being answered."""
        return len(self._rows)

    def fits(self, job: Job) -> bool:
        """Return whether there is room for the request now; an empty batch has room for any."""
        reserved = sum(row.job.limit for row in self._rows)
        return len(self._rows) < self._max_rows and reserved + job.limit <= self._max_tokens

    def join(self, job: Job) -> None:
        """Add a request that fits."""
        self._rows.append(_Row(job))

    def clear(self, error: ApiError) -> None:
        """End all requests with an error and forget all conversations."""
        rows, self._rows, self._kept = self._rows, [], []
        for row in rows:
            row.job.answer.fail(error)

    def make_room(self, error: ApiError) -> None:
        """Free memory: forget all conversations, or else end the newest request with an error."""
        if self._kept:
            self._kept = []
        elif self._rows:
            self._rows.pop().job.answer.fail(error)

    def step(self) -> None:
        """Run the model once for all requests; requests that are complete or cancelled leave.

        After an exception, the step can be repeated.
        """
        for row in [row for row in self._rows if row.job.answer.cancelled]:
            self._leave(row)
        parts = [(row, 1) for row in self._rows if row.decoding]
        parts += self._prompt_chunks()
        if not parts:
            return
        before = [(row, len(row.ids), row.cache.length) for row, _ in parts]
        ended: list[_Row] = []
        try:
            with torch.inference_mode():
                self._run(parts, ended)
        except Exception:
            for row, tokens, length in before:
                if len(row.ids) == tokens:  # without a new token, the model runs on it again
                    row.cache.length = length
            raise
        finally:
            for row in ended:
                self._leave(row)
                row.job.answer.finish()

    def _run(self, parts: list[tuple[_Row, int]], ended: list[_Row]) -> None:
        """Run the model on some tokens of rows, and add the rows that are complete to `ended`."""
        hidden_states = run_rows(
            self._engine.model, [(row.cache, row.next_ids(count)) for row, count in parts]
        )
        ready = [index for index, (row, _) in enumerate(parts) if not row.unread]
        if not ready:
            return
        logits = head(self._engine.model)(hidden_states[ready])
        for index, scores in zip(ready, logits, strict=True):
            row = parts[index][0]
            if not row.add(scores):
                ended.append(row)

    def _prompt_chunks(self) -> list[tuple[_Row, int]]:
        """Return the rows whose prompts this step reads, and how many tokens of each.

        The oldest prompt and the one that is nearly done take turns, so that neither long nor
        short ones wait for all the others.
        """
        self._steps += 1
        reading = [row for row in self._rows if not row.decoding]
        for row in reading:
            if not row.cache.length:
                self._reuse(row)
        if self._steps % 2:
            reading.sort(key=lambda row: row.unread)
        chunks, room = [], self._chunk
        for row in reading:
            if room:
                chunks.append((row, min(room, row.unread)))
                room -= chunks[-1][1]
        return chunks

    def _reuse(self, row: _Row) -> None:
        """Start a prompt with the keys and values of a conversation that has the same start."""
        conversations = [*self._kept, *self._rows]
        shared, source = max(
            ((_shared(other.ids[: other.cache.length], row.ids), other) for other in conversations),
            key=lambda found: found[0],
        )
        if shared < MIN_SHARED_TOKENS:
            return
        if source not in self._kept:
            row.cache = source.cache.copy(shared, row.job.limit)
            return
        self._kept.remove(source)
        if shared == source.cache.length:
            row.cache = source.cache
            row.cache.limit = row.job.limit
        else:
            row.cache = source.cache.copy(shared, row.job.limit)
            self._kept.append(source)
        self._forget()

    def _leave(self, row: _Row) -> None:
        """Remove a row and remember its conversation."""
        self._rows.remove(row)
        self._kept.append(row)
        self._forget()

    def _forget(self) -> None:
        """Forget the conversations that were not continued for longest, to stay in the limits."""
        reserved = sum(row.job.limit for row in self._rows)
        while self._kept and (
            len(self._kept) > self._max_rows
            or reserved + sum(row.cache.capacity for row in self._kept) > self._max_tokens
        ):
            self._kept.pop(0)


def warm_up(engine: Engine) -> None:
    """Generate one token, so that the first request is not slower than later ones."""
    prompt = engine.render([{"role": "user", "content": "Hello"}])
    with torch.inference_mode():
        head(engine.model)(run_rows(engine.model, [(RowCache(len(prompt)), prompt)]))


def _shared(known: Sequence[int], prompt: Sequence[int]) -> int:
    """Return the length of the common prefix, without the prompt's last token."""
    count = 0
    for left, right in zip(known, prompt[:-1], strict=False):
        if left != right:
            break
        count += 1
    return count
