"""`POST /v1/chat/completions`, streamed and in one piece."""

import asyncio
import functools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from . import prompt as prompts
from . import sampling
from .answer import Event, Finished, Piece
from .api_errors import CLIENT_CLOSED_REQUEST, ApiError, from_validation
from .batch import Token
from .bodies import BodyReader
from .logprobs import choice_logprobs
from .metrics import Metrics
from .models import ServedModel, find
from .protocol import (
    DONE_EVENT,
    AnswerMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
    FinishReason,
    Usage,
    sse,
)
from .scheduler import Ticket
from .token_bytes import TokenBytes

T = TypeVar("T")

LONG_CONVERSATION = 32_768
"""Characters from which on a conversation is tokenized apart from shorter ones."""

logger = logging.getLogger(__name__)


class _DisconnectedError(Exception):
    """The client disconnected and does not read the answer."""


@dataclass
class _Exchange:
    """One request and its answer."""

    id: str
    created: int
    model: str
    fingerprint: str
    ticket: Ticket
    prompt_tokens: int = 0
    completion_tokens: int = 0
    include_usage: bool = False
    token_bytes: TokenBytes | None = None

    def logprobs(self, tokens: Sequence[Token]) -> ChoiceLogprobs | None:
        """Return the tokens' log-probabilities; None if the request asks for none."""
        return None if self.token_bytes is None else choice_logprobs(tokens, self.token_bytes)

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=self.prompt_tokens + self.completion_tokens,
        )

    def chunk(
        self,
        delta: Delta | None,
        finish_reason: FinishReason | None = None,
        tokens: Sequence[Token] = (),
    ) -> ChatCompletionChunk:
        choices = []
        if delta is not None:
            logprobs = self.logprobs(tokens) if tokens else None
            choices = [ChunkChoice(delta=delta, logprobs=logprobs, finish_reason=finish_reason)]
        return ChatCompletionChunk(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=choices,
            system_fingerprint=self.fingerprint,
        )


class ChatEndpoint:
    """The endpoint that answers chat requests.

    Args:
        models: the models by name; requests that name none are answered by the first one.
        metrics: the metrics to update.
        default_max_tokens: token limit of an answer whose request sets none.
        bodies: reads the request bodies.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        metrics: Metrics,
        *,
        default_max_tokens: int,
        bodies: BodyReader,
    ) -> None:
        self._models = models
        self._metrics = metrics
        self._default_max_tokens = default_max_tokens
        self._bodies = bodies
        # Tokenizing a long conversation takes a while, which short ones do not wait for.
        self._short_thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._long_thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer-long")

    async def __call__(self, request: Request) -> Response:
        """Answer one request, count it, and log it without its text."""
        try:
            return await self._answer(request)
        except ApiError as error:
            failure = error
        except (_DisconnectedError, ClientDisconnect):
            failure = ApiError(
                CLIENT_CLOSED_REQUEST, "The client disconnected.", code="client_gone"
            )
        except Exception:
            logger.exception("A chat request failed")
            failure = ApiError(500, "The request failed; the server's log has the cause.")
        self._metrics.requests.labels(status=str(failure.status)).inc()
        logger.info("status=%d code=%s", failure.status, failure.code)
        return failure.response()

    async def _answer(self, request: Request) -> Response:
        async with self._bodies.read(request) as body:
            try:
                chat = ChatRequest.model_validate_json(body)
            except ValidationError as error:
                raise from_validation(error) from None
        model = find(self._models, chat.model)
        ticket = model.scheduler.admit()
        try:
            exchange = await self._start(chat, ticket, model)
            if not chat.stream:
                return await self._complete(request, exchange)
            # An error before the first token still has its own HTTP status.
            first = await _unless_disconnected(_first(ticket), request.receive)
        except BaseException:
            ticket.close()
            raise
        return _EventStream(self._stream(exchange, first), self, exchange)

    async def _start(self, chat: ChatRequest, ticket: Ticket, model: ServedModel) -> _Exchange:
        engine = model.scheduler.engine
        build = functools.partial(
            prompts.build,
            chat.messages,
            engine.render,
            token_limit=chat.token_limit,
            default_limit=self._default_max_tokens,
            max_context_tokens=engine.max_context_tokens,
        )
        is_long = prompts.characters(chat.messages) > LONG_CONVERSATION
        thread = self._long_thread if is_long else self._short_thread
        prompt = await asyncio.get_running_loop().run_in_executor(thread, build)
        self._metrics.prompt_tokens.observe(len(prompt.ids))
        ticket.start(
            prompt,
            sampling.of_request(chat, engine.defaults),
            stops=chat.stop_strings,
            top_logprobs=chat.likeliest_tokens,
        )
        return _Exchange(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            created=int(time.time()),
            model=model.name,
            fingerprint=model.fingerprint,
            ticket=ticket,
            prompt_tokens=len(prompt.ids),
            include_usage=bool(chat.stream_options and chat.stream_options.include_usage),
            token_bytes=engine.token_bytes if chat.logprobs else None,
        )

    async def _complete(self, request: Request, exchange: _Exchange) -> Response:
        pieces, end = await _unless_disconnected(_collect(exchange.ticket), request.receive)
        exchange.ticket.close()
        exchange.completion_tokens = end.completion_tokens
        self.finished(exchange, 200)
        choice = Choice(
            message=AnswerMessage(content="".join(piece.text for piece in pieces)),
            logprobs=exchange.logprobs([token for piece in pieces for token in piece.tokens]),
            finish_reason=end.reason,
        )
        answer = ChatCompletion(
            id=exchange.id,
            created=exchange.created,
            model=exchange.model,
            choices=[choice],
            usage=exchange.usage,
            system_fingerprint=exchange.fingerprint,
        )
        return JSONResponse(answer.model_dump())

    async def _stream(self, exchange: _Exchange, first: Event) -> AsyncIterator[bytes]:
        yield exchange.chunk(Delta(role="assistant", content="")).event()
        event = first
        while isinstance(event, Piece):
            yield exchange.chunk(Delta(content=event.text), tokens=event.tokens).event()
            event = await exchange.ticket.events.get()
        if isinstance(event, ApiError):
            yield sse(event.body())
            raise event
        exchange.completion_tokens = event.completion_tokens
        yield exchange.chunk(Delta(), event.reason).event()
        if exchange.include_usage:
            last = exchange.chunk(None)
            last.usage = exchange.usage
            yield last.event()
        yield DONE_EVENT

    def finished(self, exchange: _Exchange, status: int) -> None:
        """Count and log the end of a request that was admitted to the queue."""
        seconds = time.monotonic() - exchange.ticket.arrived
        self._metrics.requests.labels(status=str(status)).inc()
        if status == 200:
            self._metrics.duration.observe(seconds)
        logger.info(
            "id=%s status=%d prompt_tokens=%d completion_tokens=%d seconds=%.3f",
            exchange.id,
            status,
            exchange.prompt_tokens,
            exchange.completion_tokens,
            seconds,
        )


class _EventStream(Response):
    """Server-sent events; the request leaves the queue however the response ends."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[bytes], endpoint: ChatEndpoint, exchange: _Exchange
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._endpoint = endpoint
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the last one or until the client disconnects."""
        del scope
        status = CLIENT_CLOSED_REQUEST
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_disconnect(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                status = sending.result()
        finally:
            self._exchange.ticket.close()
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            self._endpoint.finished(self._exchange, status)

    async def _send(self, send: Send) -> int:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        status = 200
        try:
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ApiError as error:  # it has been sent as an event
            status = error.status
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:
            status = CLIENT_CLOSED_REQUEST
        return status


async def _first(ticket: Ticket) -> Piece | Finished:
    """Return the first event."""
    event = await ticket.events.get()
    if isinstance(event, ApiError):
        raise event
    return event


async def _collect(ticket: Ticket) -> tuple[list[Piece], Finished]:
    """Return the whole answer and how it ended."""
    pieces: list[Piece] = []
    while isinstance(event := await ticket.events.get(), Piece):
        pieces.append(event)
    if isinstance(event, ApiError):
        raise event
    return pieces, event


async def _unless_disconnected(work: Coroutine[None, None, T], receive: Receive) -> T:
    """Return what `work` returns.

    Raises:
        _DisconnectedError: the client disconnected first.
    """
    task = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise _DisconnectedError
    finally:
        for unfinished in (task, leaving):
            unfinished.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    """Return when the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
