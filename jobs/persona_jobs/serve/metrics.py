"""The metrics that Prometheus reads at `/metrics`; `docs/serving.md` explains each."""

from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

_WAIT_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
_TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
_TOKENS = tuple(2.0**power for power in range(3, 18))


class Metrics:
    """The metrics of one server, in a registry of its own.

    Args:
        models: names of the served models, whose requests are counted together.
    """

    def __init__(self, models: Sequence[str]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        prefix = "persona_serving_"
        self.requests = Counter(
            prefix + "requests",
            "Chat requests by HTTP status, and refused keys; 499: the client disconnected.",
            ["status"],
            registry=self.registry,
        )
        for status in (200, 400, 401, 404, 408, 413, 429, 499, 500, 503):
            self.requests.labels(status=str(status))
        self.queue_depth = Gauge(
            prefix + "queue_depth", "Requests that wait for the model.", registry=self.registry
        )
        self.running = Gauge(
            prefix + "requests_running", "Requests being answered.", registry=self.registry
        )
        self.queue_wait = self._seconds("queue_wait", "From arrival to the model's start.")
        self.first_token = self._seconds(
            "time_to_first_token", "From arrival to the first token, including the wait."
        )
        self.output_token = Histogram(
            prefix + "time_per_output_token_seconds",
            "Mean time between two tokens of an answer of two or more tokens.",
            buckets=_TOKEN_SECONDS,
            registry=self.registry,
        )
        self.duration = self._seconds("request_duration", "From arrival to the end of the answer.")
        self.prompt_tokens = self._tokens(
            "prompt_tokens", "Tokens per prompt, including the persona."
        )
        self.completion_tokens = self._tokens("completion_tokens", "Tokens per answer.")
        self.ready = Gauge(
            prefix + "ready",
            "1 while the server accepts requests, otherwise 0.",
            registry=self.registry,
        )
        info = Gauge(
            prefix + "model_info", "Always 1; the served model's name.", ["model"],
            registry=self.registry,
        )  # fmt: skip
        for model in models:
            info.labels(model=model).set(1)

    def _seconds(self, name: str, text: str) -> Histogram:
        return Histogram(
            f"persona_serving_{name}_seconds", text, buckets=_WAIT_SECONDS, registry=self.registry
        )

    def _tokens(self, name: str, text: str) -> Histogram:
        return Histogram(f"persona_serving_{name}", text, buckets=_TOKENS, registry=self.registry)

    def exposition(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self.registry)
