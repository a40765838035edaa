"""The base model as its own teacher, in this process."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ...endpoints.base import ChatAnswer, ChatRequest, OnAnswer, ShouldStop
from ...models import chat
from ...models.generation import Generated, generate

# Requests decoded together; a stopped run loses at most the work on one group.
GROUP_SIZE = 32


class BaseModelTeacher:
    """Answers groups of requests of similar length.

    The groups are formed from all requests, answered or not, and each group is decoded as a whole:
    matrix products round differently in other batches, and a resumed run must produce exactly the
    same answers. Each request has its own random number generator.

    Args:
        model: a causal language model of a supported family.
        tokenizer: its tokenizer, with a chat template.
        temperature: sampling temperature; 0 decodes greedily.
        max_tokens: longest answer in tokens, including its end of turn.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        temperature: float,
        max_tokens: int,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._temperature = temperature
        self._max_tokens = max_tokens

    def answer(
        self,
        requests: Sequence[ChatRequest],
        *,
        answered: Collection[int],
        should_stop: ShouldStop,
        on_answer: OnAnswer,
    ) -> Iterator[dict[int, ChatAnswer]]:
        """Answer requests as `Teacher.answer` does, one group at a time."""
        rendered = [self._render(request) for request in requests]
        limit = getattr(self._model.config, "max_position_embeddings", None)
        too_long = {
            index
            for index, ids in enumerate(rendered)
            if limit is not None and len(ids) + self._max_tokens > limit
        }
        if refused := sorted(too_long - set(answered)):
            for _ in refused:
                on_answer()
            yield {index: ChatAnswer("", "tooLong") for index in refused}
        ordered = sorted(
            (index for index in range(len(requests)) if index not in too_long),
            key=lambda index: -len(rendered[index]),
        )
        for start in range(0, len(ordered), GROUP_SIZE):
            group = ordered[start : start + GROUP_SIZE]
            wanted = [index for index in group if index not in answered]
            if not wanted:
                continue
            try:
                answers = self._generate(
                    [rendered[index] for index in group],
                    [requests[index].seed for index in group],
                    reported=[index in wanted for index in group],
                    should_stop=should_stop,
                    on_answer=on_answer,
                )
            except _StoppedError:
                return
            written = dict(zip(group, answers, strict=True))
            yield {index: written[index] for index in wanted}

    def _render(self, request: ChatRequest) -> list[int]:
        return chat.render(self._tokenizer, request.messages)

    def _generate(
        self,
        prompts: list[list[int]],
        seeds: list[int],
        *,
        reported: list[bool],
        should_stop: ShouldStop,
        on_answer: OnAnswer,
    ) -> list[ChatAnswer]:
        def check(row: int, _: Generated) -> None:
            if reported[row]:
                on_answer()
            if should_stop():
                raise _StoppedError

        if should_stop():
            raise _StoppedError
        generated = generate(
            self._model,
            self._tokenizer,
            prompts,
            max_new_tokens=self._max_tokens,
            temperature=self._temperature,
            batch_size=GROUP_SIZE,
            row_ids=seeds,
            on_answer=check,
        )
        return [ChatAnswer(g.text, "complete" if g.finished else "truncated") for g in generated]


class _StoppedError(Exception):
    """Ends a running generation."""
