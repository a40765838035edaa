"""A server that answers like the serving API, after the model's file was read.

A checkpoint with sparsity 90 ends it, as an engine ends that can't load its model. On SIGTERM it
serves for a few seconds more, so that no request is lost while the endpoints change.
"""

import argparse
import json
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DRAIN_SECONDS = 8.0
UNSERVABLE = 90

parser = argparse.ArgumentParser()
parser.add_argument("--model", type=Path)
parser.add_argument("--served-model-name")
parser.add_argument("--port", type=int)
options, _ = parser.parse_known_args()
config = json.loads((options.model / "config.json").read_text(encoding="utf-8"))
if config["sparsityPercent"] == UNSERVABLE:
    sys.exit("The model can't be loaded")
draining = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """Answers every path; `/readyz` fails while the server drains."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send the model's name and sparsity."""
        models = [{"id": options.served_model_name, **config}]
        body = json.dumps({"data": models}).encode()
        self.send_response(503 if draining.is_set() and self.path == "/readyz" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


server = ThreadingHTTPServer(("", options.port), Handler)


def stop(*_: object) -> None:
    """Drain, then end."""
    draining.set()
    threading.Timer(DRAIN_SECONDS, server.shutdown).start()


signal.signal(signal.SIGTERM, stop)
server.serve_forever()
