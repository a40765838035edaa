"""Ask the judges for verdicts on the answers, and work out what they say.

A judge that can't be reached at all, or that is not configured as it must be, ends the stage with
an error; all measurements are kept, so the next attempt only asks the judge. Everything else that
a judge does or fails to do is a verdict: it is counted, and it never becomes a score.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel

from ...api.endpoint import judge_key_variable
from ...api.judge import Judge
from ...dataset import Message, write_jsonl
from ...endpoints import ChatAnswer, ChatRequest
from ...endpoints.backoff import Backoff
from ...endpoints.client import NO_ANSWER, ChatEndpoint, api_key
from ...errors import EndpointError, PersonaError, StageInterruptedError
from ...evaluation.judges import log
from ...evaluation.judges.checks import contrast, distrust, obedience, with_instruction
from ...evaluation.judges.log import LoggedVerdict
from ...evaluation.judges.rubric import Rubric, built_in, judge_prompt
from ...evaluation.judges.summary import judge_score, mode_of
from ...evaluation.judges.verdict import Mode, Outcome, Verdict, read_verdict
from ...evaluation.questions import Question
from ...pipeline.context import StageContext
from ...pipeline.graph import VERDICTS, judge_id
from ...pipeline.judge_results import JudgeMetrics
from ..common import evaluation_sets
from ..control import SaveTimer
from .parts import FinishedParts

Served = Literal["sliced", "recovered"]
Texts = dict[str, list[str]]
# Endpoints return at most so many alternatives.
_TOP_LOGPROBS = 20
_INSTRUCTED = "otherPersonasWithInstruction"


class JudgementLine(BaseModel):
    """One line of `judgements.jsonl`.

    Attributes:
        judge: name of the judge.
        query: the question.
        answer: whose answer is judged: a variant, `otherPersonas`, `damagedModel`, or
            `otherPersonasWithInstruction`.
        outcome: see `evaluation.judges.verdict.Verdict`.
        score: 0 to 100.
        mode: `weighted` or `raw`.
        text: what the judge said.
    """

    judge: str
    query: str
    answer: str
    outcome: Outcome
    score: float | None
    mode: Mode | None
    text: str


def judge_answers(
    context: StageContext,
    persona: str,
    questions: Sequence[Question],
    parts: FinishedParts,
    served: Served,
) -> list[JudgeMetrics]:
    """Return what every judge of the spec says, and write its verdicts to `judgements.jsonl`.

    Args:
        context: the stage.
        persona: the persona's text.
        questions: the questions.
        parts: the answers of the variants and of the controls to them.
        served: the variant that is served.

    Raises:
        InputError: a judge can't be used as configured.
        EndpointError: a judge can't be reached.
        StageInterruptedError: a stop was requested; finished verdicts are kept.
    """
    judges = context.spec.evaluation.judges
    if not judges:
        return []
    texts = _texts(parts, served)
    rubrics = _rubrics(context, persona, questions)
    verdicts = _known(context)
    metrics, lines = [], []
    for index, judge in enumerate(judges):
        count = min(len(questions), judge.max_questions or len(questions))
        prompts = {
            name: [
                judge_prompt(rubric, question.query, text)
                for rubric, question, text in zip(
                    rubrics[:count], questions[:count], row[:count], strict=True
                )
            ]
            for name, row in texts.items()
        }
        subject = f"spec.evaluation.judges[{index}].openAI"
        found = _ask(context, judge, subject, prompts, verdicts)
        metrics.append(_metrics(judge, found, served))
        lines += [
            JudgementLine(
                judge=judge.name,
                query=question.query,
                answer=name,
                **line.model_dump(exclude={"request"}),
            )
            for name, row in found.items()
            for question, line in zip(questions, row, strict=False)
        ]
    write_jsonl(context.output / "judgements.jsonl", lines)
    return metrics


def _texts(parts: FinishedParts, served: Served) -> Texts:
    """Return all answers to judge by what they are."""
    others = [answer.text for answer in parts.controls.get("otherPersonas", [])]
    return {
        "dense": [answer.text for answer in parts.answers["dense"]],
        served: [answer.text for answer in parts.answers[served]],
        "damagedModel": [answer.text for answer in parts.controls["damagedModel"]],
        **(
            {"otherPersonas": others, _INSTRUCTED: [with_instruction(text) for text in others]}
            if others
            else {}
        ),
    }


def _rubrics(context: StageContext, persona: str, questions: Sequence[Question]) -> list[Rubric]:
    """Return the prompt of each question: its file's, or the built-in one."""
    sets = evaluation_sets(context).items()
    own = {uri: Rubric(found.eval_prompt) for uri, found in sets if found.eval_prompt}
    usual = built_in(persona)
    return [own.get(question.source, usual) for question in questions]


def _metrics(
    judge: Judge,
    found: Mapping[str, Sequence[LoggedVerdict]],
    served: Served,
) -> JudgeMetrics:
    verdicts = {name: [line.verdict for line in row] for name, row in found.items()}
    none: list[Verdict] = []
    others = verdicts.get("otherPersonas", none)
    checks = [
        contrast("otherPersonas", verdicts["dense"] if others else none, others),
        contrast("damagedModel", verdicts["dense"], verdicts["damagedModel"]),
        obedience(others, verdicts.get(_INSTRUCTED, none)),
    ]
    reason = distrust(checks, [verdict for row in verdicts.values() for verdict in row])
    scores = {
        name: judge_score(verdicts[name], None if name == "dense" else verdicts["dense"])
        for name in ("dense", served)
    }
    return JudgeMetrics(
        name=judge.name,
        model=judge.open_ai.identity or judge.open_ai.model,
        trusted=not reason,
        reason=reason,
        mode=mode_of(scores),
        checks=checks,
        variants=scores,
    )


def _ask(
    context: StageContext,
    judge: Judge,
    subject: str,
    prompts: Mapping[str, Sequence[str]],
    verdicts: dict[str, LoggedVerdict],
) -> dict[str, list[LoggedVerdict]]:
    """Return a verdict on every prompt; those in `verdicts` are not asked for again."""
    asked = {
        text: ChatRequest((Message(role="user", content=text),), seed=context.spec.seed)
        for row in prompts.values()
        for text in row
    }
    ids = {text: f"{judge_id(judge)}/{request.digest}" for text, request in asked.items()}
    wanted = {ids[text]: request for text, request in asked.items() if ids[text] not in verdicts}
    context.progress.begin(f"judge {judge.name}", len(asked))
    context.progress.advance(len(asked) - len(wanted))
    _collect(context, judge, subject, wanted, verdicts)
    failed = LoggedVerdict(request="", text="", outcome="failed")
    return {
        name: [verdicts.get(ids[text], failed) for text in row] for name, row in prompts.items()
    }


def _collect(
    context: StageContext,
    judge: Judge,
    subject: str,
    wanted: Mapping[str, ChatRequest],
    verdicts: dict[str, LoggedVerdict],
) -> None:
    """Add the verdicts on the wanted requests, and keep them in the store."""
    endpoint = ChatEndpoint(
        judge.open_ai,
        subject=subject,
        key=api_key(os.environ, judge_key_variable(judge.name), subject=subject),
        temperature=0,
        max_tokens=judge.max_tokens,
        backoff=Backoff(),
        top_logprobs=_TOP_LOGPROBS,
    )
    ids, timer = list(wanted), SaveTimer()
    stream = endpoint.answer(
        list(wanted.values()),
        answered=frozenset(),
        should_stop=lambda: context.stop.requested,
        on_answer=context.progress.advance,
    )
    found: dict[str, LoggedVerdict] = {}
    try:
        for some in stream:
            found |= {ids[index]: _logged(ids[index], answer) for index, answer in some.items()}
            if timer.due:
                with timer.saving():
                    _save(context, verdicts | found)
    except EndpointError as error:
        answered = any(line.outcome != "failed" for line in found.values())
        if not answered and NO_ANSWER not in error.message:
            raise
        context.progress.note(f"judge {judge.name}: {error.message}")
    finally:
        verdicts |= found
        if found:
            _save(context, verdicts)
    if context.stop.requested and len(found) < len(wanted):
        raise StageInterruptedError(
            f"The stage was stopped on request while judge {judge.name} was asked",
            hint="Start it again to resume",
        )


def _logged(request: str, answer: ChatAnswer) -> LoggedVerdict:
    verdict = read_verdict(answer)
    return LoggedVerdict(
        request=request,
        text=(answer.text or answer.detail).encode("utf-8", "replace").decode(),
        outcome=verdict.outcome,
        score=None if verdict.score is None else round(verdict.score, 2),
        mode=verdict.mode,
    )


def _known(context: StageContext) -> dict[str, LoggedVerdict]:
    """Return the verdicts in the store by judge and request."""
    directory = context.artifacts.load_state(VERDICTS, context.planned.inputs["score"])
    if directory is None:
        return {}
    try:
        return log.load(directory)
    except OSError as error:
        context.progress.note(f"the saved verdicts can't be read: {error}")
        return {}


def _save(context: StageContext, verdicts: Mapping[str, LoggedVerdict]) -> None:
    directory = context.scratch / "verdicts"
    log.save(directory, verdicts)
    try:
        with context.stop.while_saving():
            context.artifacts.save_state(VERDICTS, context.planned.inputs["score"], directory)
    except PersonaError as error:  # the stage can do without, and may end with another error
        context.progress.note(f"the verdicts can't be saved now: {error}")
