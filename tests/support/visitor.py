"""Somebody who uses a persona while something else happens to it."""

import threading
from collections import Counter

import httpx

from support.personas import Persona


class Visitor:
    """Sends a request every half second and counts the answers: `200`, or what went wrong."""

    def __init__(self, persona: Persona) -> None:
        self._persona = persona
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.answers: Counter[str] = Counter()
        self._thread.start()

    def stop(self) -> Counter[str]:
        self._stopped.set()
        self._thread.join()
        return self.answers

    def _run(self) -> None:
        while not self._stopped.wait(0.5):
            try:
                answer = self._persona.ask("/v1/models")
                result = "200" if answer.is_success else f"{answer.status_code} {answer.text[:200]}"
            except httpx.HTTPError as error:
                result = repr(error)
            self.answers[result] += 1
