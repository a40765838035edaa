"""A real cluster as the tests see it: kubectl, the API server, and waiting with a deadline."""

import json
import ssl
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from kubernetes import client, config

Object = dict[str, Any]
T = TypeVar("T")

PATHS = {
    "PersonaRecipe": "apis/persona-pruner.io/v1alpha1/{}/personarecipes",
    "PersonaModel": "apis/persona-pruner.io/v1alpha1/{}/personamodels",
    "Job": "apis/batch/v1/{}/jobs",
    "Deployment": "apis/apps/v1/{}/deployments",
    "Pod": "api/v1/{}/pods",
    "Service": "api/v1/{}/services",
    "ConfigMap": "api/v1/{}/configmaps",
    "Event": "api/v1/{}/events",
    "Secret": "api/v1/{}/secrets",
}
MERGE = {"Content-Type": "application/merge-patch+json"}


class Cluster:
    """The cluster that KUBECONFIG names."""

    def __init__(self) -> None:
        settings = client.Configuration()
        config.load_kube_config(client_configuration=settings)
        tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
        if settings.cert_file:
            tls.load_cert_chain(settings.cert_file, settings.key_file)
        authorization = settings.get_api_key_with_prefix("authorization")
        headers = {"Authorization": authorization} if authorization else {}
        self.http = httpx.Client(base_url=settings.host, verify=tls, headers=headers, timeout=30)

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        answer = self.http.get(f"/{_path(kind, namespace)}/{name}")
        if answer.status_code == 404:
            return None
        found: Object = answer.raise_for_status().json()
        return found

    def find(self, kind: str, namespace: str, labels: str = "") -> list[Object]:
        params = {"labelSelector": labels} if labels else {}
        answer = self.http.get(f"/{_path(kind, namespace)}", params=params)
        items: list[Object] = answer.raise_for_status().json()["items"]
        return items

    def patch(self, kind: str, namespace: str, name: str, body: Object) -> Object:
        url = f"/{_path(kind, namespace)}/{name}"
        answer = self.http.patch(url, headers=MERGE, json=body)
        assert answer.is_success, answer.text
        patched: Object = answer.json()
        return patched

    def delete(self, kind: str, namespace: str, name: str, *, grace: int | None = None) -> None:
        params = {} if grace is None else {"gracePeriodSeconds": grace}
        answer = self.http.delete(f"/{_path(kind, namespace)}/{name}", params=params)
        assert answer.is_success or answer.status_code == 404, answer.text

    def service(
        self, namespace: str, name: str, port: int, path: str, body: Object | None = None
    ) -> httpx.Response:
        """Send a request to a Service through the API server's proxy."""
        url = f"/api/v1/namespaces/{namespace}/services/{name}:{port}/proxy{path}"
        if body is None:
            return self.http.get(url)
        return self.http.post(url, json=body, timeout=120)

    def kubectl(self, *args: str, text: str | None = None, check: bool = True) -> str:
        return run("kubectl", *args, text=text, check=check)

    def apply(self, *documents: Object) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": [*documents]}
        self.kubectl("apply", "-f", "-", text=json.dumps(listed))

    def diagnose(self, namespace: str) -> str:
        """Return what a person would look at: states, events, and the logs of failed pods."""
        parts = [
            self.kubectl("-n", namespace, "get", "personas,jobs,pods", "-o", "wide", check=False)
        ]
        for persona in self.find("PersonaModel", namespace):
            status = persona.get("status", {})
            ready = [item for item in status.get("conditions", []) if item["type"] == "Ready"]
            stages = [
                {name: stage.get(name) for name in ("name", "state", "attempts", "message")}
                for stage in status.get("stages", [])
            ]
            parts.append(json.dumps([persona["metadata"]["name"], ready, stages], indent=1))
        events = self.kubectl(
            "-n", namespace, "get", "events", "--sort-by=.lastTimestamp", check=False
        )
        parts.append("\n".join(events.splitlines()[-30:]))
        for pod in self.find("Pod", namespace):
            if pod["status"].get("phase") == "Failed":
                name = pod["metadata"]["name"]
                log = self.kubectl("-n", namespace, "logs", name, "--tail=8", check=False)
                parts.append(f"--- log of {name}\n{log}")
        return "\n".join(parts)


def _path(kind: str, namespace: str) -> str:
    return PATHS[kind].format(f"namespaces/{namespace}")


def run(*command: str, text: str | None = None, check: bool = True) -> str:
    """Return the output of a command; a failed assertion shows it."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0 or not check, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout if check else done.stdout + done.stderr


def wait(
    what: str,
    look: Callable[[], T | None],
    *,
    seconds: float,
    diagnose: Callable[[], str] = str,
    every: float = 1.0,
) -> T:
    """Return the first truthy result of `look`; fails with diagnostics after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for {what}\n{diagnose()}")
        time.sleep(every)
