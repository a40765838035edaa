"""The loss curve of a training run, as written to curve.jsonl."""

from pydantic import BaseModel, ConfigDict


class CurvePoint(BaseModel):
    """Losses at one step, in nats an answer token.

    Attributes:
        step: finished optimizer steps; 0 is the start.
        train_loss: loss of the step's batch; None at the start.
        validation_loss: held-out loss, where it was measured.
        learning_rate: step size of the step; None at the start.
    """

    model_config = ConfigDict(frozen=True)

    step: int
    train_loss: float | None = None
    validation_loss: float | None = None
    learning_rate: float | None = None
