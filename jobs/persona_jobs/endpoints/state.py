"""An endpoint's health, as its answers and failures show it."""

import asyncio
from dataclasses import dataclass


@dataclass
class EndpointState:
    """The endpoint's health, used in one event loop.

    Attributes:
        answers: answers so far, including earlier runs.
        refusals: requests that the endpoint rejected as invalid.
        failures_in_a_row: requests that failed after all retries since the last answer.
        last_refusal: cause of the latest refusal.
        last_failure: cause of the latest failure.
        not_before: event loop time before which nothing is sent.
    """

    answers: int = 0
    refusals: int = 0
    failures_in_a_row: int = 0
    last_refusal: str = ""
    last_failure: str = ""
    not_before: float = 0.0

    def hold(self, seconds: float) -> None:
        """Send nothing for `seconds`."""
        self.not_before = max(self.not_before, asyncio.get_running_loop().time() + seconds)

    async def wait(self) -> None:
        """Wait until requests may be sent."""
        left = self.not_before - asyncio.get_running_loop().time()
        if left > 0:
            await asyncio.sleep(left)
            await self.wait()  # another request may have postponed it
