"""The Service in front of the serving pods."""

from ..labels import common_labels
from .common import Manifest, Owner, object_metadata, with_checksum
from .deployment import COMPONENT, PORT, serving_selector


def build_service(owner: Owner) -> Manifest:
    """Build a ClusterIP Service with the persona's name."""
    return with_checksum(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": object_metadata(owner, owner.name, common_labels(owner.name, COMPONENT)),
            "spec": {
                "type": "ClusterIP",
                "selector": serving_selector(owner.name),
                "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
            },
        }
    )


def service_url(owner: Owner) -> str:
    """Return the base URL inside the cluster."""
    return f"http://{owner.name}.{owner.namespace}.svc:{PORT}"
