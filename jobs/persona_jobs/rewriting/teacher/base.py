"""What a teacher is asked and what it answers."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ...dataset import Message

ShouldStop = Callable[[], bool]
OnAnswer = Callable[[], None]

Ending = Literal["complete", "truncated", "refused", "tooLong", "failed"]


@dataclass(frozen=True)
class TeacherRequest:
    """One answer that is wanted.

    Attributes:
        messages: the chat messages; the last one is the user's.
        seed: seed of the sampling, below 2**31. Equal requests with equal seeds get equal answers
            from a teacher that is deterministic.
    """

    messages: tuple[Message, ...]
    seed: int

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the whole request; names it in checkpoints."""
        document = [self.seed, *([message.role, message.content] for message in self.messages)]
        return hashlib.sha256(json.dumps(document).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class TeacherAnswer:
    """What the teacher made of one request.

    Attributes:
        text: the answer as it came; empty unless it is complete or truncated.
        ending: `complete` with an end of turn; `truncated` at the token limit; `refused` by the
            endpoint's own content filter; `tooLong` when the request doesn't fit the teacher's
            context; `failed` after all retries.
        detail: why it failed, one clause; otherwise empty.
    """

    text: str
    ending: Ending
    detail: str = ""


class Teacher(Protocol):
    """Answers requests."""

    def answer(
        self,
        requests: Sequence[TeacherRequest],
        *,
        answered: Collection[int],
        should_stop: ShouldStop,
        on_answer: OnAnswer,
    ) -> Iterator[dict[int, TeacherAnswer]]:
        """Answer all requests but those whose index is in `answered`, in any order.

        Ends early, without an error, soon after `should_stop` returns True. Closing the iterator
        abandons what is under way.

        Args:
            requests: all requests of the stage, those already answered included, so that batches
                are the same in a run that goes on from a checkpoint.
            answered: indices that need no answer any more.
            should_stop: asked between two steps.
            on_answer: called as soon as an answer is there, which may be well before it is
                yielded.

        Returns:
            iterator of answers by index of the request; what was yielded is worth keeping.

        Raises:
            TeacherError: the teacher keeps failing in a way that may pass.
            InputError: the teacher can't be used as it is configured.
        """
