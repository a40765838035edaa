"""Judges of known behaviour, for the server in `support.endpoint`."""

import math
from collections.abc import Sequence
from typing import Any

from .endpoint import Behaviour, Body, Reply, completion, user_text

Place = dict[str, float]
"""The probability of each token in one place; the first one is written."""


def always(text: str) -> Behaviour:
    return lambda number, body: Reply(completion(text))


def every_second(first: Behaviour, second: Behaviour) -> Behaviour:
    return lambda number, body: (second if number % 2 else first)(number, body)


def by_text(scores: dict[str, str], otherwise: str) -> Behaviour:
    """A judge that answers by what stands in the answer that it is shown."""

    def behave(_: int, body: Body) -> Reply:
        shown = user_text(body)
        said = next((reply for text, reply in scores.items() if text in shown), otherwise)
        return Reply(completion(said))

    return behave


def hanging(_: int, body: Body) -> Reply:
    return Reply(hang=True)


def with_logprobs(places: Sequence[Place]) -> Reply:
    """A reply whose tokens have the given probabilities."""
    content: list[dict[str, Any]] = []
    for place in places:
        likeliest = [{"token": t, "logprob": math.log(p)} for t, p in place.items()]
        content.append({**likeliest[0], "top_logprobs": likeliest})
    body = completion("".join(token["token"] for token in content).removesuffix("<end>"))
    body["choices"][0]["logprobs"] = {"content": content}
    return Reply(body)
