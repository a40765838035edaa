"""A service that gives out S3 credentials, as those of IAM roles do."""

import http.server
import json
import threading

from support.s3_server import ACCESS_KEY, SECRET_KEY


class Service:
    """An HTTP server that gives out credentials; as a proxy it does so for every host."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        self.answer = json.dumps(
            {
                "AccessKeyId": ACCESS_KEY,
                "SecretAccessKey": SECRET_KEY,
                "Token": "",
                "Expiration": "2999-01-01T00:00:00Z",
            }
        ).encode()
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.asked.append(f"{self.command} {self.path}")
                self.send_response(service.status)
                self.send_header("Content-Length", str(len(service.answer)))
                self.end_headers()
                self.wfile.write(service.answer)

            def do_CONNECT(self) -> None:
                service.asked.append(f"{self.command} {self.path}")
                self.send_error(403)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
