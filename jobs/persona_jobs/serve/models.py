"""The models that one server offers: each has its own engine, queue and thread."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from .api_errors import ApiError
from .engine import Engine
from .scheduler import Scheduler


@dataclass(frozen=True)
class ModelSource:
    """A model that is not loaded yet.

    Attributes:
        name: the name that requests use for it.
        load: loads it; called in the model's own thread.
        fingerprint: identifies the weights and the number format, as `system_fingerprint`.
        thread: the only thread that runs the model.
    """

    name: str
    load: Callable[[], Engine]
    fingerprint: str = "fp_unknown"
    thread: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="model")
    )


@dataclass(frozen=True)
class ServedModel:
    """A model that answers requests."""

    name: str
    fingerprint: str
    scheduler: Scheduler


def find(models: Mapping[str, ServedModel], name: str | None) -> ServedModel:
    """Return the model that a request names; without a name the first one, the persona's.

    Raises:
        ApiError: 404 if no model has this name.
    """
    if name is None:
        return next(iter(models.values()))
    if name not in models:
        raise not_found(name, models)
    return models[name]


def not_found(name: str, known: Mapping[str, object]) -> ApiError:
    """Return the 404 for a model that the server does not have."""
    names = " and ".join(repr(own) for own in known)
    return ApiError(
        404,
        f"The model {name[:200]!r} does not exist; this server has {names}.",
        param="model",
        code="model_not_found",
    )
