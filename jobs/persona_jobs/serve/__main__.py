"""Command line of the server: `python -m persona_jobs.serve --model DIR`."""

import argparse
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import InputError, PersonaError
from ..pipeline.process import ProcessReport, configure_logging, run_process

LOOPBACK = "127.0.0.1"
_SAMPLES = 4096

logger = logging.getLogger("persona_jobs.serve")


class ServerStartError(PersonaError):
    """The server ended before it accepted a request. Exit code 1."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m persona_jobs.serve",
        description="Serve a checkpoint over the OpenAI chat completions API.",
    )
    add = made.add_argument
    add("--model", type=Path, required=True, metavar="DIR", help="directory of the checkpoint")
    add(
        "--served-model-name",
        metavar="NAME",
        help="name of the model in requests (default: the directory's)",
    )
    add(
        "--dense-model", type=Path, metavar="DIR",
        help="directory of the dense model, which is served too, with the chat template of --model "
        "and the name NAME-dense (default: none)",
    )  # fmt: skip
    add(
        "--host", default=os.environ.get("PERSONA_SERVE_HOST") or LOOPBACK, metavar="ADDRESS",
        help="address to listen on; '*': all, IPv4 and IPv6 (default: the variable "
        f"PERSONA_SERVE_HOST, or else {LOOPBACK}, which only this machine reaches)",
    )  # fmt: skip
    add("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    add(
        "--api-key-file", type=Path, metavar="FILE",
        help="file with API keys, one per line, of which requests must send one (default: the key "
        "in the variable PERSONA_API_KEY; without either, no key is needed)",
    )  # fmt: skip
    add(
        "--cors-origin", action="append", default=[], metavar="ORIGIN",
        help="origin whose web pages may use the API, such as https://example.org; '*': all; may "
        "be repeated (default: none)",
    )  # fmt: skip
    add("--device", choices=["Auto", "CPU", "CUDA"], default="Auto", help="default: Auto")
    add("--dtype", choices=["Auto", "Float32", "BFloat16"], default="Auto", help="default: Auto")
    add(
        "--max-context-tokens", type=_positive, metavar="N",
        help="largest number of tokens of a conversation and its answer (default: the model's)",
    )  # fmt: skip
    add(
        "--default-max-tokens", type=_positive, default=1024, metavar="N",
        help="token limit of an answer whose request sets none (default: 1024)",
    )  # fmt: skip
    add(
        "--max-batch", type=_positive, default=16, metavar="N",
        help="requests that are answered at the same time (default: 16)",
    )  # fmt: skip
    add(
        "--max-batch-tokens", type=_positive, default=16_384, metavar="N",
        help="tokens of all conversations in memory, answers at their limits included; at least "
        "one whole context (default: 16384)",
    )  # fmt: skip
    add(
        "--max-queue", type=_natural, default=16, metavar="N",
        help="requests that may wait for that; further ones get 429 (default: 16)",
    )  # fmt: skip
    add(
        "--shutdown-delay", type=_seconds, default=5.0, metavar="SECONDS",
        help="time after SIGTERM to accept requests while not ready (default: 5)",
    )  # fmt: skip
    add(
        "--shutdown-timeout", type=_seconds, default=20.0, metavar="SECONDS",
        help="time for running requests to finish after that (default: 20)",
    )  # fmt: skip
    return made


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("The value must be at least 1")
    return value


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("The value must not be negative")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError("The value must be between 0 and 86400")
    return value


def fingerprint(directory: Path, dtype: str, device: str) -> str:
    """Return the `system_fingerprint`, which depends on the weights, number format and device.

    Of each weight file, the name, the size, the first MiB with the header, and pieces of 4 KiB
    spread over all of it are read.
    """
    digest = hashlib.sha256(f"{dtype} {device}".encode())
    for path in sorted(directory.glob("*")):
        if path.suffix in {".json", ".jinja"}:
            digest.update(path.read_bytes())
        elif path.suffix == ".safetensors":
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode())
            with path.open("rb") as file:
                digest.update(file.read(2**20))
                for piece in range(_SAMPLES):
                    file.seek(size * piece // _SAMPLES)
                    digest.update(file.read(4096))
                file.seek(max(0, size - 4096))
                digest.update(file.read())
    return f"fp_{digest.hexdigest()[:12]}"


def run(options: argparse.Namespace, on_ready: Callable[[int], None] = lambda _port: None) -> None:
    """Serve until a signal arrives.

    Args:
        options: the arguments, from `parser`.
        on_ready: called with the port when the server accepts requests.

    Raises:
        PersonaError: the model can't be loaded, or the address can't be used.
    """
    for option, directory in (("--model", options.model), ("--dense-model", options.dense_model)):
        if directory is not None and not directory.is_dir():
            raise InputError(
                f"{directory} is not a directory",
                hint=f"Set {option} to the directory of a checkpoint",
            )
    from .access import read_keys

    api_keys = read_keys(options.api_key_file)
    # Wrong arguments are reported before torch is imported, which takes seconds.
    import torch

    from ..models import compute
    from .app import Service, ServiceOptions, create_app
    from .cpus import usable_cpus
    from .engine import Engine
    from .models import ModelSource
    from .scheduler import Limits
    from .server import Server, listen

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cpus())
    chosen = compute.resolve(options.device, options.dtype)
    longest = options.max_context_tokens

    def source(name: str, directory: Path) -> ModelSource:
        return ModelSource(
            name,
            lambda: Engine.load(
                directory, chosen, tokenizer=options.model, max_context_tokens=longest
            ),
            fingerprint(directory, chosen.dtype_name, chosen.device.type),
        )

    name = options.served_model_name or options.model.resolve().name
    models = [source(name, options.model)]
    if options.dense_model is not None:
        models.append(source(f"{name}-dense", options.dense_model))
    service = Service(
        models,
        ServiceOptions(
            dtype=chosen.dtype_name,
            api_keys=api_keys,
            origins=tuple(options.cors_origin),
            limits=Limits(options.max_batch, options.max_batch_tokens, options.max_queue),
            default_max_tokens=options.default_max_tokens,
        ),
        on_failure=lambda: server.stop(),  # noqa: PLW0108 - defined below
        on_ready=lambda: on_ready(listener.getsockname()[1]),
    )
    server = Server(
        create_app(service), service, delay=options.shutdown_delay, bound=options.shutdown_timeout
    )
    with listen(options.host, options.port) as listener:
        address, port = listener.getsockname()[:2]
        logger.info("The server listens on %s, port %d", address, port)
        server.run(sockets=[listener])
    if service.failure is not None:
        raise service.failure
    if not server.started:
        raise ServerStartError("The server stopped before it was ready")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see `persona_jobs.errors`)."""
    options = parser().parse_args(arguments)
    configure_logging()
    return run_process(ProcessReport("serve"), lambda _report: run(options))


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # The model's thread can't be interrupted, and its step may take longer than the grace period.
    os._exit(status)
