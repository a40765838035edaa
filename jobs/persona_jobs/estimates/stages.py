"""What each stage takes: the formulas behind `persona plan`, explained in docs/design/cost.md.

Memory is an upper bound for the device that computes; disk is what a stage leaves in the store,
and scratch what it needs on the way. Time follows from the number of operations and bytes, and is
as good as the speed that is assumed.
"""

from collections.abc import Callable

from .machine import StageEstimate
from .parts import ANSWERS_AT_ONCE, MIB, PROCESS_BYTES, START_SECONDS, Parts
from .workload import BYTES_PER_TOKEN, REFERENCE_PERSONA_BYTES, TASK_TOKENS

# These are the constants of the modules that do the work (tests compare them).
CHUNK_QUERIES = 128
MAX_VALIDATION_EXAMPLES = 512
MAX_TEST_EXAMPLES = 1000
MAX_EXPORT_EXAMPLES = 100
OTHER_QUESTIONS = 6
# Answers to each question that a judge is asked about: of two models, and three controls.
JUDGED_ANSWERS = 5
# Bits a weight, the scales of the blocks of 32 included.
EXPORT_BITS = {"F16": 16.0, "Q8_0": 8.5, "Q4_0": 4.5}
# Bytes of a JSON line beside its texts: a query, a scored query, an example, any other.
QUERY_LINE_BYTES = 28
SCORED_LINE_BYTES = 85
EXAMPLE_LINE_BYTES = 152
LINE_BYTES = 90
# The header of a small safetensors file.
HEADER_BYTES = 160
# Tokens per second of one request to an endpoint, and seconds before its first one.
ENDPOINT_TOKENS_PER_SECOND = 40.0
ENDPOINT_LATENCY = 1.0
# Fixed parts of results: tokenizer and configuration, report.
TOKENIZER_BYTES = 4 * MIB
REPORT_BYTES = 300_000


class Estimator(Parts):
    """The estimates of one spec."""

    def of(self, stage: str) -> StageEstimate:
        """Return what the stage takes.

        Raises:
            KeyError: there is no formula for a stage of this name.
        """
        formulas: dict[str, Callable[[], StageEstimate]] = {
            "reference": self._reference,
            "score": self._score,
            "rewrite": self._rewrite,
            "mask": self._mask,
            "recover": self._recover,
            "slice": self._slice,
            "evaluate": self._evaluate,
            "export": self._export,
        }
        return formulas[stage]()

    @property
    def _blocks(self) -> int:
        scoring = self._spec.scoring
        last = self._shape.layers - 1 if scoring.last_block is None else scoring.last_block
        return max(1, last - scoring.first_block + 1)

    def _scored_tokens(self, persona: float) -> float:
        chunks = -(-self._work.queries // CHUNK_QUERIES)
        return chunks * persona + self._work.queries * self._work.query_tokens

    def _vectors(self, queries: int) -> int:
        """Bytes of mean unit vectors: 16 bits a number and a scale for each vector."""
        return queries * self._blocks * (2 * self._shape.hidden_size + 4)

    def _reference(self) -> StageEstimate:
        work, count = self._work, self._spec.reference_personas.count
        persona = REFERENCE_PERSONA_BYTES / BYTES_PER_TOKEN
        texts = work.query_bytes + work.neutral_bytes
        queries = int(work.queries * (texts + QUERY_LINE_BYTES))
        vectors = self._vectors(work.queries)
        store = vectors + queries + count * (REFERENCE_PERSONA_BYTES + LINE_BYTES // 2)
        chunk = 4 * CHUNK_QUERIES * self._blocks * self._shape.hidden_size * 4
        memory = self._loaded + self._batch(persona) + chunk + 8 * queries
        operations = count * self._forward(self._scored_tokens(persona))
        # The file being written and the parts of it that are saved.
        return StageEstimate(
            seconds=self._seconds(operations, 2 * vectors),
            memory_bytes=memory,
            store_bytes=store,
            scratch_bytes=2 * vectors,
        )

    def _score(self) -> StageEstimate:
        work = self._work
        texts = work.query_bytes + work.neutral_bytes
        queries = int(work.queries * (texts + SCORED_LINE_BYTES))
        scores = work.queries * self._blocks * 4
        chunk = 4 * CHUNK_QUERIES * self._blocks * self._shape.hidden_size * 4
        persona = work.persona_tokens
        return StageEstimate(
            seconds=self._seconds(
                self._forward(self._scored_tokens(persona)), self._vectors(work.queries)
            ),
            memory_bytes=self._loaded + self._batch(persona) + chunk + 8 * queries,
            store_bytes=queries + scores,
            scratch_bytes=2 * scores,
        )

    def _example_bytes(self) -> float:
        """Bytes of an example: persona, query, answer, neutral answer."""
        work = self._work
        answer = self._answer * BYTES_PER_TOKEN
        texts = work.persona_bytes + work.query_bytes + answer + work.neutral_bytes
        return texts + EXAMPLE_LINE_BYTES

    def _rewrite(self) -> StageEstimate:
        work, teacher = self._work, self._spec.teacher
        store = int(work.answers * self._example_bytes())
        log = int(work.answers * (self._answer * BYTES_PER_TOKEN + 2 * LINE_BYTES))
        prompt = work.persona_tokens + work.query_tokens
        if teacher.strategy == "Rewrite":
            prompt += work.neutral_tokens + TASK_TOKENS
        if teacher.open_ai is None:
            waiting = self._generation(work.answers, prompt, self._answer)
            cache = ANSWERS_AT_ONCE * 2 * (prompt + teacher.max_tokens) * self._key_value_bytes
            return StageEstimate(
                seconds=self._seconds(0, store, waiting),
                memory_bytes=self._loaded + self._batch(prompt) + int(cache),
                store_bytes=store,
                scratch_bytes=2 * log,
            )
        each = ENDPOINT_LATENCY + self._answer / ENDPOINT_TOKENS_PER_SECOND
        waiting = each * work.answers / teacher.open_ai.max_concurrency
        return StageEstimate(
            seconds=START_SECONDS + waiting + store / self._machine.disk_bandwidth,
            memory_bytes=PROCESS_BYTES + 8 * store,
            store_bytes=store,
            scratch_bytes=2 * log,
            endpoint_tokens=int(work.answers * (prompt + self._answer)),
        )

    def _mask(self) -> StageEstimate:
        work, shape = self._work, self._shape
        learning = self._spec.pruning.straight_through
        with_scales = learning is not None and learning.scales
        scores = shape.layers * shape.intermediate_size
        store = scores * 4 + shape.layers * -(-shape.intermediate_size // 8) + 2 * HEADER_BYTES
        store += 4 * scores * with_scales
        operations, memory, scratch = self._ranking()
        if learning is None:
            return StageEstimate(
                seconds=self._seconds(operations, store),
                memory_bytes=memory,
                store_bytes=store,
                scratch_bytes=scratch,
            )
        held_out = min(work.validation, MAX_VALIDATION_EXAMPLES)
        rows = self._train_rows(learning.steps * learning.batch_size) + held_out
        operations += self._forward(rows * self._conversation)
        operations += self._training(learning.steps, min(work.train, learning.batch_size))
        operations += self._held_out(learning.steps, learning.evaluate_every, held_out)
        graph = self._graph(min(learning.micro_batch_size, work.train))
        state = (20 + 16 * with_scales) * scores
        return StageEstimate(
            seconds=self._seconds(operations, store),
            memory_bytes=memory + self._hidden_states(rows) + graph + 6 * 4 * scores,
            store_bytes=store,
            scratch_bytes=max(scratch, 2 * state),
        )

    def _ranking(self) -> tuple[float, int, int]:
        """Return operations, memory and scratch of the ranking that the mask starts from."""
        work, shape, pruning = self._work, self._shape, self._spec.pruning
        learning, size = pruning.straight_through, shape.intermediate_size
        memory = self._loaded + self._batch(work.persona_tokens)
        initial = learning.initialization if learning is not None else pruning.method
        if initial != "OptimalBrainSurgeon":
            read = learning.steps * learning.batch_size if learning is not None else 0
            return self._forward(self._train_rows(read) * self._conversation), memory, 0
        tokens = self._closed_form_tokens
        choice = 8 * 4 * size**3  # float64 has a fraction of the speed
        gram = 2 * tokens * size * (size + shape.hidden_size)
        operations = 3 * self._forward(tokens) + shape.layers * (gram + choice)
        block = 4 * (shape.block_parameters // shape.layers)
        memory += block + 8 * size * (5 * size + 3 * shape.hidden_size)
        # Streams before and after a layer, and the resume state on its way to the store.
        return operations, memory, int(6 * tokens * shape.hidden_size * 4)

    def _recovery(self) -> tuple[float, int, int]:
        """Return operations, memory beside the dense model, and scratch of a recovery."""
        work, shape, recovery = self._work, self._shape, self._spec.recovery
        tuning = recovery.fine_tune
        operations, memory, scratch = 0.0, self._kept_ffn * self._bytes, 0
        tokens = self._closed_form_tokens
        if recovery.refit.enabled:
            operations += 3 * self._forward(tokens) + self._gram(tokens)
            block = 4 * (shape.block_parameters // shape.layers) * 2
            gram = 8 * self._width * (5 * self._width + 3 * shape.hidden_size)
            memory += block + gram
            scratch += int(2 * tokens * shape.hidden_size * 4)
        rebuilding = recovery.reconstruct
        if rebuilding.enabled:
            # float32 weights of all blocks, and one block with gradients and moments.
            memory += 4 * self._kept_ffn + 20 * self._kept_ffn // shape.layers
            steps = rebuilding.steps * rebuilding.batch_tokens
            operations += 3 * self._forward(tokens) + 6 * self._kept_ffn * steps
            scratch = max(scratch, int(2 * tokens * shape.hidden_size * 4))
        if tuning.enabled:
            generic = min(round(0.1 * work.generic), MAX_VALIDATION_EXAMPLES)
            held_out = min(work.validation, MAX_VALIDATION_EXAMPLES) + generic
            rows = self._train_rows(self._fine_tune_rows) + self._generic_rows + held_out
            operations += self._forward(rows * self._conversation)
            operations += self._training(tuning.steps, tuning.batch_size)
            operations += self._held_out(tuning.steps, tuning.evaluate_every, held_out)
            trained = self._trained
            training = trained * (20 + 2 * self._bytes)
            memory += training + self._hidden_states(rows)
            memory += self._graph(min(tuning.micro_batch_size, tuning.batch_size))
            scratch += 2 * 16 * trained
        return operations, memory, scratch

    def _recover(self) -> StageEstimate:
        operations, memory, scratch = self._recovery()
        store = self._recovered * self._shape.stored_bytes + HEADER_BYTES
        return StageEstimate(
            seconds=self._seconds(operations, store + 2 * scratch),
            memory_bytes=self._loaded + self._batch(self._work.persona_tokens) + memory,
            store_bytes=store,
            scratch_bytes=scratch,
        )

    def _slice(self) -> StageEstimate:
        shape = self._shape
        removed = shape.ffn_parameters - self._kept_ffn
        store = (shape.parameters - removed) * shape.stored_bytes
        largest = shape.vocabulary * shape.hidden_size * shape.stored_bytes
        recovered = self._recovered * shape.stored_bytes
        return StageEstimate(
            seconds=self._seconds(0, store),
            memory_bytes=PROCESS_BYTES + 300 * MIB + 2 * largest + recovered,
            store_bytes=store + TOKENIZER_BYTES,
        )

    def _judge_tokens(self, questions: int) -> int:
        """Return the tokens that all judges read and write."""
        work, evaluation = self._work, self._spec.evaluation
        prompt = TASK_TOKENS + work.persona_tokens + work.query_tokens
        return sum(
            int(
                JUDGED_ANSWERS
                * min(questions, judge.max_questions or questions)
                * (prompt + evaluation.max_answer_tokens + judge.max_tokens)
            )
            for judge in evaluation.judges
        )

    def _evaluate(self) -> StageEstimate:
        work, evaluation = self._work, self._spec.evaluation
        recovery = self._spec.recovery
        recovered = recovery.refit, recovery.reconstruct, recovery.fine_tune
        variants = 2 + int(any(part.enabled for part in recovered))
        operations, memory, scratch = 0.0, self._kept_ffn * self._bytes, 0
        if evaluation.baseline:
            variants += 1
            operations, memory, scratch = self._recovery()
            scratch += self._recovered * self._bytes
            operations += self._forward(self._train_rows(self._fine_tune_rows) * self._conversation)
        held_out = min(work.test, MAX_TEST_EXAMPLES) + evaluation.generic_samples
        questions = evaluation.max_queries
        if not evaluation.question_files:
            questions = min(questions, work.test)
        answer = float(evaluation.max_answer_tokens)
        operations += variants * self._forward(
            held_out * self._conversation, 2 * held_out * self._answer
        )
        answers = questions * evaluation.samples_per_question
        prompts = work.persona_tokens + questions * work.query_tokens
        read = variants * answers * answer
        personas = 1 + self._spec.reference_personas.count
        others = max(0, min(OTHER_QUESTIONS, questions - 1))
        operations += personas * self._forward(prompts + read, read)
        operations += self._forward(prompts + others * read, others * read)
        writing = variants * self._generation(answers, work.query_tokens, answer)
        cache = ANSWERS_AT_ONCE * 2 * (work.query_tokens + answer) * self._key_value_bytes
        return StageEstimate(
            seconds=self._seconds(operations, 2 * scratch, writing + 15),
            memory_bytes=self._loaded
            + self._batch(work.persona_tokens)
            + memory
            + self._hidden_states(2 * held_out)
            + int(cache),
            endpoint_tokens=self._judge_tokens(questions),
            store_bytes=REPORT_BYTES + int(read * BYTES_PER_TOKEN),
            scratch_bytes=scratch,
        )

    def _export(self) -> StageEstimate:
        work, shape = self._work, self._shape
        weights = shape.parameters - (shape.ffn_parameters - self._kept_ffn)
        names = [export.quantization for export in self._spec.exports]
        vocabulary = shape.vocabulary * shape.hidden_size
        store = len(names) * TOKENIZER_BYTES
        for bits in (EXPORT_BITS[name] for name in names):
            # The vocabulary's weights have 8 bits at least.
            store += int((bits * (weights - vocabulary) + max(bits, 8.5) * vocabulary) / 8)
        measured = min(work.test, MAX_EXPORT_EXAMPLES)
        operations = (1 + len(names)) * self._forward(
            measured * self._conversation, measured * self._answer
        )
        # Rounding takes a few dozen operations a weight on one core.
        rounding = len(names) * weights / 30e6
        return StageEstimate(
            seconds=self._seconds(operations, store, rounding),
            memory_bytes=PROCESS_BYTES + 4 * weights + self._batch(work.persona_tokens),
            store_bytes=store,
        )
