"""A teacher in the cluster: an OpenAI-compatible server with made-up answers."""

from typing import Any

PORT = 8080
NAME = "teacher"
SERVER = """
import hashlib, json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = ("brave salty broken golden rolling silent stormy rusty anchor barrel captain compass "
         "harbor island lantern mast octopus parrot rigging sailor tide whale gull deck").split()

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        digest = hashlib.sha256(asked).digest()
        text = "Arr! The " + " ".join(WORDS[byte % len(WORDS)] for byte in digest[:9]) + "."
        choice = {"index": 0, "finish_reason": "stop",
                  "message": {"role": "assistant", "content": text}}
        body = json.dumps({"id": "1", "object": "chat.completion", "choices": [choice],
                           "usage": {"total_tokens": 1}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""


def base_url(namespace: str) -> str:
    return f"http://{NAME}.{namespace}.svc:{PORT}/v1"


def manifests(namespace: str, image: str) -> list[dict[str, Any]]:
    """Return the server's Deployment and Service."""
    labels = {"app": NAME}
    head = {"name": NAME, "namespace": namespace, "labels": labels}
    container = {
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", SERVER],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": head,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": head,
            "spec": {"selector": labels, "ports": [{"port": PORT}]},
        },
    ]
