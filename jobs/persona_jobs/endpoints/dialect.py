"""What one endpoint accepts, learned from requests that it answered."""

from collections import Counter
from dataclasses import fields, replace

from .chat_completions import Dialect

# So many different requests must have been answered without a setting that they were refused for.
_CONFIRMATIONS = 2


class EndpointDialect:
    """The dialect in which new requests are sent.

    A refusal alone teaches nothing, since it may be about one request's text. The same request is
    sent again without the setting; new requests leave it out when that succeeded for two of
    them and none was ever answered with it.
    """

    def __init__(self) -> None:
        self.current = Dialect()
        self._accepted: set[str] = set()
        self._confirmed: Counter[str] = Counter()

    def learn(self, sent_first: Dialect, answered: Dialect) -> None:
        """Learn from an answer.

        Args:
            sent_first: the dialect of the request's first attempt.
            answered: the dialect of the attempt that was answered.
        """
        usual = Dialect()
        for name in (field.name for field in fields(Dialect)):
            value = getattr(answered, name)
            if value == getattr(usual, name):
                self._accepted.add(name)
            elif value != getattr(sent_first, name):
                self._confirmed[name] += 1
            if self._confirmed[name] >= _CONFIRMATIONS and name not in self._accepted:
                self.current = replace(self.current, **{name: value})
