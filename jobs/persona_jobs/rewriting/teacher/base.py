"""Requests to a teacher and its answers."""

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
    """A request for one answer.

    Attributes:
        messages: the chat messages; the last one is the user's.
        seed: sampling seed below 2**31. A deterministic teacher gives equal requests with equal
            seeds equal answers.
    """

    messages: tuple[Message, ...]
    seed: int

    @property
    def digest(self) -> str:
        """Return the SHA-256 (hex) of the whole request, which identifies it in a saved state."""
        document = [self.seed, *([m["role"], m["content"]] for m in self.messages)]
        return hashlib.sha256(json.dumps(document).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class TeacherAnswer:
    """The teacher's answer to one request.

    Attributes:
        text: the unedited answer; empty unless it is complete or truncated.
        ending: `complete` with an end of turn; `truncated` at the token limit; `refused` by the
            endpoint's own content filter; `tooLong` when the request doesn't fit the teacher's
            context; `failed` after all retries.
        detail: why the request failed, otherwise empty.
        sent_without: what the endpoint refused and the answered request therefore lacked:
            `systemRole` (its text opened the user's message), `temperature` or `seed`.
    """

    text: str
    ending: Ending
    detail: str = ""
    sent_without: tuple[str, ...] = ()


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
        """Answer all requests except those whose index is in `answered`, in any order.

        Ends early, without an error, soon after `should_stop` returns True. Closing the iterator
        abandons the requests in flight.

        Args:
            requests: all requests of the stage, including those already answered, so that batches
                are the same in a resumed run.
            answered: indices of the requests that have an answer already.
            should_stop: called between two steps.
            on_answer: called as soon as an answer arrives, which may be well before it is yielded.

        Yields:
            answers by index of the request.

        Raises:
            TeacherError: the teacher keeps failing; a later attempt may succeed.
            InputError: the teacher can't be used as configured.
        """
