"""The routes of the server, and the models that are loaded for them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
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
from .metrics import Metrics
from .models import ModelSource, ServedModel, not_found
from .page import ChatPage
from .protocol import ChatCompletion, ChatRequest, ModelCard, ModelList
from .scheduler import Limits, Scheduler

LOADING_RETRY_SECONDS = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServiceOptions:
    """Settings of a server.

    Attributes:
        dtype: number format of the weights, as torch names it.
        limits: how many requests are answered at the same time, and how many may wait.
        api_keys: the keys of which requests must send one; without any, no key is needed.
        origins: the origins whose web pages may use the API; `*` stands for all.
        default_max_tokens: token limit of an answer whose request sets none.
        max_body_bytes: size limit of a request body.
        max_total_body_bytes: limit of what is held of all large bodies together.
        body_seconds: time limit of a request body.
    """

    dtype: str = "float32"
    limits: Limits = field(default_factory=Limits)
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    origins: tuple[str, ...] = ()
    default_max_tokens: int = 1024
    max_body_bytes: int = 4 * 2**20
    max_total_body_bytes: int = 32 * 2**20
    body_seconds: float = 30.0


class Service:
    """The served models and their state: loading, ready or stopping.

    Args:
        models: the models; requests that name none are answered by the first one.
        options: the settings of the server.
        on_failure: called if a model can't be loaded.
        on_ready: called when the server accepts requests.
    """

    def __init__(
        self,
        models: Sequence[ModelSource],
        options: ServiceOptions,
        on_failure: Callable[[], None] = lambda: None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.options = options
        self.metrics = Metrics([model.name for model in models])
        self.failure: Exception | None = None
        self.stopping = False
        self.served: dict[str, ServedModel] = {}
        self._sources = {model.name: model for model in models}
        self._keys = ApiKeys(options.api_keys)
        self._created = int(time.time())
        self._on_failure = on_failure
        self._on_ready = on_ready
        self._chat: ChatEndpoint | None = None

    async def prepare(self) -> None:
        """Load the models and generate a token each; the server accepts requests after that."""
        try:
            models = {name: await self._prepared(source) for name, source in self._sources.items()}
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
        self.served = models
        self._chat = ChatEndpoint(
            models,
            self.metrics,
            default_max_tokens=options.default_max_tokens,
            bodies=BodyReader(
                max_bytes=options.max_body_bytes,
                max_total_bytes=options.max_total_body_bytes,
                seconds=options.body_seconds,
            ),
        )
        self.metrics.ready.set(1)
        for name, model in models.items():
            longest = model.scheduler.engine.max_context_tokens
            logger.info("The model %s is ready for requests of up to %d tokens", name, longest)
        self._on_ready()

    async def _prepared(self, source: ModelSource) -> ServedModel:
        loop = asyncio.get_running_loop()
        engine = await loop.run_in_executor(source.thread, source.load)
        await loop.run_in_executor(source.thread, warm_up, engine)
        scheduler = Scheduler(engine, self.metrics, source.thread, self.options.limits)
        return ServedModel(source.name, source.fingerprint, scheduler)

    @property
    def active(self) -> int:
        """Return the number of waiting and running requests."""
        return sum(model.scheduler.active for model in self.served.values())

    def stop_soon(self) -> None:
        """Report that the server is not ready, and continue to answer requests."""
        self.stopping = True
        self.metrics.ready.set(0)

    def abort_requests(self) -> None:
        """End all waiting and running requests with an error."""
        error = ApiError(
            503, "The server is stopping. Send the request again.", code="server_stopping",
            retry_after=1,
        )  # fmt: skip
        for model in self.served.values():
            model.scheduler.close(error)

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
        return JSONResponse(
            ModelList(data=[self._card(name) for name in self._sources]).model_dump()
        )

    async def model(self, name: str) -> Response:
        """Answer `GET /v1/models/NAME`."""
        if name not in self._sources:
            raise not_found(name, self._sources)
        return JSONResponse(self._card(name).model_dump())

    def _card(self, name: str) -> ModelCard:
        served = self.served.get(name)
        longest = served.scheduler.engine.max_context_tokens if served else None
        return ModelCard(id=name, created=self._created, max_model_len=longest)

    async def healthz(self) -> Response:
        """Answer `GET /healthz`: 503 if only a restart helps."""
        if any(model.scheduler.broken for model in self.served.values()):
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
    """Return the application, which loads the models when it starts."""

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
