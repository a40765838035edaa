"""The HorizontalPodAutoscaler of the serving pods."""

from ..labels import common_labels
from .common import Manifest, Owner, object_metadata, with_checksum
from .deployment import COMPONENT


def build_hpa(
    owner: Owner, *, min_replicas: int, max_replicas: int, target_cpu_percent: int
) -> Manifest:
    """Build an autoscaler of the Deployment by average CPU utilization (autoscaling/v2)."""
    return with_checksum(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": object_metadata(owner, owner.name, common_labels(owner.name, COMPONENT)),
            "spec": {
                "scaleTargetRef": {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "name": owner.name,
                },
                "minReplicas": min_replicas,
                "maxReplicas": max_replicas,
                "metrics": [
                    {
                        "type": "Resource",
                        "resource": {
                            "name": "cpu",
                            "target": {
                                "type": "Utilization",
                                "averageUtilization": target_cpu_percent,
                            },
                        },
                    }
                ],
            },
        }
    )
