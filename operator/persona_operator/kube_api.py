"""The operator's few requests to the API server; no decisions.

Every method is a coroutine that runs the blocking client in a thread. ApiException and broken
connections become the operator's own errors in `_request` and nowhere else.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from persona_jobs.api import GROUP, KIND, PLURAL, RECIPE_KIND, RECIPE_PLURAL, VERSION

from .errors import ApiRefusedError, ApiUnavailableError, OperatorError, api_error
from .labels import FIELD_MANAGER
from .server_clock import ServerClock, local_time

Raw = dict[str, Any]
RequestObserver = Callable[[str, str, int], None]
"""Called with (method, resource, HTTP status) after each request; status 0: no answer."""

RESOURCES: Mapping[str, tuple[str, str]] = {
    KIND: (f"/apis/{GROUP}/{VERSION}", PLURAL),
    RECIPE_KIND: (f"/apis/{GROUP}/{VERSION}", RECIPE_PLURAL),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Event": ("/api/v1", "events"),
    "Pod": ("/api/v1", "pods"),
    "Service": ("/api/v1", "services"),
    "Job": ("/apis/batch/v1", "jobs"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
}
_NOT_FOUND = 404
_CONFLICT = 409
_ERRORS_FROM = 400
_CHUNK = 250
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"


def load_client() -> client.ApiClient:
    """Return a client of the cluster that the pod runs in, else of the one in KUBECONFIG.

    Raises:
        ApiRefusedError: there is neither a service account nor a usable kubeconfig file.
    """
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=configuration)
        except config.ConfigException as error:
            raise ApiRefusedError(
                f"There is neither a service account nor a usable kubeconfig file: {error}",
                status=0,
                reason="NoConfiguration",
            ) from None
    return client.ApiClient(configuration)


class KubeApi:
    """Requests to the API server, by kind, namespace and name.

    Every coroutine raises `ApiUnavailableError` or `ApiRefusedError`.
    """

    def __init__(
        self,
        api_client: client.ApiClient,
        *,
        on_request: RequestObserver | None = None,
        timeout: tuple[float, float] = (5.0, 20.0),
    ) -> None:
        self._client = api_client
        self.clock = ServerClock(local_time)
        self._on_request = on_request or (lambda *_: None)
        self._timeout = timeout

    async def get(self, kind: str, namespace: str, name: str) -> Raw | None:
        """Return one object, None when it doesn't exist."""
        try:
            return await self._call("GET", kind, namespace, name)
        except ApiRefusedError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    async def find(self, kind: str, namespace: str | None, **query: str) -> list[Raw]:
        """Return all objects of a kind in a namespace, or in all namespaces."""
        found = await self._call("GET", kind, namespace, None, query=query)
        return list(found.get("items") or [])

    async def list(
        self, kind: str, namespace: str | None, selector: str = "", *, metadata_only: bool = False
    ) -> AsyncIterator[tuple[list[Raw], str]]:
        """Yield all objects of a kind in chunks, each with the list's resource version.

        Args:
            kind: the kind.
            namespace: the namespace; None for all of them.
            selector: label selector.
            metadata_only: whether to leave out all but the metadata.
        """
        prefix, _ = RESOURCES[kind]
        api_version = prefix.removeprefix("/apis/").removeprefix("/api/")
        query = {"limit": str(_CHUNK), **({"labelSelector": selector} if selector else {})}
        accept = f"{_METADATA},application/json" if metadata_only else "application/json"
        while True:
            found = await self._call("GET", kind, namespace, None, query=query, accept=accept)
            head = found.get("metadata") or {}
            # The API server leaves out kind and version in the lists of its own kinds.
            yield (
                [
                    {"apiVersion": api_version, "kind": kind, **item}
                    for item in found["items"] or []
                ],
                str(head.get("resourceVersion", "")),
            )
            if not head.get("continue"):
                return
            query["continue"] = head["continue"]

    async def create(self, manifest: Raw) -> Raw | None:
        """Create an object and return it, None when one of that name exists."""
        metadata = manifest["metadata"]
        query = {"fieldManager": FIELD_MANAGER}
        try:
            return await self._call(
                "POST", manifest["kind"], metadata["namespace"], None, query=query, body=manifest
            )
        except ExistsError:
            return None

    async def apply(self, manifest: Raw) -> Raw:
        """Apply an object server-side; fields that belong to other managers stay."""
        metadata = manifest["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._call(
            "PATCH",
            manifest["kind"],
            metadata["namespace"],
            metadata["name"],
            query=query,
            body=manifest,
            content_type=_APPLY,
        )

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object, and its dependents in the background; an absent one is no error."""
        body = {"propagationPolicy": "Background"}
        try:
            await self._call("DELETE", kind, namespace, name, body=body)
        except ApiRefusedError as error:
            if error.status != _NOT_FOUND:
                raise

    async def merge(self, kind: str, namespace: str, name: str, patch: Raw) -> Raw | None:
        """Merge a patch into an object and return it, None when it doesn't exist."""
        return await self._merge(kind, namespace, name, patch, "")

    async def merge_status(self, kind: str, namespace: str, name: str, patch: Raw) -> Raw | None:
        """Merge a patch into a status and return the object, None when it doesn't exist."""
        return await self._merge(kind, namespace, name, {"status": patch}, "/status")

    async def _merge(
        self, kind: str, namespace: str, name: str, patch: Raw, subresource: str
    ) -> Raw | None:
        query = {"fieldManager": FIELD_MANAGER}
        try:
            return await self._call(
                "PATCH",
                kind,
                namespace,
                name + subresource,
                query=query,
                body=patch,
                content_type=_MERGE,
            )
        except ApiRefusedError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    async def _call(
        self,
        method: str,
        kind: str,
        namespace: str | None,
        name: str | None,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Raw:
        prefix, plural = RESOURCES[kind]
        path = prefix + (f"/namespaces/{namespace}" if namespace else "") + f"/{plural}"
        path += f"/{name}" if name else ""
        if query:
            path += f"?{urlencode(query)}"
        headers = {"Accept": accept, **({"Content-Type": content_type} if body is not None else {})}
        return await asyncio.to_thread(self._request, method, path, plural, body, headers)

    def _request(
        self, method: str, path: str, resource: str, body: Any, headers: dict[str, str]
    ) -> Raw:
        """Send one blocking request; the only place that converts other libraries' exceptions."""
        what = f"{method} {path.split('?', maxsplit=1)[0]}"
        status, data, retry_after = 0, b"", None
        try:
            parameters = self._client.param_serialize(
                method=method,
                resource_path=path,
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            response = self._client.call_api(*parameters, _request_timeout=self._timeout)
            data = response.read()
            headers = response.getheaders()
            status, retry_after = response.status, headers.get("Retry-After")
            self.clock.observe(headers.get("Date"))
        except ApiException as error:
            status, data = error.status or 0, str(error.reason or error).encode()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiUnavailableError(f"{what}: the API server can't be reached: {error}") from None
        finally:
            self._on_request(method, resource, status)
        document = _decode(data)
        if 0 < status < _ERRORS_FROM:
            return document if isinstance(document, dict) else {}
        raise self._error(status, document, what, retry_after)

    @staticmethod
    def _error(status: int, document: Any, what: str, retry_after: str | None) -> OperatorError:
        if (
            status == _CONFLICT
            and isinstance(document, dict)
            and (document.get("reason") == "AlreadyExists")
        ):
            return ExistsError(f"{what}: already exists", status=status, reason="AlreadyExists")
        return api_error(status, document, what, retry_after)


class ExistsError(ApiRefusedError):
    """An object of that name exists already."""


def _decode(data: bytes) -> Any:
    try:
        return json.loads(data) if data else {}
    except ValueError:
        return data.decode(errors="replace")[:500]
