"""Sockets, signals and graceful shutdown of the application."""

import asyncio
import errno
import logging
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ..errors import InputError
from .app import Service

logger = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; `*` or nothing stands for all addresses, IPv4 and IPv6.

    Raises:
        InputError: the address can't be used.
    """
    try:
        if host not in {"", "*"}:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family, backlog=512)
        if socket.has_dualstack_ipv6():
            try:
                return socket.create_server(
                    ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512
                )
            except OSError as error:
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    raise
        return socket.create_server(("", port), backlog=512)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        wrong_port = getattr(error, "errno", None) in {errno.EADDRINUSE, errno.EACCES}
        raise InputError(
            f"Can't listen on {host or '*'}:{port}: {reason}",
            hint="Set --port to a free port above 1023"
            if wrong_port
            else "Set --host to an address of this machine and --port to a number below 65536",
        ) from error


class Server(uvicorn.Server):
    """A uvicorn server that stops in three steps after SIGTERM.

    1. `/readyz` fails for `delay` seconds while requests are still accepted, so that the load
       balancer removes this server (Ctrl-C skips this step).
    2. New connections are refused, and running requests have `bound` seconds to finish.
    3. The remaining requests end with an error.

    A second signal starts step 3 at once.
    """

    def __init__(self, app: FastAPI, service: Service, *, delay: float, bound: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,  # longer than the idle time of most load balancers
                timeout_graceful_shutdown=max(1, round(bound) + 5),
            )
        )
        self._service = service
        self._delay = delay
        self._bound = bound
        self._signals = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Run until a signal arrives or `stop` is called."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to stop; the signal is not raised again, so that the exit code is 0."""
        del frame
        self._signals += 1
        if self._loop is None:
            self.should_exit = True
        elif self._signals == 1:
            delay = self._delay if sig == signal.SIGTERM else 0.0
            self._loop.call_soon_threadsafe(self._begin_stop, delay)
        else:
            self._loop.call_soon_threadsafe(self._end_now)

    def stop(self) -> None:
        """Stop without delay; must be called in the event loop."""
        self.should_exit = True

    def _begin_stop(self, delay: float) -> None:
        loop = asyncio.get_running_loop()
        self._service.stop_soon()
        logger.info(
            "The server is stopping; %d requests are waiting or running", self._service.active
        )
        if delay and self._service.served:
            loop.call_later(delay, self.stop)
        else:
            delay = 0.0
            self.stop()
        loop.call_later(delay + self._bound, self._service.abort_requests)

    def _end_now(self) -> None:
        self._service.abort_requests()
        self.stop()
