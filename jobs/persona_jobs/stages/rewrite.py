"""rewrite: the teacher answers the kept queries as the persona; the answers become the data set.

Conversations that the user gave join it as they are, before the teacher's answers.

Writes `train.jsonl`, `validation.jsonl` and `test.jsonl` (chat messages: the persona as
system message, the query, the answer) and `report.json` with the dropped answers by reason.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import JsonValue

from ..api.endpoint import TEACHER_KEY_VARIABLE, Endpoint
from ..api.training import Teacher as TeacherSettings
from ..dataset import Message, ScoredQuery, read_jsonl, write_jsonl
from ..endpoints import ChatAnswer
from ..endpoints.backoff import Backoff
from ..endpoints.client import ChatEndpoint, api_key
from ..errors import InputError, PersonaError, StageInterruptedError
from ..models import chat
from ..models.loading import load_tokenizer
from ..models.special_tokens import special_tokens
from ..pipeline.context import StageContext, StageOutcome
from ..pipeline.graph import ANSWERS, answers_key
from ..rewriting import answer_log, splitting
from ..rewriting.assembly import Assembly, assemble, check_yield
from ..rewriting.given_examples import GivenExamples, given_examples
from ..rewriting.requests import Prompt, WantedAnswer, wanted_answers, without_special_tokens
from ..rewriting.teacher import Teacher, prompts
from ..rewriting.teacher.base_model import BaseModelTeacher
from ..training.tokens import conversation_of
from .common import (
    ChosenPersona,
    base_directory,
    chosen_persona,
    environment,
    file_questions,
    load_base,
)
from .control import SaveTimer

# Tokens that every conversation must leave for its answer.
_MIN_ANSWER_TOKENS = 16
# Answers are paid for: a process that is killed loses those of this time, or of twenty times the
# time that saving takes.
_SAVE_SECONDS = 30.0


@dataclass(frozen=True)
class _Voice:
    """The teacher, its prompt, and the base model's tokenizer, which counts tokens."""

    teacher: Teacher
    prompt: Prompt
    tokenizer: Any
    environment: dict[str, JsonValue]


def run(context: StageContext) -> StageOutcome:
    """Write the stage's files.

    Raises:
        InputError: too few queries, a persona too long for `spec.dataset.maxTokens`, a teacher
            that can't be used as configured, or too few usable answers.
        EndpointError: the teacher keeps failing; finished answers are kept.
        StageInterruptedError: a stop was requested; finished answers are kept.
    """
    spec = context.spec
    chosen = chosen_persona(context)
    persona = chosen.text
    for note in chosen.notes:
        context.progress.note(note)
    voice = _voice(context, persona)
    special = special_tokens(voice.tokenizer)
    count_tokens = partial(_count_tokens, voice.tokenizer, persona)
    excluded = file_questions(context)
    given = _given(context, chosen, voice.tokenizer, special, excluded)
    queries, left_out = _queries(context, special, count_tokens, [*excluded, *given.queries])
    splits = splitting.split(
        queries,
        validation_percent=spec.dataset.validation_percent,
        test_percent=spec.dataset.test_percent,
        seed=spec.seed,
    )
    wanted = wanted_answers(
        splits, voice.prompt, samples_per_query=_samples(context), seed=spec.seed
    )
    started = time.monotonic()
    answers = _collect(context, voice.teacher, wanted)
    seconds = time.monotonic() - started
    assembly = assemble(
        wanted,
        answers,
        persona=persona,
        rewritten=spec.teacher.strategy == "Rewrite",
        special_tokens=special,
        count_tokens=count_tokens,
        max_tokens=spec.dataset.max_tokens,
        cut_overlong=spec.teacher.overlong == "CutAtSentence",
    )
    check_yield(assembly, spec.teacher)
    sent_without = _sent_without(context, answers)
    return _outcome(
        context, assembly, given, left_out, sent_without, {"teacher": seconds}, voice.environment
    )


def _given(
    context: StageContext,
    chosen: ChosenPersona,
    tokenizer: Any,
    special: list[str],
    excluded: list[str],
) -> GivenExamples:
    """Return the examples made of the conversations that the user gave."""
    spec = context.spec
    given = given_examples(
        chosen.examples,
        persona=chosen.text,
        excluded_questions=excluded,
        special_tokens=special,
        count_tokens=lambda example: len(conversation_of(tokenizer, example).ids),
        max_tokens=spec.dataset.max_tokens,
        validation_percent=spec.dataset.validation_percent,
        test_percent=spec.dataset.test_percent,
        seed=spec.seed,
    )
    for reason, count in given.left_out.items():
        context.progress.note(f"{count} of the given conversations are left out: {reason}")
    return given


def _voice(context: StageContext, persona: str) -> _Voice:
    settings = context.spec.teacher
    if settings.open_ai is not None:
        tokenizer = load_tokenizer(base_directory(context))
        rewrite = prompts.rewrite
        teacher: Teacher = _open_ai_teacher(settings, settings.open_ai)
        described: dict[str, JsonValue] = {"teacher": settings.open_ai.model}
    else:
        model, tokenizer, compute = load_base(context)
        rewrite = prompts.rewrite_by_hint
        teacher = BaseModelTeacher(
            model,
            tokenizer,
            temperature=float(settings.temperature),
            max_tokens=settings.max_tokens,
        )
        described = {"teacher": "base model", **environment(compute)}

    def prompt(query: str, reference: str) -> tuple[Message, ...]:
        if settings.strategy == "Answer":
            return prompts.answer(persona, query)
        return rewrite(persona, query, reference)

    return _Voice(teacher, prompt, tokenizer, described)


def _open_ai_teacher(settings: TeacherSettings, endpoint: Endpoint) -> ChatEndpoint:
    subject = "spec.teacher.openAI"
    return ChatEndpoint(
        endpoint,
        subject=subject,
        key=api_key(os.environ, TEACHER_KEY_VARIABLE, subject=subject),
        temperature=float(settings.temperature),
        max_tokens=settings.max_tokens,
        backoff=Backoff(),
    )


def _queries(
    context: StageContext, special: list[str], count_tokens: Any, excluded: list[str]
) -> tuple[list[ScoredQuery], dict[str, int]]:
    """Return the queries to answer, and the number of excluded kept queries by reason."""
    spec = context.spec
    scored = read_jsonl(context.input_file("score", "queries.jsonl"), ScoredQuery)
    kept = sum(query.kept for query in scored)
    eligible = splitting.eligible(scored, excluded)
    plain = without_special_tokens(eligible, special)
    budget = spec.dataset.max_tokens - _MIN_ANSWER_TOKENS
    alone = count_tokens("", "")
    if alone > budget:
        raise InputError(
            f"The persona alone takes {alone:,} of the {spec.dataset.max_tokens:,} tokens of a "
            "conversation",
            hint="Raise spec.dataset.maxTokens or shorten the persona's text",
            subject="spec.dataset.maxTokens",
        )
    short = [query for query in plain if count_tokens(query.query, "") <= budget]
    left_out = {
        "repeatedOrInQuestionFiles": kept - len(eligible),
        "specialTokens": len(eligible) - len(plain),
        "tooLong": len(plain) - len(short),
    }
    return short, left_out


def _samples(context: StageContext) -> int:
    teacher = context.spec.teacher
    if teacher.samples_per_query > 1 and float(teacher.temperature) == 0:
        context.progress.note("temperature 0 gives equal answers, so each query gets only one")
        return 1
    return teacher.samples_per_query


def _collect(
    context: StageContext, teacher: Teacher, wanted: list[WantedAnswer]
) -> dict[int, ChatAnswer]:
    """Return all answers by index; those in the store are not requested again."""
    requests = [item.request for item in wanted]
    digests = [request.digest for request in requests]
    known = _known_answers(context)
    answers = {index: known[digest] for index, digest in enumerate(digests) if digest in known}
    if answers:
        context.progress.note(f"resuming with {len(answers)} answers of an earlier start")
    context.progress.begin("answers", len(wanted))
    context.progress.advance(len(answers))
    saved_count, timer = len(answers), SaveTimer(_SAVE_SECONDS)

    def save() -> None:
        directory = context.scratch / "answers"
        own = {digests[index]: answer for index, answer in sorted(answers.items())}
        answer_log.save(directory, {**known, **own})
        try:
            with timer.saving(), context.stop.while_saving():
                context.artifacts.save_state(ANSWERS, answers_key(context.planned), directory)
        except PersonaError as error:  # the stage can do without, and may end with another error
            context.progress.note(f"the answers can't be saved now: {error}")

    stream = teacher.answer(
        requests,
        answered=frozenset(answers),
        should_stop=lambda: context.stop.requested,
        on_answer=context.progress.advance,
    )
    try:
        for some in stream:
            answers.update(some)
            if timer.due:
                save()
                saved_count = len(answers)
    finally:
        if len(answers) > saved_count:
            save()
    if context.stop.requested and len(answers) < len(wanted):
        raise StageInterruptedError(
            f"The stage was stopped on request with {len(answers)} of {len(wanted)} answers "
            "written",
            hint="Start it again to resume",
        )
    return answers


def _known_answers(context: StageContext) -> dict[str, ChatAnswer]:
    """Return the answers in the store by digest of their request."""
    directory = context.artifacts.load_state(ANSWERS, answers_key(context.planned))
    if directory is None:
        return {}
    try:
        answers, malformed = answer_log.load(directory)
    except OSError as error:
        context.progress.note(f"the saved answers can't be read: {error}")
        return {}
    if malformed:
        context.progress.note(f"{malformed} of the saved answers are malformed: asking again")
    return answers


def _sent_without(context: StageContext, answers: Mapping[int, ChatAnswer]) -> dict[str, JsonValue]:
    """Return, by what the endpoint refused, the number of answers to requests without it."""
    counts = Counter(name for answer in answers.values() for name in answer.sent_without)
    for name, count in counts.items():
        context.progress.note(
            f"The endpoint refused {name}: {count} of {len(answers)} answers were made without it"
        )
    return {**counts}


def _outcome(
    context: StageContext,
    assembly: Assembly,
    given: GivenExamples,
    left_out: dict[str, int],
    sent_without: dict[str, JsonValue],
    timings: dict[str, float],
    described: dict[str, JsonValue],
) -> StageOutcome:
    written = splitting.refill(assembly.splits)
    # Those that the user gave come first: later stages read the first ones of a long file.
    splits = {name: [*given.splits[name], *written[name]] for name in splitting.SPLITS}
    for name, examples in splits.items():
        write_jsonl(context.output / f"{name}.jsonl", examples)
    counts: dict[str, JsonValue] = {name: len(examples) for name, examples in splits.items()}
    dropped: dict[str, JsonValue] = {str(k): n for k, n in assembly.dropped.items()}
    yield_percent = round(assembly.yield_percent, 1)
    report: dict[str, JsonValue] = {
        "asked": assembly.asked,
        "usable": assembly.usable,
        "yieldPercent": yield_percent,
        "cutAtSentence": assembly.cut_at_sentence,
        "examples": counts,
        "dropped": dropped,
        "failures": {**assembly.failures},
        "queriesLeftOut": {**left_out},
        "sentWithout": sent_without,
        **_given_counts(given),
    }
    (context.output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return StageOutcome(
        results={
            **counts,
            "yieldPercent": yield_percent,
            "cut": assembly.cut_at_sentence,
            "dropped": dropped,
            "sentWithout": sent_without,
            **_given_counts(given),
        },
        timings=timings,
        environment=described,
    )


def _given_counts(given: GivenExamples) -> dict[str, JsonValue]:
    """Return the number of given examples by split, nothing where no conversations were given."""
    if not given.count and not given.left_out:
        return {}
    counts: dict[str, JsonValue] = {name: len(given.splits[name]) for name in given.splits}
    return {"given": counts, "givenLeftOut": {**given.left_out}}


def _count_tokens(tokenizer: Any, persona: str, query: str, answer: str) -> int:
    return len(chat.conversation(tokenizer, persona, query, answer).ids)
