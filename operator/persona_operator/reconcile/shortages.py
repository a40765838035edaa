"""Whether a pod that finds no room may find some later, without anybody's help.

The scheduler and the quota controller say why only in a sentence. What is read from it decides
between waiting and a condition that asks for a person, nothing else.
"""

import re
from decimal import Decimal, InvalidOperation

_NODES = re.compile(r"^0/(\d+) nodes are available")
# kube-scheduler says this of nodes that the pod wouldn't fit if they were empty.
_HOPELESS = re.compile(r"(\d+) Preemption is not helpful for scheduling")
# Nodes that are cordoned or not ready, and devices in use, for which pods are never preempted.
_PASSING = ("were unschedulable", "{node.kubernetes.io/", "cannot allocate all claims")
_FULL = ("Insufficient ", "Too many pods")
_QUOTA = re.compile(r"requested: (\S+), used: \S+, limited: (\S+)")
_QUANTITY = re.compile(r"^([0-9.]+(?:e[0-9]+)?)([numkMGTPE]|[KMGTPE]i)?$")
_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    **{letter: Decimal(1000 ** (power + 2)) for power, letter in enumerate("MGTPE")},
    **{f"{letter}i": Decimal(1024 ** (power + 1)) for power, letter in enumerate("KMGTPE")},
}


def may_fit_later(message: str) -> bool:
    """Return whether a node may have room for a pod once others have ended.

    Args:
        message: what the scheduler says in the pod's condition `PodScheduled`.
    """
    nodes = _NODES.match(message)
    if nodes is None:
        return message.startswith("no nodes available")
    reasons, _, preemption = message.partition("preemption:")
    if any(text in reasons for text in _PASSING):
        return True
    hopeless = _HOPELESS.search(preemption)
    if hopeless is not None:
        return int(hopeless.group(1)) < int(nodes.group(1))
    return any(text in reasons for text in _FULL)


def may_pass_quota(message: str) -> bool:
    """Return whether a namespace's quota may have room once other pods have ended.

    Args:
        message: why the API server refuses the pod.
    """
    found = _QUOTA.search(message)
    if found is None:
        return False
    requested, limited = (_amounts(text) for text in found.groups())
    if requested is None or limited is None:
        return False
    return all(amount <= limited.get(name, Decimal(0)) for name, amount in requested.items())


def _amounts(text: str) -> dict[str, Decimal] | None:
    """Return the amounts in `cpu=1,memory=4Gi`, None where one can't be read."""
    amounts = {}
    for item in text.rstrip(".").split(","):
        name, _, quantity = item.partition("=")
        found = _QUANTITY.match(quantity)
        if found is None:
            return None
        try:
            amounts[name] = Decimal(found.group(1)) * _SUFFIXES.get(found.group(2), Decimal(1))
        except InvalidOperation:
            return None
    return amounts
