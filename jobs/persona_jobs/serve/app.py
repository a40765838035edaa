"""The routes of the server, and the model that is loaded for them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Depends, FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..errors import OutOfMemoryError, is_out_of_memory
from .access import ApiKeys, allow_origins
from .api_errors import ApiError
from .batch import warm_up
from .bodies import BodyReader
from .chat import ChatEndpoint
from .engine import Engine
from .metrics import Metrics
from .page import ChatPage
from .protocol import ChatCompletion, ChatRequest, ModelCard, ModelList
from .scheduler import Limits, Scheduler

LOADING_RETRY_SECONDS = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServiceOptions:
    """Settings of a server.

    Attributes:
        model: the name that requests use for the model.
        fingerprint: identifies the weights and the number format.
        dtype: number format of the weights, as torch names it.
        limits: how many requests are answered at the same time, and how many may wait.
        api_keys: the keys of which requests must send one; without any, no key is needed.
        origins: the origins whose web pages may use the API; `*` stands for all.
        default_max_tokens: token limit of an answer whose request sets none.
        max_body_bytes: size limit of a request body.
        max_total_body_bytes: limit of what is held of all large bodies together.
        body_seconds: time limit of a request body.
    """

    model: str
    fingerprint: str = "fp_unknown"
    dtype: str = "float32"
    limits: Limits = field(default_factory=Limits)
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    origins: tuple[str, ...] = ()
    default_max_tokens: int = 1024
    max_body_bytes: int = 4 * 2**20
    max_total_body_bytes: int = 32 * 2**20
    body_seconds: float = 30.0


class Service:
    """The served model and its state: loading, ready or stopping.

    Args:
        load: loads the model; called in the model's own thread.
        options: the settings of the server.
        on_failure: called if the model can't be loaded.
        on_ready: called when the server accepts requests.
    """

    def __init__(
        self,
        load: Callable[[], Engine],
        options: ServiceOptions,
        on_failure: Callable[[], None] = lambda: None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.options = options
        self.metrics = Metrics(options.model)
        self.failure: Exception | None = None
        self.stopping = False
        self.scheduler: Scheduler | None = None
        self._keys = ApiKeys(options.api_keys)
        self._created = int(time.time())
        self._load = load
        self._on_failure = on_failure
        self._on_ready = on_ready
        self._chat: ChatEndpoint | None = None
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def prepare(self) -> None:
        """Load the model and generate one token; the server accepts requests after that."""
        loop = asyncio.get_running_loop()
        try:
            engine = await loop.run_in_executor(self._model_thread, self._load)
            await loop.run_in_executor(self._model_thread, warm_up, engine)
        except Exception as error:  # any error ends the process
            self.failure = error
            if is_out_of_memory(error):
                smaller = ", or set --dtype to BFloat16" if self.options.dtype == "float32" else ""
                self.failure = OutOfMemoryError(
                    "The model does not fit into memory",
                    hint=f"Give the server more memory{smaller}",
                )
            self._on_failure()
            return
        options = self.options
        self.scheduler = Scheduler(engine, self.metrics, self._model_thread, options.limits)
        self._chat = ChatEndpoint(
            self.scheduler,
            self.metrics,
            model=options.model,
            fingerprint=options.fingerprint,
            default_max_tokens=options.default_max_tokens,
            bodies=BodyReader(
                max_bytes=options.max_body_bytes,
                max_total_bytes=options.max_total_body_bytes,
                seconds=options.body_seconds,
            ),
        )
        self.metrics.ready.set(1)
        logger.info(
            "The model %s is ready for requests of up to %d tokens",
            options.model,
            engine.max_context_tokens,
        )
        self._on_ready()

    def stop_soon(self) -> None:
        """Report that the server is not ready, and continue to answer requests."""
        self.stopping = True
        self.metrics.ready.set(0)

    def abort_requests(self) -> None:
        """End all waiting and running requests with an error."""
        if self.scheduler is not None:
            self.scheduler.close(
                ApiError(
                    503, "The server is stopping. Send the request again.", code="server_stopping",
                    retry_after=1,
                )
            )  # fmt: skip

    async def authorize(self, request: Request) -> None:
        """Refuse a request without one of the API keys."""
        try:
            self._keys.check(request)
        except ApiError as error:
            self.metrics.requests.labels(status=str(error.status)).inc()
            logger.info("status=%d code=%s", error.status, error.code)
            raise

    async def chat(self, request: Request) -> Response:
        """Answer `POST /v1/chat/completions`."""
        if self._chat is None:
            self.metrics.requests.labels(status="503").inc()
            error = ApiError(
                503, "The model is being loaded. Try again later.", code="model_not_ready",
                retry_after=LOADING_RETRY_SECONDS,
            )  # fmt: skip
            return error.response()
        return await self._chat(request)

    async def models(self) -> Response:
        """Answer `GET /v1/models`."""
        return JSONResponse(ModelList(data=[self._card()]).model_dump())

    async def model(self, name: str) -> Response:
        """Answer `GET /v1/models/NAME`."""
        if name != self.options.model:
            raise ApiError(
                404, f"The model {name[:200]!r} does not exist.", param="model",
                code="model_not_found",
            )  # fmt: skip
        return JSONResponse(self._card().model_dump())

    def _card(self) -> ModelCard:
        longest = self.scheduler.engine.max_context_tokens if self.scheduler else None
        return ModelCard(id=self.options.model, created=self._created, max_model_len=longest)

    async def healthz(self) -> Response:
        """Answer `GET /healthz`: 503 if only a restart helps."""
        if self.scheduler is not None and self.scheduler.broken:
            return JSONResponse({"status": "the device failed"}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def readyz(self) -> Response:
        """Answer `GET /readyz`: 503 before the model's first token and while stopping."""
        if self.stopping:
            return JSONResponse({"status": "stopping"}, status_code=503)
        if self._chat is None:
            return JSONResponse({"status": "loading the model"}, status_code=503)
        return JSONResponse({"status": "ready"})

    async def exposition(self) -> Response:
        """Answer `GET /metrics`."""
        return Response(self.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def create_app(service: Service) -> FastAPI:
    """Return the application, which loads the model when it starts."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        preparing = asyncio.create_task(service.prepare())
        yield
        preparing.cancel()
        service.abort_requests()

    # The documentation pages would load scripts from other hosts.
    app = FastAPI(title="Persona-Pruner serving", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_api_route("/", ChatPage().answer, response_model=None, include_in_schema=False)
    keyed = [Depends(service.authorize)]
    app.add_api_route(
        "/v1/chat/completions",
        service.chat,
        methods=["POST"],
        dependencies=keyed,
        responses={200: {"model": ChatCompletion}},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": ChatRequest.model_json_schema()}},
            }
        },
    )
    app.add_api_route(
        "/v1/models", service.models, dependencies=keyed, responses={200: {"model": ModelList}}
    )
    app.add_api_route(
        "/v1/models/{name:path}", service.model, dependencies=keyed, response_model=None
    )
    app.add_api_route("/healthz", service.healthz, response_model=None)
    app.add_api_route("/readyz", service.readyz, response_model=None)
    app.add_api_route("/metrics", service.exposition, response_model=None)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    allow_origins(app, service.options.origins)
    return app


async def _api_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer a request for an unknown route or method in the form of the API."""
    if not isinstance(error, HTTPException):
        raise error
    message = f"{request.method} {request.url.path[:200]} failed: {error.detail}."
    response = ApiError(error.status_code, message).response()
    response.headers.update(error.headers or {})
    return response
