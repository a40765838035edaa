"""Decisions as ordered lists of small policies: the first policy that applies decides."""

from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def first_match(
    policies: Iterable[Callable[Arguments, Answer | None]],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Answer | None:
    """Return the answer of the first policy that applies, None where none does.

    Args:
        policies: functions that return None where they don't apply.
        *args: passed to each policy.
        **kwargs: passed to each policy.
    """
    for policy in policies:
        answer = policy(*args, **kwargs)
        if answer is not None:
            return answer
    return None


def decide(
    policies: Iterable[Callable[Arguments, Answer | None]],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Answer:
    """Return the answer of the first policy that applies; the last one must always apply."""
    answer = first_match(policies, *args, **kwargs)
    if answer is None:
        raise LookupError("No policy applies")
    return answer
