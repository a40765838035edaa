"""How much text passes through a pipeline, from its spec and its instructions."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..api import PersonaModelSpec
from ..dataset import Instruction

# UTF-8 bytes per token: English, and within a factor of two other scripts.
BYTES_PER_TOKEN = 4
# Where the instructions are not read: the means of Alpaca's 52,000.
QUERY_BYTES = 92
NEUTRAL_BYTES = 270
REFERENCE_PERSONA_BYTES = 313
# The chat template around a message, and the task in the prompt of a teacher.
TEMPLATE_TOKENS = 12
TASK_TOKENS = 130


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Counts and mean lengths of what the stages read and write.

    Attributes:
        queries: usable instructions, N.
        query_bytes: mean UTF-8 bytes of a query.
        neutral_bytes: mean UTF-8 bytes of its neutral answer.
        persona_bytes: UTF-8 bytes of the persona's text.
        kept: queries that are kept for the persona.
        train: examples to learn from.
        validation: held-out examples for early stopping.
        test: held-out examples for the evaluation.
    """

    queries: int
    query_bytes: float
    neutral_bytes: float
    persona_bytes: int
    kept: int
    train: int
    validation: int
    test: int

    @property
    def persona_tokens(self) -> float:
        """Tokens of the persona's prompt."""
        return self.persona_bytes / BYTES_PER_TOKEN + TEMPLATE_TOKENS

    @property
    def query_tokens(self) -> float:
        """Tokens of a query with what the chat template puts around it."""
        return self.query_bytes / BYTES_PER_TOKEN + TEMPLATE_TOKENS

    @property
    def neutral_tokens(self) -> float:
        """Tokens of a neutral answer."""
        return self.neutral_bytes / BYTES_PER_TOKEN

    @property
    def generic(self) -> int:
        """Queries that are not kept, whose neutral answers preserve general ability."""
        return self.queries - self.kept

    @property
    def answers(self) -> int:
        """Answers that are asked of the teacher."""
        return self.train + self.validation + self.test


def workload(
    spec: PersonaModelSpec,
    instructions: Sequence[Instruction] | None,
    queries: int | None = None,
    persona: str | None = None,
) -> Workload:
    """Return the workload of a spec: every answer of the teacher is taken to be usable.

    Args:
        spec: the resolved spec.
        instructions: the usable instructions, None where they are not read.
        queries: their number where it is known otherwise; the default is `spec.instructions
            .maxSamples`, of which there may be fewer.
        persona: the persona's text where a character card holds it; None for the spec's own.
    """
    count = queries or spec.instructions.max_samples
    query_bytes, neutral_bytes = float(QUERY_BYTES), float(NEUTRAL_BYTES)
    if instructions:
        count = len(instructions)
        query_bytes = sum(len(i.query.encode("utf-8", "replace")) for i in instructions) / count
        neutral_bytes = sum(len(i.answer.encode("utf-8", "replace")) for i in instructions) / count
    kept = max(1, round(count * spec.scoring.keep_percent / 100))
    validation = max(1, round(kept * spec.dataset.validation_percent / 100))
    test = max(1, round(kept * spec.dataset.test_percent / 100))
    samples = spec.teacher.samples_per_query if float(spec.teacher.temperature) else 1
    return Workload(
        queries=count,
        query_bytes=query_bytes,
        neutral_bytes=neutral_bytes,
        persona_bytes=len((persona or spec.persona.text or "").encode("utf-8", "replace")),
        kept=kept,
        train=max(0, kept - validation - test) * samples,
        validation=validation,
        test=test,
    )
