"""evaluate: measure the cut model beside the dense one, without a judge.

Writes `metrics.json` (`results.EvaluationMetrics`), `samples.jsonl`
(`evaluation.report_parts.SampleLine`) and `report.html`.

Work in tokens through a model, V = dense, sliced, recovered, baseline (those that there are):
answers V Q (q + t), persona score (r + 1)(p + V Q (q + t)), losses V N c; see
`evaluation.persona_score` and `evaluation.losses`. The masked model is the sliced one: they
are compared on one batch and share their measurements, except the speed.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, TypeVar, cast

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
from ...evaluation.measurements import Measurements
from ...evaluation.persona_score import GivenAnswer, JudgedAnswer, chance_level, judge_answers
from ...evaluation.questions import Question
from ...evaluation.report import render
from ...evaluation.report.parts import SampleLine, rounded
from ...evaluation.speed import DECODE_TOKENS, PROMPT_TOKENS, Runnable, Speed, measure
from ...models import chat
from ...models.compute import Compute
from ...models.generation import Generated, generate
from ...models.masking import masked
from ...pipeline.context import StageContext, StageOutcome
from ...pipeline.results import EvaluationMetrics, Variant
from ...sources import evaluation_files
from ...training.tokens import TokenizedSet, tokenize
from ..common import chosen_compute, environment
from .report import report_data
from .variants import Models, advance_and_check, load_models

Value = TypeVar("Value")
HELD_OUT = "held-out queries of the persona"
ANSWER_TEMPERATURE = 0.7
# Enough for a steady mean; bounds the time where the data set is huge.
MAX_HELD_OUT_EXAMPLES = 1000
# Log-probabilities of a masked and a cut float32 model differ by rounding only.
MASK_TOLERANCE = 0.01


@dataclass
class Clock:
    """Seconds by part of the stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def run(context: StageContext) -> StageOutcome:
    """Make the stage's files."""
    spec, clock = context.spec, Clock()
    persona = spec.persona.text
    if persona is None:
        raise InputError("is not resolved", subject="spec.persona.configMapRef")
    queries = read_jsonl(context.input_file("score", "queries.jsonl"), ScoredQuery)
    held_out = read_jsonl(context.input_file("rewrite", "test.jsonl"), Example)
    references = [
        r.text
        for r in read_jsonl(context.input_file("reference", "personas.jsonl"), ReferencePersona)
        if r.text.strip() != persona.strip()
    ]
    compute = chosen_compute(context)
    with clock.part("models"):
        models, tokenizer = load_models(context, compute)
    dense = models.running["dense"]
    prompt = lru_cache(maxsize=16_384)(partial(_prompt, tokenizer))
    limit = _context_limit(dense)
    chosen = _questions(context, held_out, [persona, *references], prompt, limit)
    with clock.part("losses"):
        generic = generic_split(queries)["test"][: spec.evaluation.generic_samples]
        persona_set = tokenize(tokenizer, held_out[:MAX_HELD_OUT_EXAMPLES], max_tokens=limit)
        generic_set = tokenize(tokenizer, generic, max_tokens=limit)
        difference = _check_mask(models, persona_set if len(persona_set) else generic_set, compute)
        persona_losses = _losses(context, models, persona_set, "persona losses")
        generic_losses = _losses(context, models, generic_set, "generic losses")
    with clock.part("answers"):
        answers = _answers(context, models, tokenizer, [prompt(persona, q.query) for q in chosen])
    with clock.part("personaScore"):
        judged = _judged(
            context, dense, prompt, tokenizer.eos_token_id, [persona, *references], chosen, answers
        )
        resampling = {"samples": spec.evaluation.bootstrap_samples, "seed": spec.seed}
        percent = {name: [100 * answer.posterior for answer in row] for name, row in judged.items()}
        scores = intervals(percent, **resampling)
        against_dense = differences(percent, "dense", **resampling)
    with clock.part("speed"):
        speeds = _speeds(context, models)
    measured = Measurements(
        sizes=models.sizes,
        scores=_with_masked(scores),
        persona=_with_masked(persona_losses),
        generic=_with_masked(generic_losses),
        speeds=speeds,
    )
    metrics = EvaluationMetrics(
        served=models.served,
        chance_persona_score=round(chance_level(len(references)), 2),
        queries=len(chosen),
        variants={name: measured.of(name) for name in models.sizes},
    )
    lines = _sample_lines(chosen, answers, judged)
    write_jsonl(context.output / "samples.jsonl", lines)
    (context.output / "metrics.json").write_text(
        metrics.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n",
        encoding="utf-8",
    )
    report = report_data(
        context,
        models,
        metrics,
        lines,
        queries=queries,
        differences=against_dense,
        notes=_notes(context, difference, len(persona_set), len(generic_set), speeds),
        machine=environment(compute),
    )
    (context.output / "report.html").write_text(render(report), encoding="utf-8")
    return StageOutcome(
        metrics=metrics.model_dump(mode="json", by_alias=True, exclude_none=True),
        timings=clock.seconds,
        environment=environment(compute),
    )


def _context_limit(model: Any) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)


def _prompt(tokenizer: Any, system: str, query: str) -> list[int]:
    return chat.render(tokenizer, chat.messages(system, query), add_generation_prompt=True)


def _questions(
    context: StageContext,
    held_out: Sequence[Example],
    personas: Sequence[str],
    prompt: Callable[[str, str], list[int]],
    limit: int,
) -> list[Question]:
    """The questions, those that fit into the model's context with every persona and an answer."""
    evaluation = context.spec.evaluation
    sources: dict[str, Sequence[str]] = {HELD_OUT: [example.query for example in held_out]}
    for file in evaluation.question_files:
        sources[file.uri] = evaluation_files.load(file.uri, cache_dir=context.cache).questions
    chosen = question_choice.choose(sources, evaluation.max_queries)
    if not chosen:
        raise InputError(
            "there is no question to answer: the persona's data has no held-out queries",
            hint="Raise spec.dataset.testPercent, or name a file in spec.evaluation.questionFiles",
            subject="spec.evaluation",
        )
    longest = max(personas, key=lambda persona: len(prompt(persona, chosen[0].query)))
    room = limit - evaluation.max_answer_tokens
    fitting = [question for question in chosen if len(prompt(longest, question.query)) <= room]
    if not fitting:
        raise InputError(
            f"no question fits with every persona and {evaluation.max_answer_tokens} answer tokens "
            f"into the model's context of {limit} tokens",
            hint="Lower maxAnswerTokens, or shorten the persona and the reference personas",
            subject="spec.evaluation.maxAnswerTokens",
        )
    if len(fitting) < len(chosen):
        context.progress.note(
            f"{len(chosen) - len(fitting)} questions are too long for the model's context"
        )
    return fitting


def _check_mask(models: Models, data: TokenizedSet, compute: Compute) -> float | None:
    """Largest difference between the masked and the sliced model's log-probabilities."""
    if not len(data):
        return None
    mask = models.mask.bits.float()
    if models.mask.scales is not None:
        mask = mask * models.mask.scales
    dense = models.running["dense"]
    difference = mask_difference(
        dense, mask, models.running["sliced"], data, range(min(4, len(data)))
    )
    if compute.dtype == torch.float32 and not difference <= MASK_TOLERANCE:
        raise CorruptArtifactError(
            "the sliced checkpoint does not compute what the mask says: log-probabilities differ "
            f"by {difference:.3g}",
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
        models.running["dense"], others, data, on_rows=advance_and_check(context)
    )
    return {"dense": dense, **measured}


def _answers(
    context: StageContext, models: Models, tokenizer: Any, prompts: list[list[int]]
) -> dict[Variant, list[Generated]]:
    """Every running variant's sampled answers.

    Small models loop when they decode greedily, and a loop says little of the persona. All variants
    draw the same random numbers for a question, so that chance is shared too.
    """
    context.progress.begin("answers", len(models.running) * len(prompts))
    advance = advance_and_check(context)
    return {
        name: generate(
            model,
            tokenizer,
            prompts,
            max_new_tokens=context.spec.evaluation.max_answer_tokens,
            temperature=ANSWER_TEMPERATURE,
            seed=context.spec.seed,
            on_answer=lambda *_: advance(1),
        )
        for name, model in models.running.items()
    }


def _judged(
    context: StageContext,
    dense: Any,
    prompt: Callable[[str, str], list[int]],
    end_of_turn: int | None,
    personas: Sequence[str],
    chosen: Sequence[Question],
    answers: Mapping[Variant, Sequence[Generated]],
) -> dict[Variant, list[JudgedAnswer]]:
    """What the dense model makes of every variant's answers; the target comes first."""
    persona, *references = personas
    given = [
        _given(question.query, answer, end_of_turn)
        for row in answers.values()
        for question, answer in zip(chosen, row, strict=True)
    ]
    distinct = len({answer for answer in given if not answer.empty})
    context.progress.begin("answers x personas", distinct * (len(references) + 1))
    flat = judge_answers(
        dense, prompt, persona, references, given, on_rows=advance_and_check(context)
    )
    count = len(chosen)
    return {name: flat[index * count : (index + 1) * count] for index, name in enumerate(answers)}


def _given(query: str, answer: Generated, end_of_turn: int | None) -> GivenAnswer:
    """The answer with the token that ended it, which was the model's choice too."""
    ended = answer.finished and end_of_turn is not None
    ids = (*answer.ids, end_of_turn) if ended else tuple(answer.ids)
    return GivenAnswer(query, cast(tuple[int, ...], ids), empty=not answer.text.strip())


def _speeds(context: StageContext, models: Models) -> dict[Variant, Speed]:
    """Speed of dense, masked, sliced and recovered; the baseline has the sliced one's shapes."""
    dense = models.running["dense"]
    runnable: dict[Variant, Runnable] = {
        "dense": Runnable(dense),
        "masked": Runnable(dense, partial(masked, dense, models.mask.bits)),
        **{
            name: Runnable(model)
            for name, model in models.running.items()
            if name not in ("dense", "baseline")
        },
    }
    context.progress.begin("speed", 1)
    speeds = measure(runnable, before_each=context.stop.check)
    context.progress.advance()
    return speeds


def _with_masked(measured: Mapping[Variant, Value]) -> dict[Variant, Value]:
    """Add the masked model, which computes what the sliced one does."""
    if "sliced" not in measured:
        return dict(measured)
    return {**measured, "masked": measured["sliced"]}


def _sample_lines(
    chosen: Sequence[Question],
    answers: Mapping[Variant, Sequence[Generated]],
    judged: Mapping[Variant, Sequence[JudgedAnswer]],
) -> list[SampleLine]:
    return [
        SampleLine(
            query=question.query,
            source=question.source,
            answers={name: row[index].text for name, row in answers.items()},
            posteriors={name: round(row[index].posterior, 6) for name, row in judged.items()},
            losses={name: rounded(row[index].loss) for name, row in judged.items()},
            finished={name: row[index].finished for name, row in answers.items()},
        )
        for index, question in enumerate(chosen)
    ]


def _notes(
    context: StageContext,
    difference: float | None,
    persona_examples: int,
    generic_examples: int,
    speeds: Mapping[Variant, Speed],
) -> list[str]:
    """How the numbers were made."""
    evaluation = context.spec.evaluation
    rounds = max(speed.rounds for speed in speeds.values())
    notes = [
        f"Answers are sampled at temperature {ANSWER_TEMPERATURE}, at most "
        f"{evaluation.max_answer_tokens} tokens each; every variant draws the same random numbers "
        f"for a question (seed {context.spec.seed}).",
        "Persona score: posterior of the target persona among target and reference personas with "
        "a uniform prior, from the dense model's probability of the whole answer under each "
        "system prompt. An empty answer counts as chance. The loss of the answers given is from "
        "the same pass: a broken model's babble is unlikely under any persona.",
        f"95 % intervals: percentile bootstrap over the questions, {evaluation.bootstrap_samples} "
        "resamples, the same ones for every variant. They say nothing of other personas or seeds.",
        f"Persona loss and KL: {persona_examples} held-out conversations of the persona. Generic "
        f"loss and KL: {generic_examples} held-out instructions without the persona.",
        f"Speed: prompt of {PROMPT_TOKENS} tokens, {DECODE_TOKENS} tokens decoded, batch of one, "
        f"medians of {rounds} rounds in alternation. The baseline has the sliced model's shapes "
        "and is not timed.",
    ]
    if difference is not None:
        notes.append(
            "The masked model computes what the sliced one does: on one batch their "
            f"log-probabilities differ by at most {difference:.2g}. Both share one measurement of "
            "score and losses; a masked model saves no computation."
        )
    return notes
