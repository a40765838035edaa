"""evaluate: measure the sliced model beside the dense one.

Writes `metrics.json` (`pipeline.results.EvaluationMetrics`), `samples.jsonl`
(`evaluation.samples.SampleLine`) and `report.html`.

Tokens through a model, with V = dense, sliced, recovered and baseline, as far as they exist:
answers V Q (q + t), persona score (r + 1)(p + V Q (q + t)), losses V N c; see
`evaluation.persona_score` and `evaluation.losses`. The masked model computes the same function as
the sliced one: they are compared on one batch and share their measurements, except the speed.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import torch

from ...dataset import (
    Example,
    ReferencePersona,
    ScoredQuery,
    generic_split,
    read_jsonl,
    write_jsonl,
)
from ...errors import CorruptArtifactError, InputError
from ...evaluation import questions as question_choice
from ...evaluation.bootstrap import differences, intervals
from ...evaluation.losses import HeldOutLoss, held_out_losses, mask_difference
from ...evaluation.measurements import Measurements, with_masked
from ...evaluation.persona_score import (
    ScoredAnswer,
    chance_level,
    distinct_answers,
    score_answers,
)
from ...evaluation.questions import Question
from ...evaluation.report import render
from ...evaluation.report.notes import measurement_notes
from ...evaluation.samples import given_answer, sample_lines
from ...evaluation.speed import Runnable, Speed, measure
from ...models import chat
from ...models.compute import Compute
from ...models.generation import Generated, generate
from ...models.masking import masked
from ...pipeline.context import StageContext, StageOutcome
from ...pipeline.results import EvaluationMetrics, Variant
from ...training.tokens import TokenizedSet, tokenize
from ..common import chosen_compute, environment, question_files
from .report import report_data
from .variants import Models, load_models

Prompt = Callable[[str, str], list[int]]
HELD_OUT = "held-out queries of the persona"
# Small models loop when they decode greedily, and a loop shows little of the persona.
ANSWER_TEMPERATURE = 0.7
# Enough for a steady mean; bounds the time for a huge data set.
MAX_HELD_OUT_EXAMPLES = 1000
# Log-probabilities of a masked and a sliced float32 model differ only by rounding.
MASK_TOLERANCE = 0.01


@dataclass
class Clock:
    """Seconds by part of the stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the body of the `with` statement."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def run(context: StageContext) -> StageOutcome:
    """Write the stage's files."""
    spec, clock = context.spec, Clock()
    queries = read_jsonl(context.input_file("score", "queries.jsonl"), ScoredQuery)
    held_out = read_jsonl(context.input_file("rewrite", "test.jsonl"), Example)
    personas = [context.persona_text, *_references(context)]
    compute = chosen_compute(context)
    with clock.part("models"):
        models, tokenizer = load_models(context, compute)
    prompt = lru_cache(maxsize=16_384)(partial(_prompt, tokenizer))
    limit = _context_limit(models.running["dense"])
    questions = _questions(context, held_out, personas, prompt, limit)
    with clock.part("losses"):
        generic = generic_split(queries)["test"][: spec.evaluation.generic_samples]
        persona_set = tokenize(tokenizer, held_out[:MAX_HELD_OUT_EXAMPLES], max_tokens=limit)
        generic_set = tokenize(tokenizer, generic, max_tokens=limit)
        difference = _check_mask(models, persona_set if len(persona_set) else generic_set, compute)
        persona_losses = _losses(context, models, persona_set, "persona losses")
        generic_losses = _losses(context, models, generic_set, "generic losses")
    with clock.part("answers"):
        prompts = [prompt(context.persona_text, question.query) for question in questions]
        answers = _answers(context, models, tokenizer, prompts)
    with clock.part("personaScore"):
        scored = _scored(
            context, models, prompt, tokenizer.eos_token_id, personas, questions, answers
        )
        resampling = {"samples": spec.evaluation.bootstrap_samples, "seed": spec.seed}
        percent = {name: [100 * answer.posterior for answer in row] for name, row in scored.items()}
        scores = intervals(percent, **resampling)
        against_dense = differences(percent, "dense", **resampling)
    with clock.part("speed"):
        speeds = _speeds(context, models)
    measured = Measurements(
        sizes=models.sizes,
        scores=with_masked(scores),
        persona=with_masked(persona_losses),
        generic=with_masked(generic_losses),
        speeds=speeds,
    )
    metrics = EvaluationMetrics(
        served=models.served,
        chance_persona_score=round(chance_level(len(personas) - 1), 2),
        queries=len(questions),
        variants={name: measured.of(name) for name in models.sizes},
    )
    samples = sample_lines(questions, answers, scored)
    write_jsonl(context.output / "samples.jsonl", samples)
    (context.output / "metrics.json").write_text(
        metrics.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n",
        encoding="utf-8",
    )
    notes = measurement_notes(
        temperature=ANSWER_TEMPERATURE,
        max_answer_tokens=spec.evaluation.max_answer_tokens,
        seed=spec.seed,
        bootstrap_samples=spec.evaluation.bootstrap_samples,
        persona_examples=len(persona_set),
        generic_examples=len(generic_set),
        speed_rounds=max(speed.rounds for speed in speeds.values()),
        mask_difference=difference,
    )
    report = report_data(
        context,
        models,
        metrics,
        samples,
        queries=queries,
        differences=against_dense,
        speeds=speeds,
        notes=notes,
        environment=environment(compute),
    )
    (context.output / "report.html").write_text(render(report), encoding="utf-8")
    return StageOutcome(
        results=metrics.model_dump(mode="json", by_alias=True, exclude_none=True),
        timings=clock.seconds,
        environment=environment(compute),
    )


def _references(context: StageContext) -> list[str]:
    """Return the reference personas' texts, without the target persona itself."""
    path = context.input_file("reference", "personas.jsonl")
    texts = [persona.text for persona in read_jsonl(path, ReferencePersona)]
    return [text for text in texts if text.strip() != context.persona_text.strip()]


def _context_limit(model: Any) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)


def _prompt(tokenizer: Any, system: str, query: str) -> list[int]:
    return chat.render(tokenizer, chat.messages(system, query), add_generation_prompt=True)


def _questions(
    context: StageContext,
    held_out: Sequence[Example],
    personas: Sequence[str],
    prompt: Prompt,
    limit: int,
) -> list[Question]:
    """Return the questions that fit into the model's context with any persona and an answer."""
    evaluation = context.spec.evaluation
    sources: dict[str, Sequence[str]] = {HELD_OUT: [example.query for example in held_out]}
    sources |= question_files(context)
    chosen = question_choice.choose(sources, evaluation.max_queries)
    if not chosen:
        raise InputError(
            "There is no question to answer: the persona's data has no held-out queries",
            hint="Raise spec.dataset.testPercent, or name a file in spec.evaluation.questionFiles",
            subject="spec.evaluation",
        )
    fitting = question_choice.fitting(
        chosen,
        personas,
        lambda system, query: len(prompt(system, query)),
        limit - evaluation.max_answer_tokens,
    )
    if not fitting:
        raise InputError(
            f"No question fits into the model's context of {limit} tokens together with every "
            f"persona and {evaluation.max_answer_tokens} answer tokens",
            hint="Lower maxAnswerTokens, or shorten the persona and the reference personas",
            subject="spec.evaluation.maxAnswerTokens",
        )
    if len(fitting) < len(chosen):
        context.progress.note(
            f"{len(chosen) - len(fitting)} questions are too long for the model's context"
        )
    return fitting


def _check_mask(models: Models, data: TokenizedSet, compute: Compute) -> float | None:
    """Return the largest difference between masked and sliced model in log-probabilities.

    Raises:
        CorruptArtifactError: the sliced checkpoint was made with another mask.
    """
    if not len(data):
        return None
    mask = models.mask.bits.float()
    if models.mask.scales is not None:
        mask = mask * models.mask.scales
    dense, sliced = models.running["dense"], models.running["sliced"]
    difference = mask_difference(dense, mask, sliced, data, range(min(4, len(data))))
    if compute.dtype == torch.float32 and not difference <= MASK_TOLERANCE:
        raise CorruptArtifactError(
            "The sliced checkpoint does not match the mask: their log-probabilities differ by "
            f"{difference:.3g}",
            hint="Delete the slice stage's folder in the store and run again",
            subject="model.safetensors",
        )
    return difference


def _losses(
    context: StageContext, models: Models, data: TokenizedSet, what: str
) -> dict[Variant, HeldOutLoss]:
    if not len(data):
        return {}
    context.progress.begin(what, len(data))
    others: dict[Variant, Any] = {n: m for n, m in models.running.items() if n != "dense"}
    dense, measured = held_out_losses(
        models.running["dense"], others, data, on_rows=context.advance
    )
    return {"dense": dense, **measured}


def _answers(
    context: StageContext, models: Models, tokenizer: Any, prompts: list[list[int]]
) -> dict[Variant, list[Generated]]:
    """Sample every running variant's answers with the same random numbers."""
    context.progress.begin("answers", len(models.running) * len(prompts))
    return {
        name: generate(
            model,
            tokenizer,
            prompts,
            max_new_tokens=context.spec.evaluation.max_answer_tokens,
            temperature=ANSWER_TEMPERATURE,
            seed=context.spec.seed,
            on_answer=lambda *_: context.advance(),
        )
        for name, model in models.running.items()
    }


def _scored(
    context: StageContext,
    models: Models,
    prompt: Prompt,
    end_of_turn: int | None,
    personas: Sequence[str],
    questions: Sequence[Question],
    answers: Mapping[Variant, Sequence[Generated]],
) -> dict[Variant, list[ScoredAnswer]]:
    """Score every variant's answers with the dense model; the target persona comes first."""
    target, *references = personas
    given = [
        given_answer(question.query, answer, end_of_turn)
        for row in answers.values()
        for question, answer in zip(questions, row, strict=True)
    ]
    context.progress.begin("answers x personas", len(distinct_answers(given)) * len(personas))
    flat = score_answers(
        models.running["dense"], prompt, target, references, given, on_rows=context.advance
    )
    count = len(questions)
    return {name: flat[index * count : (index + 1) * count] for index, name in enumerate(answers)}


def _speeds(context: StageContext, models: Models) -> dict[Variant, Speed]:
    """Measure dense, masked and served; the other sliced models have the served one's shapes."""
    dense = models.running["dense"]
    runnable: dict[Variant, Runnable] = {
        "dense": Runnable(dense),
        "masked": Runnable(dense, partial(masked, dense, models.mask.bits)),
        models.served: Runnable(models.running[models.served]),
    }
    context.progress.begin("speed", 1)
    speeds = measure(runnable, before_each=context.stop.check)
    context.progress.advance()
    return speeds
