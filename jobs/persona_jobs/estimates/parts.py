"""Operations and bytes that the formulas of several stages share."""

from ..api import PersonaModelSpec
from .machine import Machine
from .shape import ModelShape
from .workload import Workload

MIB = 2**20
# A process with torch and transformers, before it loads a model.
PROCESS_BYTES = 700 * MIB
START_SECONDS = 15.0
# These are the constants of the modules that do the work (tests compare them).
BATCH_TOKENS = 2048
HEAD_POSITIONS = 512
ANSWERS_AT_ONCE = 16
MAX_TRAIN_EXAMPLES = 2048


class Parts:
    """What one spec, base model and machine mean for every stage.

    Args:
        spec: the resolved spec; its number format is settled.
        shape: the base model.
        work: the texts.
        width: kept channels per layer, k.
        machine: where it runs.
    """

    def __init__(
        self,
        spec: PersonaModelSpec,
        shape: ModelShape,
        work: Workload,
        width: int,
        machine: Machine,
    ) -> None:
        self._spec, self._shape, self._work = spec, shape, work
        self._width, self._machine = width, machine
        self._bytes = 2 if spec.compute.dtype == "BFloat16" else 4
        self._answer = min(float(spec.teacher.max_tokens), max(32.0, 1.25 * work.neutral_tokens))

    @property
    def _weights(self) -> int:
        return self._shape.parameters * self._bytes

    @property
    def _kept_ffn(self) -> int:
        """Weights of the pruned FFNs."""
        return 3 * self._shape.layers * self._shape.hidden_size * self._width

    @property
    def _down(self) -> int:
        """Weights of the kept `down_proj` columns."""
        return self._kept_ffn // 3

    @property
    def _recovered(self) -> int:
        """Weights that the recovery replaces: with a reconstruction at least the whole FFNs."""
        recovery = self._spec.recovery
        replaced = self._kept_ffn if recovery.reconstruct.enabled else self._down
        return max(replaced, self._trained) if recovery.fine_tune.enabled else replaced

    @property
    def _conversation(self) -> float:
        """Tokens of a persona's example after the shared prompt."""
        return self._work.query_tokens + self._answer

    @property
    def _loaded(self) -> int:
        """Memory with the base model; on a processor also its files, which are being read."""
        if self._machine.gpu:
            return PROCESS_BYTES + self._weights
        return PROCESS_BYTES + self._weights + self._shape.parameters * self._shape.stored_bytes

    def _batch(self, past: float) -> int:
        """Memory of a forward pass without gradients: one block, attention scores, logits."""
        shape = self._shape
        block = BATCH_TOKENS * (10 * shape.hidden_size + 4 * shape.intermediate_size) * 4
        row = self._work.query_tokens + max(self._answer, self._work.neutral_tokens)
        attention = BATCH_TOKENS * (past + row) * shape.heads * 4 * 2
        head = HEAD_POSITIONS * shape.vocabulary * 4 * 4
        return int(block + attention + head)

    def _graph(self, rows: int) -> int:
        """Memory of what a backward pass needs: the activations of all blocks."""
        shape = self._shape
        tokens = rows * 1.5 * self._conversation + self._work.persona_tokens
        per_token = 16 * shape.hidden_size + 6 * shape.intermediate_size
        attention = 2 * shape.heads * (self._work.persona_tokens + 1.5 * self._conversation)
        activations = tokens * shape.layers * (per_token + attention) * self._bytes
        return int(activations + 2 * HEAD_POSITIONS * shape.vocabulary * 4 * 4)

    def _forward(self, tokens: float, positions: float = 0) -> float:
        """Operations of tokens through the blocks, and positions through the head."""
        shape = self._shape
        head = shape.vocabulary * shape.hidden_size
        return 2 * shape.block_parameters * tokens + 2 * head * positions

    def _training(self, steps: int, rows: int) -> float:
        """Operations of gradient steps: forward, and backward through the activations."""
        tokens = rows * self._conversation + 2 * self._work.persona_tokens
        return steps * 3 * self._forward(tokens, rows * self._answer)

    def _held_out(self, steps: int, every: int, rows: int) -> float:
        """Operations of the evaluations during a training."""
        tokens = rows * self._conversation + self._work.persona_tokens
        return (1 + steps // every) * self._forward(tokens, 2 * rows * self._answer)

    def _generation(self, answers: float, prompt: float, tokens: float) -> float:
        """Seconds of writing answers with the base model, several at once."""
        reading = self._forward(answers * prompt) / self._machine.flops
        steps = answers * tokens / ANSWERS_AT_ONCE
        per_step = max(
            self._weights / self._machine.memory_bandwidth,
            self._forward(ANSWERS_AT_ONCE, ANSWERS_AT_ONCE) / self._machine.flops,
        )
        return reading + steps * per_step

    def _seconds(self, operations: float, moved: float, more: float = 0.0) -> float:
        """Return start, loading, arithmetic, and bytes to and from the store."""
        loading = self._shape.parameters * self._shape.stored_bytes / 1e9
        moving = moved / self._machine.disk_bandwidth
        return START_SECONDS + loading + operations / self._machine.flops + moving + more

    @property
    def _key_value_bytes(self) -> int:
        """Bytes of keys and values of one token."""
        shape = self._shape
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * self._bytes

    def _hidden_states(self, rows: int) -> int:
        """Bytes of the dense model's hidden states before the answer tokens."""
        return int(rows * self._answer * self._shape.hidden_size * self._bytes)

    def _train_rows(self, read: int) -> int:
        """Return how many of the persona's examples are used where gradient steps read some."""
        return min(self._work.train, max(MAX_TRAIN_EXAMPLES, read))

    @property
    def _fine_tune_rows(self) -> int:
        tuning = self._spec.recovery.fine_tune
        return tuning.steps * tuning.batch_size if tuning.enabled else 0

    @property
    def _generic_rows(self) -> int:
        """General examples that are used."""
        limit = max(MAX_TRAIN_EXAMPLES, self._fine_tune_rows)
        return min(round(0.7 * self._work.generic), limit)

    @property
    def _closed_form_tokens(self) -> float:
        """Tokens that the closed-form methods read: the persona's answers and general ones."""
        work = self._work
        generic = self._generic_rows * (work.query_tokens + work.neutral_tokens)
        return self._train_rows(self._fine_tune_rows) * self._conversation + generic

    @property
    def _trained(self) -> int:
        """Weights that the fine-tuning trains; LoRA merges its adapters into copies of all."""
        shape = self._shape
        whole = shape.block_parameters - shape.ffn_parameters + self._kept_ffn
        choices = {"Down": self._down, "FFN": self._kept_ffn, "All": whole, "LoRA": whole}
        return choices[self._spec.recovery.fine_tune.weights]

    def _gram(self, tokens: float) -> float:
        """Operations of the refit's normal equations."""
        width, hidden = self._width, self._shape.hidden_size
        solving = 8 * (width**3 / 3 + 2 * width**2 * hidden)  # float64 has a fraction of the speed
        return self._shape.layers * (2 * tokens * width * (width + hidden) + solving)
