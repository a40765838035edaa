"""`persona serve`: the checkpoint of the pipeline, served to this machine."""

import sys
from importlib.util import find_spec
from pathlib import Path

from ..api import load_resource
from ..errors import InputError
from .chat import checkpoint_of

LOOPBACK = "127.0.0.1"


def serve_persona(file: Path, store_url: str | None, *, port: int) -> None:
    """Serve the persona's checkpoint on loopback until Ctrl-C, and print the address once ready.

    Args:
        file: file with the PersonaModel, or a checkpoint directory.
        store_url: the artifact store, or None for the default.
        port: where to listen; 0 for any free port.

    Raises:
        PersonaError: there is no checkpoint yet, it can't be loaded, or the port is in use.
    """
    directory = checkpoint_of(file, store_url)
    name = directory.resolve().name if file.is_dir() else load_resource(file).metadata.name
    for package in ("fastapi", "prometheus_client", "uvicorn"):
        if find_spec(package) is None:
            raise InputError(
                f"The server needs the Python package {package}, which is not installed",
                hint="Install it with `pip install 'persona-pruner[serve]'`",
            )
    from ..serve.__main__ import parser, run

    arguments = ["--model", str(directory), "--served-model-name", name, "--host", LOOPBACK]
    arguments += ["--port", str(port), "--shutdown-timeout", "2"]
    options = parser().parse_args(arguments)
    run(options, on_ready=lambda found: _print_address(name, found))


def _print_address(name: str, port: int) -> None:
    address = f"http://{LOOPBACK}:{port}"
    sys.stdout.write(
        f"Chat with {name} at {address}/ (Ctrl-C ends the server). "
        f"The OpenAI API is at {address}/v1\n"
    )
    sys.stdout.flush()
