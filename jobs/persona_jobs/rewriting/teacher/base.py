"""What a teacher does."""

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from ...endpoints.base import ChatAnswer, ChatRequest, OnAnswer, ShouldStop


class Teacher(Protocol):
    """Answers requests."""

    def answer(
        self,
        requests: Sequence[ChatRequest],
        *,
        answered: Collection[int],
        should_stop: ShouldStop,
        on_answer: OnAnswer,
    ) -> Iterator[dict[int, ChatAnswer]]:
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
            EndpointError: the teacher keeps failing; a later attempt may succeed.
            InputError: the teacher can't be used as configured.
        """
