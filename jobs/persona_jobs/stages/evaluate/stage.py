"""evaluate: measure the sliced model beside the dense one.

Writes `metrics.json` (`pipeline.results.EvaluationMetrics`), `samples.jsonl`
(`evaluation.samples.SampleLine`), `shown.jsonl` (`pipeline.results.ShownAnswers`),
`report.html` and, with judges, `judgements.jsonl` (`stages.evaluate.judging.JudgementLine`).

Tokens through a model, with V = dense, sliced, recovered and baseline, as far as they exist:
answers V Q (q + t), losses V N c, persona score as in `evaluation.persona_score`; see also
`evaluation.losses`. The masked model computes the same function as
the sliced one: they are compared on one batch and share their measurements, except the speed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from ...dataset import (
    Example,
    ReferencePersona,
    ScoredQuery,
    generic_split,
    read_jsonl,
    write_jsonl,
)
from ...errors import InputError
from ...evaluation import questions as question_choice
from ...evaluation.bootstrap import differences, intervals, retentions
from ...evaluation.measurements import Measurements, with_masked
from ...evaluation.persona_score import (
    Likelihoods,
    ScoredAnswer,
    chance_level,
    mean_figures,
    passes,
    question_scores,
    score_answers,
)
from ...evaluation.questions import Question
from ...evaluation.report import render
from ...evaluation.report.notes import measurement_notes
from ...evaluation.samples import given_answer, sample_lines, shown_lines
from ...models import chat
from ...models.loading import load_config, load_tokenizer
from ...pipeline.context import StageContext, StageOutcome
from ...pipeline.results import EvaluationMetrics, Variant
from ...training.tokens import tokenize
from ..common import (
    base_directory,
    chosen_compute,
    chosen_persona,
    environment,
    question_files,
)
from .answers import ANSWER_TEMPERATURE
from .controls import answer_as_controls
from .judging import judge_answers
from .parts import PartStore
from .report import report_data
from .variants import Material, measure_variants

Prompt = Callable[[str, str], list[int]]
HELD_OUT = "held-out queries of the persona"
# Enough for a steady mean; bounds the time for a huge data set.
MAX_HELD_OUT_EXAMPLES = 1000
ALL_VARIANTS: tuple[Variant, ...] = ("dense", "masked", "sliced", "recovered", "baseline")


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
    persona = chosen_persona(context).text
    personas = [persona, *_references(context, persona)]
    compute = chosen_compute(context)
    directory = base_directory(context)
    tokenizer, limit = load_tokenizer(directory), _context_limit(load_config(directory))
    prompt = lru_cache(maxsize=16_384)(partial(_prompt, tokenizer))
    questions = _questions(context, held_out, personas, prompt, limit)
    # Each question is asked again with other random numbers, after all of them.
    asked = [question.query for question in questions] * spec.evaluation.samples_per_question
    shown = _shown_questions(context, partial(prompt, persona), limit)
    generic = generic_split(queries)["test"][: spec.evaluation.generic_samples]
    persona_set = tokenize(tokenizer, held_out[:MAX_HELD_OUT_EXAMPLES], max_tokens=limit)
    generic_set = tokenize(tokenizer, generic, max_tokens=limit)
    sets = {"persona": persona_set, "generic": generic_set}
    material = Material(
        tokenizer,
        [prompt(persona, query) for query in (*asked, *shown)],
        {name: data for name, data in sets.items() if len(data)},
    )
    store = PartStore(context)
    with store.working():
        with clock.part("variants"):
            models = measure_variants(context, compute, material, store)
        with clock.part("personaScore"):
            scored = _scored(context, models.dense, store, prompt, tokenizer, personas, questions)
        if spec.evaluation.judges:
            with clock.part("controls"):
                answer_as_controls(
                    context, models.dense, tokenizer, prompt, personas, questions, store
                )
        store.keep()
        with clock.part("judges"):
            judges = judge_answers(context, persona, questions, store.parts, models.served)
    parts = store.parts
    count = len(asked)
    answers = {name: parts.answers[name][:count] for name in scored}
    percent = {name: question_scores(row, len(questions)) for name, row in scored.items()}
    scores = intervals(percent, samples=spec.evaluation.bootstrap_samples, seed=spec.seed)
    against_dense = differences(percent, "dense")
    measured = Measurements(
        sizes={name: parts.sizes[name] for name in ALL_VARIANTS if name in parts.sizes},
        scores=with_masked(scores),
        retentions=with_masked(retentions(percent, "dense")),
        figures=with_masked({name: mean_figures(row) for name, row in scored.items()}),
        persona=with_masked(parts.persona_losses),
        generic=with_masked(parts.generic_losses),
        speeds=models.speeds,
    )
    metrics = EvaluationMetrics(
        served=models.served,
        chance_persona_score=round(chance_level(len(personas) - 1), 2),
        queries=len(questions),
        answers_per_query=spec.evaluation.samples_per_question,
        variants={name: measured.of(name) for name in measured.sizes},
        judges=judges,
    )
    samples = sample_lines(questions, answers, scored)
    write_jsonl(context.output / "samples.jsonl", samples)
    unmeasured = {name: parts.answers[name][count:] for name in scored}
    write_jsonl(context.output / "shown.jsonl", shown_lines(shown, unmeasured))
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
        speed_rounds=max(speed.rounds for speed in models.speeds.values()),
        mask_difference=parts.mask_difference,
    )
    report = report_data(
        context,
        models,
        metrics,
        samples,
        persona=persona,
        queries=queries,
        differences=against_dense,
        speeds=models.speeds,
        notes=notes,
        environment=environment(compute),
    )
    (context.output / "report.html").write_text(render(report), encoding="utf-8")
    return StageOutcome(
        results=metrics.model_dump(mode="json", by_alias=True, exclude_none=True),
        timings=clock.seconds,
        environment=environment(compute),
    )


def _references(context: StageContext, target: str) -> list[str]:
    """Return the reference personas' texts, without the target persona itself."""
    path = context.input_file("reference", "personas.jsonl")
    texts = [persona.text for persona in read_jsonl(path, ReferencePersona)]
    return [text for text in texts if text.strip() != target.strip()]


def _context_limit(config: Any) -> int:
    return int(getattr(config, "max_position_embeddings", None) or 1 << 30)


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
    # Out of its conversation, a later question may mean nothing.
    opening = [example.query for example in held_out if not example.history]
    sources: dict[str, Sequence[str]] = {HELD_OUT: opening}
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


def _shown_questions(
    context: StageContext, prompt: Callable[[str], list[int]], limit: int
) -> list[str]:
    """Return the questions to show that fit into the model's context with an answer."""
    evaluation = context.spec.evaluation
    longest = limit - evaluation.max_answer_tokens
    return [query for query in evaluation.shown_questions if len(prompt(query)) <= longest]


def _scored(
    context: StageContext,
    dense: Any,
    store: PartStore,
    prompt: Prompt,
    tokenizer: Any,
    personas: Sequence[str],
    questions: Sequence[Question],
) -> dict[Variant, list[ScoredAnswer]]:
    """Score every variant's answers with the dense model; the target persona comes first."""
    count = len(questions) * context.spec.evaluation.samples_per_question
    answers = {
        name: store.parts.answers[name][:count]
        for name in ALL_VARIANTS
        if name in store.parts.answers
    }
    given = {
        name: [
            given_answer(questions[index % len(questions)].query, answer, tokenizer.eos_token_id)
            for index, answer in enumerate(row)
        ]
        for name, row in answers.items()
    }
    all_answers = [answer for row in given.values() for answer in row]
    context.progress.begin("answers x prompts", passes(all_answers, len(personas)))
    known = Likelihoods(store.parts.by_persona, store.parts.other_questions)
    context.progress.advance(sum(len(row) for row in known.by_persona.values()))
    context.progress.advance(sum(len(row) for row in known.other_questions))
    scored = score_answers(
        dense,
        prompt,
        personas,
        all_answers,
        given["dense"],
        sources=[
            tokenizer.encode(start + personas[0], add_special_tokens=False) for start in ("", " ")
        ],
        finished=known,
        on_part=store.part_done,
        on_rows=context.advance,
    )
    flat = iter(scored)
    return {name: [next(flat) for _ in row] for name, row in given.items()}
