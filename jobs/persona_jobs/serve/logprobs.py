"""Log-probabilities of tokens in the form of the API."""

from collections.abc import Sequence

from .batch import Token
from .protocol import ChoiceLogprobs, TokenLogprob, TopLogprob
from .token_bytes import TokenBytes

MIN_LOGPROB = -9999.0
"""The API's value for tokens that are next to impossible; JSON has no infinity."""


def choice_logprobs(tokens: Sequence[Token], token_bytes: TokenBytes) -> ChoiceLogprobs:
    """Return tokens with their log-probabilities in the form of the API."""

    def entry(token: int, logprob: float) -> TopLogprob:
        data = token_bytes(token)
        return TopLogprob(
            token=data.decode(errors="replace"),
            logprob=max(logprob, MIN_LOGPROB),
            bytes=list(data),
        )

    content = [
        TokenLogprob(
            **entry(token.id, token.logprob).model_dump(),
            top_logprobs=[entry(other, logprob) for other, logprob in token.top],
        )
        for token in tokens
        if token.logprob is not None
    ]
    return ChoiceLogprobs(content=content)
