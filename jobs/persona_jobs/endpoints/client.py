"""A client of an OpenAI-compatible endpoint, with many requests in flight."""

import asyncio
import os
import queue
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx

from ..api.endpoint import Endpoint
from ..errors import EndpointError, InputError
from ..store.certificates import certificate_hint
from . import chat_completions, error_bodies
from .backoff import Backoff, retry_after
from .base import ChatAnswer, ChatRequest, OnAnswer, ShouldStop
from .dialect import EndpointDialect
from .state import EndpointState

MAX_RESPONSE_BYTES = 4 * 2**20
NO_ANSWER = "no answer within"
_TRY_AGAIN = {408, 409, 425, 429}
_POLL_SECONDS = 0.1
_JOIN_SECONDS = 3.0
# After this many refusals without any answer, the request itself must be wrong.
_REFUSALS_TO_STOP = 3


@dataclass(frozen=True)
class ApiKey:
    """An endpoint's API key.

    Attributes:
        variable: environment variable that it comes from.
        value: the key, None for an endpoint without keys.
    """

    variable: str
    value: str | None


def api_key(environment: Mapping[str, str], variable: str, *, subject: str) -> ApiKey:
    """Return the API key in a variable of the environment.

    Args:
        environment: the environment variables.
        variable: name of the variable.
        subject: path of the endpoint in the spec.

    Raises:
        InputError: the key has characters that a header can't hold; the message doesn't show it.
    """
    key = environment.get(variable, "").strip()
    if any(not "!" <= char <= "~" for char in key):
        raise InputError(
            f"{variable} has spaces, line breaks or non-ASCII characters",
            hint="Store the bare key on one line",
            subject=f"{subject}.apiKeySecretRef",
        )
    return ApiKey(variable, key or None)


class ChatEndpoint:
    """Sends requests to one model of an endpoint.

    Args:
        settings: the endpoint and how it is called.
        subject: its path in the spec, for messages.
        key: sent as a bearer token if there is one.
        temperature: sampling temperature.
        max_tokens: longest answer in tokens.
        backoff: the delays between attempts.
        top_logprobs: how many of the likeliest tokens are asked for at each position; 0 asks for
            no log-probabilities.

    Raises:
        InputError: the base URL is malformed.
    """

    def __init__(
        self,
        settings: Endpoint,
        *,
        subject: str,
        key: ApiKey,
        temperature: float,
        max_tokens: int,
        backoff: Backoff,
        top_logprobs: int = 0,
    ) -> None:
        self._url, self._shown_url = _completions_url(settings.base_url, subject)
        self._subject = subject
        self._model = settings.model
        self._key = key
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._top_logprobs = top_logprobs
        self._max_concurrency = settings.max_concurrency
        self._timeout = settings.timeout_seconds
        self._max_retries = settings.max_retries
        self._backoff = backoff
        self._dialect = EndpointDialect()

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
            requests: the requests.
            answered: indices of the requests that have an answer already.
            should_stop: called ten times a second.
            on_answer: called when an answer arrives.

        Yields:
            one answer by the index of its request.

        Raises:
            EndpointError: the endpoint keeps failing; a later attempt may succeed.
            InputError: the endpoint can't be used as configured.
        """
        wanted = [index for index in range(len(requests)) if index not in answered]
        outbox: queue.Queue[tuple[int, ChatAnswer] | BaseException | None] = queue.Queue()
        abandoned = threading.Event()

        def work() -> None:
            try:
                state = EndpointState(answers=len(requests) - len(wanted))
                asyncio.run(self._ask_all(requests, wanted, state, outbox, abandoned))
            except BaseException as error:  # noqa: BLE001, RUF100 -- raised by the reader below
                outbox.put(error)
            else:
                outbox.put(None)

        # Answers pass through a queue, so that saving the resume state delays no request.
        thread = threading.Thread(target=work, name="endpoint", daemon=True)
        thread.start()
        try:
            while not should_stop():
                try:
                    item = outbox.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                on_answer()
                yield {item[0]: item[1]}
        finally:
            abandoned.set()
            thread.join(_JOIN_SECONDS)  # looking up a host's name can't be interrupted

    async def _ask_all(
        self,
        requests: Sequence[ChatRequest],
        wanted: list[int],
        state: EndpointState,
        outbox: "queue.Queue[tuple[int, ChatAnswer] | BaseException | None]",
        abandoned: threading.Event,
    ) -> None:
        waiting = iter(wanted)

        async def ask_next(client: httpx.AsyncClient) -> None:
            for index in waiting:
                outbox.put((index, await self._ask(client, requests[index], state)))
                self._give_up_if_hopeless(state)

        async with self._client() as client:
            workers = {
                asyncio.create_task(ask_next(client))
                for _ in range(min(self._max_concurrency, len(wanted)))
            }
            try:
                running = workers
                while running and not abandoned.is_set():
                    done, running = await asyncio.wait(
                        running, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_EXCEPTION
                    )
                    for task in done:
                        task.result()
            finally:
                for task in workers:
                    task.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    def _client(self) -> httpx.AsyncClient:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # so that the size limit applies to the transfer
            "User-Agent": "persona-pruner",
        }
        if self._key.value:
            headers["Authorization"] = f"Bearer {self._key.value}"
        return httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(self._timeout, connect=min(10.0, self._timeout)),
            limits=httpx.Limits(max_connections=self._max_concurrency),
            follow_redirects=False,  # the key goes to no other host
        )

    async def _ask(
        self, client: httpx.AsyncClient, request: ChatRequest, state: EndpointState
    ) -> ChatAnswer:
        """Return one answer, after as many attempts as it needs or is allowed."""
        attempt = 0
        first = dialect = self._dialect.current
        while True:
            await state.wait()
            outcome = await self._attempt(client, request, dialect)
            if isinstance(outcome, _Refusal):
                adapted = dialect.adapted(outcome.text)
                if adapted is not None:
                    dialect = adapted
                    continue
                state.refusals += 1
                state.last_refusal = outcome.detail
                return ChatAnswer("", "failed", outcome.detail)
            if isinstance(outcome, ChatAnswer):
                state.answers += 1
                state.failures_in_a_row = 0
                if outcome.ending in ("complete", "truncated"):
                    self._dialect.learn(first, dialect)
                missing = dialect.left_out
                if not self._top_logprobs:
                    missing = tuple(name for name in missing if name != "logprobs")
                return replace(outcome, sent_without=missing)
            if attempt >= self._max_retries or not outcome.temporary:
                state.failures_in_a_row += 1
                state.last_failure = outcome.detail
                return ChatAnswer("", "failed", outcome.detail)
            delay = self._backoff.delay(attempt, outcome.retry_after)
            if outcome.retry_after is not None:  # applies to all requests
                state.hold(delay)
            else:
                await asyncio.sleep(delay)
            attempt += 1

    async def _attempt(
        self,
        client: httpx.AsyncClient,
        request: ChatRequest,
        dialect: chat_completions.Dialect,
    ) -> "ChatAnswer | _Failure | _Refusal":
        body = chat_completions.payload(
            dialect,
            request.messages,
            model=self._model,
            seed=request.seed,
            temperature=self._temperature,
            max_tokens=self._max_tokens,
            top_logprobs=self._top_logprobs,
        )
        try:
            async with (
                asyncio.timeout(self._timeout),
                client.stream("POST", self._url, content=body) as response,
            ):
                content = await _read(response)
        except (TimeoutError, httpx.TimeoutException):
            return _Failure(f"{NO_ANSWER} {self._timeout:g} s")
        except httpx.TransportError as error:
            self._check_certificate(error)
            return _Failure(f"connection failed: {self._clean(str(error)) or type(error).__name__}")
        except httpx.DecodingError:
            return _Failure("the response can't be decompressed")
        if content is None:
            limit = MAX_RESPONSE_BYTES // 2**20
            return _Failure(f"the response is larger than {limit} MiB", temporary=False)
        return self._interpret(response, content)

    def _interpret(
        self, response: httpx.Response, content: bytes
    ) -> "ChatAnswer | _Failure | _Refusal":
        status = response.status_code
        error = error_bodies.read_error(content)
        reason = self._clean(error.message) if error else ""
        detail = f"HTTP {status}" + (f": {reason}" if reason else "")
        if response.is_success:
            answer = chat_completions.read_completion(content)
            return answer or _Failure(reason or "the response is not a chat completion")
        if status in _TRY_AGAIN or status >= 500:
            return _Failure(detail, retry_after=retry_after(response.headers, datetime.now(UTC)))
        if status in (401, 403):
            raise self._key_refused(detail)
        if status == 404:
            raise InputError(
                f"{self._shown_url} or its model {self._model!r} was not found ({detail})",
                hint="Check baseURL (up to and including /v1) and the model's name",
                subject=self._subject,
            )
        if response.is_redirect:
            raise InputError(
                f"{self._shown_url} redirects to another address ({detail})",
                hint="Set baseURL to the address that it redirects to",
                subject=f"{self._subject}.baseURL",
            )
        if error and error.wrong_key:
            raise self._key_refused(detail)
        if error and error.content_filter:
            return ChatAnswer("", "refused")
        if error and error.context_length:
            return ChatAnswer("", "tooLong")
        return _Refusal(detail, error.text if error else "")

    def _key_refused(self, detail: str) -> InputError:
        if self._key.value is None:
            what, hint = "The endpoint requires an API key, but no API key was sent", "Set"
        else:
            what, hint = f"The API key in {self._key.variable} was refused", "Correct"
        return InputError(
            f"{what} ({detail})",
            hint=f"{hint} {self._key.variable}; in a cluster, use {self._subject}.apiKeySecretRef",
            subject=self._subject,
        )

    def _check_certificate(self, error: httpx.TransportError) -> None:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise InputError(
                f"The certificate of {self._shown_url} is not trusted",
                hint=certificate_hint(
                    str(error),
                    variable="SSL_CERT_FILE",
                    bundle=os.environ.get("SSL_CERT_FILE"),
                    address="baseURL",
                ),
                subject=f"{self._subject}.baseURL",
            ) from None

    def _give_up_if_hopeless(self, state: EndpointState) -> None:
        if state.refusals >= _REFUSALS_TO_STOP and not state.answers:
            raise InputError(
                f"{self._shown_url} refuses the requests ({state.last_refusal})",
                hint="Check that it supports the model and answers of so many tokens",
                subject=self._subject,
            )
        if state.failures_in_a_row >= max(3, self._max_concurrency):
            raise EndpointError(
                f"{self._shown_url} keeps failing: {state.failures_in_a_row} requests in a row, "
                f"each after {self._max_retries} retries ({state.last_failure})",
                hint="Check that the endpoint works and start again: finished answers are kept",
                subject=self._subject,
            )

    def _clean(self, text: str) -> str:
        """Return `text` without the key, which some endpoints repeat in error messages."""
        return text.replace(self._key.value, "[key]") if self._key.value else text


@dataclass(frozen=True)
class _Failure:
    """An attempt without an answer.

    Attributes:
        detail: the cause.
        temporary: whether another attempt may succeed.
        retry_after: seconds that the endpoint asks to wait.
    """

    detail: str
    temporary: bool = True
    retry_after: float | None = None


@dataclass(frozen=True)
class _Refusal:
    """The endpoint rejects the request as invalid (HTTP 4xx).

    Attributes:
        detail: the cause.
        text: the error's whole text, in lower case.
    """

    detail: str
    text: str


async def _read(response: httpx.Response) -> bytes | None:
    """Return the whole body, or None as soon as it is too large."""
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_RESPONSE_BYTES:
            return None
    return bytes(content)


def _completions_url(base_url: str, subject: str) -> tuple[httpx.URL, str]:
    """Return the URL to post to, and the one to show, without a password."""
    try:
        host = urlsplit(base_url).hostname  # checks the brackets of IPv6 addresses; httpx doesn't
        url = httpx.URL(base_url)
    except (ValueError, httpx.InvalidURL):
        host = None
    if not host:
        raise InputError(
            "baseURL is not a valid URL",
            hint="Write it like https://api.example.com/v1",
            subject=f"{subject}.baseURL",
        )
    url = url.copy_with(path=url.path.rstrip("/") + "/chat/completions")
    shown = url.copy_with(username=None, password=None, query=None, fragment=None)
    return url, str(shown)
