"""`persona serve`: the checkpoint of the pipeline, served to this machine."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from ..errors import InputError
from ..sources import base_model
from ..sources.access import source_access
from .chat import sliced_checkpoint
from .run import Pipeline, open_pipeline

LOOPBACK = "127.0.0.1"


def serve_persona(file: Path, store_url: str | None, *, port: int, compare: bool) -> None:
    """Serve the persona's checkpoint on loopback until Ctrl-C, and print the address once ready.

    The dense model, too, speaks as the persona: it has the checkpoint's chat template.

    Args:
        file: file with the PersonaModel, or a checkpoint directory.
        store_url: the artifact store, or None for the default.
        port: where to listen; 0 for any free port.
        compare: whether the dense model is served too.

    Raises:
        PersonaError: there is no checkpoint yet, it can't be loaded, or the port is in use.
    """
    dense = None
    if not file.is_dir():
        pipeline = open_pipeline(file, store_url)
        name, directory = pipeline.resource.metadata.name, sliced_checkpoint(file, pipeline)
        dense = _dense_model(pipeline) if compare else None
    elif compare:
        raise InputError(
            f"{file} does not say which dense model it was made from",
            hint="Give the file with the PersonaModel, or run `python -m persona_jobs.serve` with "
            "--model and --dense-model",
        )
    else:
        name, directory = file.resolve().name, file
    for package in ("fastapi", "prometheus_client", "uvicorn"):
        if find_spec(package) is None:
            raise InputError(
                f"The server needs the Python package {package}, which is not installed",
                hint="Install it with `pip install 'persona-pruner[serve]'`",
            )
    from ..serve.__main__ import parser, run

    arguments = ["--model", str(directory), "--served-model-name", name, "--host", LOOPBACK]
    arguments += ["--port", str(port), "--shutdown-timeout", "2"]
    arguments += ["--dense-model", str(dense)] if dense else []
    options = parser().parse_args(arguments)
    run(options, on_ready=lambda found: _print_address(name, found))


def _dense_model(pipeline: Pipeline) -> Path:
    """Return the local directory of the base model, fetched or converted on first use."""
    source = pipeline.resource.spec.base_model
    return base_model.resolve(
        source.uri,
        source.revision if source.uri.startswith("hf://") else None,
        cache_dir=pipeline.cache,
        access=source_access("baseModel", source.endpoint, os.environ),
    )


def _print_address(name: str, port: int) -> None:
    address = f"http://{LOOPBACK}:{port}"
    sys.stdout.write(
        f"Chat with {name} at {address}/ (Ctrl-C ends the server). "
        f"The OpenAI API is at {address}/v1\n"
    )
    sys.stdout.flush()
