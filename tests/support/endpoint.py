"""A real HTTP server on a free port whose chat completions a test chooses."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass
class Reply:
    """A response of the server.

    Attributes:
        body: JSON, or raw bytes.
        status: HTTP status.
        headers: further headers.
        promise: a Content-Length other than the body's, which truncates the response.
        hang: send nothing until the test ends.
    """

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    promise: int | None = None
    hang: bool = False


Behaviour = Callable[[int, Body], Reply]


def completion(content: Any, finish_reason: str | None = "stop", **message: Any) -> Body:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": finish_reason,
            }
        ],
        "usage": {"total_tokens": 3},
    }


def error(status: int, message: str, **fields: Any) -> Reply:
    return Reply({"error": {"message": message, **fields}}, status)


def user_text(body: Body) -> str:
    return str(body["messages"][-1]["content"])


class Endpoint:
    """The running server.

    Attributes:
        behave: called with the request's number, from 0, and its body.
        requests: (path, headers, body) of every request.
        most_in_flight: largest number of requests that were open at once.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.behave: Behaviour = lambda number, body: Reply(completion(f"Arr {number}"))
        self.requests: list[tuple[str, dict[str, str], Body]] = []
        self.most_in_flight = 0
        self.released = threading.Event()
        self._in_flight = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._scheme = "https" if tls else "http"
        if tls:
            # The handshake then happens in each connection's own thread.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}/v1"

    @property
    def bodies(self) -> list[Body]:
        return [body for _, _, body in self.requests]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                raw = self.rfile.read(length)
                if len(raw) < length:
                    self.close_connection = True
                    return  # the client hung up
                body = json.loads(raw)
                with endpoint._lock:
                    number = len(endpoint.requests)
                    endpoint.requests.append((self.path, dict(self.headers), body))
                    endpoint._in_flight += 1
                    endpoint.most_in_flight = max(endpoint.most_in_flight, endpoint._in_flight)
                try:
                    self._send(endpoint.behave(number, body))
                except OSError:
                    pass  # the client hung up
                finally:
                    with endpoint._lock:
                        endpoint._in_flight -= 1

            def _send(self, reply: Reply) -> None:
                if reply.hang:
                    endpoint.released.wait()
                    self.close_connection = True
                    return
                raw = reply.body
                data = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
                promised = len(data) if reply.promise is None else reply.promise
                self.send_response(reply.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(promised))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
                if promised != len(data):
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)

        return Handler


@contextmanager
def running_endpoint(tls: ssl.SSLContext | None = None) -> Iterator[Endpoint]:
    endpoint = Endpoint(tls)
    try:
        yield endpoint
    finally:
        endpoint.close()


def in_character(_number, body):
    """The same answer to the same question, whatever the order of the requests."""
    question = user_text(body).split("<question>")[-1].split("</question>")[0].strip()
    return Reply(
        completion(f"Arr! Ye ask me of {question} The tide of {len(question)} knows, aye.")
    )
