"""The PodDisruptionBudget of the serving pods."""

from ..labels import common_labels
from .common import Manifest, Owner, object_metadata, with_checksum
from .deployment import COMPONENT, serving_selector


def build_pdb(owner: Owner) -> Manifest:
    """Build a budget that lets voluntary disruptions stop one pod at a time."""
    return with_checksum(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": object_metadata(owner, owner.name, common_labels(owner.name, COMPONENT)),
            "spec": {
                "maxUnavailable": 1,
                "selector": {"matchLabels": serving_selector(owner.name)},
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        }
    )
