"""A small server that answers like the Hugging Face hub."""

import http.server
import json
import threading
from hashlib import sha256
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """A server of models and data sets by name.

    `errors` maps a name to (HTTP status, hub error code), and `tokens` are those it was sent.
    """

    def __init__(self) -> None:
        self.models: dict[str, dict[str, bytes]] = {}
        self.tokens: set[str | None] = set()
        self.errors: dict[str, tuple[int, str]] = {}
        self.fetched: list[str] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args: object) -> None:
                del args

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path).strip("/")
        inner = path.removeprefix("api/").removeprefix("models/").removeprefix("datasets/")
        parts = inner.split("/")
        name = "/".join(parts[:2])
        if name in self.errors:
            status, code = self.errors[name]
            self._send(request, status, b"", {"X-Error-Code": code, "X-Error-Message": code})
            return
        files = self.models.get(name)
        if files is not None:  # the library also asks for things that need no token
            self.tokens.add(request.headers.get("Authorization"))
        if files is None:
            self._send(request, 404, b"", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("api/") and parts[2] == "tree":
            tree = [
                {"type": "file", "path": each, "size": len(data), "oid": sha256(data).hexdigest()}
                for each, data in files.items()
            ]
            self._send(request, 200, json.dumps(tree).encode(), {})
        elif path.startswith("api/"):
            if parts[3:] not in ([], ["main"], [COMMIT]):
                self._send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
                return
            siblings = [{"rfilename": each} for each in files]
            info = {"id": name, "sha": COMMIT, "siblings": siblings, "private": False}
            self._send(request, 200, json.dumps(info).encode(), {})
        else:
            file = "/".join(parts[4:])
            if file not in files:
                self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            data = files[file]
            if request.command == "GET":
                self.fetched.append(file)
            headers = {"ETag": f'"{sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self._send(request, 200, data, headers)

    @staticmethod
    def _send(
        request: http.server.BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str],
    ) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
