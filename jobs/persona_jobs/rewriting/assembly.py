"""Examples from the teacher's answers: clean, filter, count."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ..api.training import Teacher
from ..dataset import Example, Split, normalize_query
from ..endpoints import ChatAnswer, Ending
from ..errors import EndpointError, InputError
from .cleaning import clean
from .filters import REASONS, Reason, shared_answers, text_fault
from .requests import WantedAnswer
from .sentences import whole_sentences
from .splitting import SPLITS

_BY_ENDING: dict[Ending, Reason | None] = {
    "complete": None,
    "truncated": "truncated",
    "refused": "refusal",
    "tooLong": "tooLong",
    "failed": "failed",
}


@dataclass(frozen=True)
class Assembly:
    """The usable examples and the number of answers that were dropped.

    Attributes:
        splits: examples by split, in the order of the wanted answers.
        dropped: number of dropped answers by reason; reasons that didn't occur are left out.
        failures: number of failed requests by cause.
        cut_at_sentence: number of overlong answers kept up to their last whole sentence.
    """

    splits: dict[Split, list[Example]]
    dropped: dict[Reason, int]
    failures: dict[str, int]
    cut_at_sentence: int = 0

    @property
    def usable(self) -> int:
        """Return the number of examples."""
        return sum(len(examples) for examples in self.splits.values())

    @property
    def asked(self) -> int:
        """Return the number of answers that were requested."""
        return self.usable + sum(self.dropped.values())

    @property
    def yield_percent(self) -> float:
        """Return the usable answers in percent of those requested."""
        return 100 * self.usable / self.asked if self.asked else 0.0


def assemble(
    wanted: Sequence[WantedAnswer],
    answers: Mapping[int, ChatAnswer],
    *,
    persona: str,
    rewritten: bool,
    special_tokens: Collection[str],
    count_tokens: Callable[[str, str], int],
    max_tokens: int,
    cut_overlong: bool,
) -> Assembly:
    """Build examples from the answers that are fit to learn from.

    Args:
        wanted: the requested answers.
        answers: the answers by index in `wanted`; a missing one counts as failed.
        persona: the system message of every example.
        rewritten: whether the answers re-voice the reference, and so must differ from it.
        special_tokens: the base model's special tokens; no answer may contain one.
        count_tokens: counts the tokens of the whole conversation, given query and answer.
        max_tokens: longest conversation in tokens.
        cut_overlong: keep the whole sentences of a truncated answer instead of dropping it.
    """
    reasons: dict[int, Reason] = {}
    texts: dict[int, str] = {}
    failures: Counter[str] = Counter()
    shortened: set[int] = set()
    for index, item in enumerate(wanted):
        answer = answers.get(index) or ChatAnswer("", "failed", "no answer")
        text = clean(answer.text)
        ending = answer.ending
        if ending == "truncated" and cut_overlong and whole_sentences(text):
            text, ending = whole_sentences(text), "complete"
            shortened.add(index)
        reason = _BY_ENDING[ending] or text_fault(
            text,
            query=item.query.query,
            reference=item.query.answer,
            persona=persona,
            rewritten=rewritten,
            special_tokens=special_tokens,
        )
        if reason is None and count_tokens(item.query.query, text) > max_tokens:
            reason = "tooLong"
        if reason is None:
            texts[index] = text
        else:
            reasons[index] = reason
        if answer.ending == "failed":
            failures[answer.detail] += 1
    for index in _duplicates(wanted, texts):
        reasons[index] = "duplicate"
        del texts[index]
    splits: dict[Split, list[Example]] = {name: [] for name in SPLITS}
    for index, text in texts.items():
        item = wanted[index]
        example = Example.of(persona, item.query.query, text, item.query.answer)
        # The teacher would have gone on: that the answer ends here is not to be learned.
        ends = index not in shortened
        splits[item.split].append(example.model_copy(update={"ends": ends}))
    counts = Counter(reasons.values())
    return Assembly(
        splits=splits,
        dropped={reason: counts[reason] for reason in REASONS if counts[reason]},
        failures=dict(failures.most_common()),
        cut_at_sentence=len(shortened & set(texts)),
    )


def check_yield(assembly: Assembly, settings: Teacher) -> None:
    """Refuse a data set with too few usable answers.

    Raises:
        EndpointError: too few are usable, but enough would be if no request had failed; another
            start sends the failed ones again.
        InputError: too few of the teacher's answers are usable.
    """
    failed = assembly.dropped.get("failed", 0)
    enough = assembly.asked * settings.min_yield_percent / 100
    if assembly.usable and assembly.usable >= enough:
        return
    counts = ", ".join(f"{count} {reason}" for reason, count in assembly.dropped.items())
    what = (
        f"Only {assembly.usable} of {assembly.asked} answers are usable "
        f"({assembly.yield_percent:.0f} %, minYieldPercent is {settings.min_yield_percent}); "
        f"dropped: {counts or 'none'}"
    )
    if failed and assembly.usable + failed >= enough:
        reason = next(iter(assembly.failures))
        raise EndpointError(
            f"{what}; most failed with: {reason}",
            hint="Check that the endpoint works and start again: only failed requests are resent",
            subject="spec.teacher.openAI",
        )
    raise InputError(what, hint=_yield_hint(assembly, settings), subject="spec.teacher")


def _yield_hint(assembly: Assembly, settings: Teacher) -> str:
    """Return how to fix the most frequent reason; only what can still be changed is named."""
    worst = max(assembly.dropped, key=lambda reason: assembly.dropped[reason], default=None)
    stronger = (True, "use a stronger teacher")
    warmer = (float(settings.temperature) < 2, "raise spec.teacher.temperature")
    fixes: dict[Reason | None, list[tuple[bool, str]]] = {
        "truncated": [
            (settings.max_tokens < 4096, "raise spec.teacher.maxTokens"),
            (settings.overlong == "Drop", "set spec.teacher.overlong to CutAtSentence"),
        ],
        "tooLong": [
            (True, "raise spec.dataset.maxTokens"),
            (True, "shorten the persona's text"),
        ],
        "refusal": [
            (True, "use a teacher that plays the persona"),
            (True, "rephrase the persona's text"),
        ],
        "unchanged": [
            stronger,
            warmer,
            (settings.strategy == "Rewrite", "set spec.teacher.strategy to Answer"),
        ],
        "duplicate": [
            warmer,
            (settings.samples_per_query > 1, "lower spec.teacher.samplesPerQuery"),
        ],
        "repetitive": [stronger, (True, "choose another spec.teacher.temperature")],
        "failed": [(settings.open_ai is not None, "check spec.teacher.openAI")],
    }
    advice = [text for helps, text in fixes.get(worst, [stronger]) if helps] or [stronger[1]]
    # No threshold is met without a single usable answer.
    if assembly.usable:
        advice.append("lower spec.teacher.minYieldPercent")
    text = ", or ".join(advice)
    return text[0].upper() + text[1:]


def _duplicates(wanted: Sequence[WantedAnswer], texts: Mapping[int, str]) -> list[int]:
    """Return answers that many queries got, and repeated answers to one query."""
    shared = shared_answers((wanted[index].query.query, text) for index, text in texts.items())
    seen: set[tuple[str, str]] = set()
    found = []
    for index, text in texts.items():
        form = normalize_query(text)
        pair = (normalize_query(wanted[index].query.query), form)
        if form in shared or pair in seen:
            found.append(index)
        seen.add(pair)
    return found
