"""The machine that an estimate is made for, and what a stage takes on it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that the time is estimated for.

    Attributes:
        flops: multiplications and additions per second that a forward pass reaches.
        memory_bandwidth: bytes per second of the memory in which the model lies.
        gpu: whether the model lies in a GPU's memory.
        disk_bandwidth: bytes per second of disk and store.
    """

    flops: float
    memory_bandwidth: float
    gpu: bool
    disk_bandwidth: float = 200e6


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """What one stage takes.

    Attributes:
        seconds: its time.
        memory_bytes: its peak memory, an upper bound.
        store_bytes: size of its result.
        scratch_bytes: further disk space while it runs, resume states included.
        endpoint_tokens: tokens that a teacher or judges behind endpoints read and write.
    """

    seconds: float
    memory_bytes: int
    store_bytes: int
    scratch_bytes: int = 0
    endpoint_tokens: int = 0
