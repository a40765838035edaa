"""A language model that judges the answers of an evaluation."""

from typing import Annotated

from pydantic import Field

from .common import LabelName, SpecModel
from .endpoint import Endpoint


class Judge(SpecModel):
    """A language model that scores the answers of the dense and of the served model, 0 to 100.

    It is asked with the `eval_prompt` of the question file that a question is from, or with a
    built-in prompt. It also scores answers that are known to be worse, and is trusted only if it
    tells them apart.
    """

    name: LabelName
    """Name of the judge, unique among the judges."""
    open_ai: Annotated[Endpoint, Field(alias="openAI")]
    """The judge's OpenAI-compatible endpoint. Its scores are weighted by the probabilities of the
    score tokens where the endpoint returns log-probabilities."""
    max_tokens: Annotated[int, Field(ge=4, le=8192)] = 16
    """Longest verdict in tokens. A model that reasons before it answers needs more."""
    max_questions: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Judge the answers to at most this many questions, which bounds the cost: five requests for
    each. Default: the answers to all questions."""
