"""What lowers a stage's need for memory."""

from ..api import PersonaModelSpec


def lowerable_batch_size(spec: PersonaModelSpec, stage: str) -> str | None:
    """Return the path of the stage's micro-batch size, None where it has none above 1."""
    learning, tuning = spec.pruning.straight_through, spec.recovery.fine_tune
    if stage == "mask" and learning is not None and learning.micro_batch_size > 1:
        return "spec.pruning.straightThrough.microBatchSize"
    if stage == "recover" and tuning.enabled and tuning.micro_batch_size > 1:
        return "spec.recovery.fineTune.microBatchSize"
    return None
