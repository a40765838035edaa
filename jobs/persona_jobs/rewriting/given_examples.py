"""Examples from conversations that the user gave, beside those that the teacher writes."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..api.persona import Dialogue
from ..dataset import Example, Message, Split, normalize_query
from .splitting import SPLITS, query_order


@dataclass(frozen=True)
class GivenExamples:
    """The examples that were made from the given conversations.

    Attributes:
        splits: examples by split, one for each answer.
        left_out: number of conversations that were left out by reason; reasons that didn't occur
            are not in it.
    """

    splits: dict[Split, list[Example]]
    left_out: dict[str, int]

    @property
    def queries(self) -> list[str]:
        """What the user says in them; the teacher answers none of it."""
        return [example.query for examples in self.splits.values() for example in examples]

    @property
    def count(self) -> int:
        """Number of examples."""
        return sum(len(examples) for examples in self.splits.values())


def given_examples(
    dialogues: Sequence[Dialogue],
    *,
    persona: str,
    excluded_questions: Iterable[str],
    special_tokens: Collection[str],
    count_tokens: Callable[[Example], int],
    max_tokens: int,
    validation_percent: int,
    test_percent: int,
    seed: int,
) -> GivenExamples:
    """Make an example of each answer, and divide the conversations among the splits.

    Conversations that share a question, by its normalized form, stay together, so that no question
    of one split occurs in another. Of two or more such groups at least one is for the test; the
    order is that of a hash of seed and question, as for the teacher's queries.

    Args:
        dialogues: the conversations.
        persona: the system message of every example.
        excluded_questions: questions of evaluation files.
        special_tokens: the base model's special tokens; no message may contain one.
        count_tokens: counts the tokens of an example.
        max_tokens: longest example in tokens.
        validation_percent: share of the conversations for validation.
        test_percent: share of the conversations for the test.
        seed: seed of the order.
    """
    excluded = {normalize_query(question) for question in excluded_questions}
    left_out: Counter[str] = Counter()
    usable: list[list[Example]] = []
    for dialogue in dialogues:
        examples = _examples(persona, dialogue)
        if any(normalize_query(turn.query) in excluded for turn in dialogue.turns):
            left_out["inQuestionFiles"] += 1
        elif _mentions(dialogue, special_tokens):
            left_out["specialTokens"] += 1
        elif count_tokens(examples[-1]) > max_tokens:
            left_out["tooLong"] += 1
        else:
            usable.append(examples)
    groups = sorted(_groups(usable), key=lambda group: query_order(seed, group[0].query))
    most = max(0, len(groups) - 1)  # one is always for training
    test = min(max(1, round(len(groups) * test_percent / 100)), most)
    validation = min(round(len(groups) * validation_percent / 100), most - test)
    parts: Mapping[Split, list[list[Example]]] = {
        "test": groups[:test],
        "validation": groups[test : test + validation],
        "train": groups[test + validation :],
    }
    splits = {name: [example for group in parts[name] for example in group] for name in SPLITS}
    return GivenExamples(splits, dict(left_out))


def _examples(persona: str, dialogue: Dialogue) -> list[Example]:
    """Return one example per answer, with all that was said before it."""
    history: list[Message] = []
    examples = []
    for turn in dialogue.turns:
        query, answer = turn.query.strip(), turn.answer.strip()
        examples.append(Example.of(persona, query, answer, history=history))
        history += [
            Message(role="user", content=query),
            Message(role="assistant", content=answer),
        ]
    return examples


def _mentions(dialogue: Dialogue, special_tokens: Collection[str]) -> bool:
    return any(
        token in text
        for turn in dialogue.turns
        for text in (turn.query, turn.answer)
        for token in special_tokens
    )


def _groups(conversations: Iterable[list[Example]]) -> list[list[Example]]:
    """Return the examples of conversations that share a question as one list each."""
    groups: list[tuple[set[str], list[Example]]] = []
    for examples in conversations:
        forms = {normalize_query(example.query) for example in examples}
        joined = list(examples)
        apart = []
        for group in groups:
            if group[0] & forms:
                forms |= group[0]
                joined = group[1] + joined
            else:
                apart.append(group)
        groups = [*apart, (forms, joined)]
    return [examples for _, examples in groups]
