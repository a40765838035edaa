"""Persona score: how sure the dense model is that the target persona gave an answer.

For a question q and the answer a that the evaluated model gave to it under the target's system
prompt, Bayes' rule with a uniform prior over the target and r reference personas gives

    P(target | q, a) = p(a | P_target, q) / sum_j p(a | P_j, q)

where p is the dense model's probability of the answer's tokens under the system prompt P_j. The
score is 100 times the mean over the questions; a model that ignores its persona gets 100 / (r + 1).

The score distinguishes personas, not sense from nonsense: a broken model's gibberish can still be
most likely under the target. The same pass therefore gives the answer's loss under the target's
prompt, which is large for gibberish.

Token cost of D different answers of t tokens to questions of q tokens, personas of p tokens:
(r + 1) (p + D (q + t)) tokens through the dense model, each persona's prompt once, and the
language-model head on the answers' tokens only. Equal answers of several variants are computed
once. 10 questions, 4 variants, 10 references, t = 64, q = 20, p = 80: 38,000 tokens.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.prefix import run_prefix, split
from ..training.losses import chunks, logits
from ..training.passes import answer_hidden_states, labels_of
from ..training.tokens import TokenizedSet


@dataclass(frozen=True)
class GivenAnswer:
    """A question and the answer that a model gave.

    Attributes:
        query: the question.
        ids: the answer's token ids, including the end-of-turn token if the model generated it.
        empty: whether the answer has no text.
    """

    query: str
    ids: tuple[int, ...]
    empty: bool = False


@dataclass(frozen=True)
class ScoredAnswer:
    """The dense model's score of an answer.

    Attributes:
        posterior: P(target | question, answer), 0 to 1.
        loss: -log p(answer | target, question), in nats per token; None for an empty answer.
    """

    posterior: float
    loss: float | None


Prompt = Callable[[str, str], list[int]]
"""Renders a system prompt and a query as the token ids before the answer."""


def _ignore(_: int) -> None:
    pass


def chance_level(references: int) -> float:
    """Return the persona score, 0 to 100, of a model that ignores its persona."""
    return 100 / (references + 1)


def score_answers(
    dense: nn.Module,
    prompt: Prompt,
    target: str,
    references: Sequence[str],
    answers: Sequence[GivenAnswer],
    *,
    finished: dict[int, list[float]] | None = None,
    on_persona: Callable[[], None] = lambda: None,
    on_rows: Callable[[int], None] = _ignore,
) -> list[ScoredAnswer]:
    """Return posterior and loss of every answer; an empty one has the chance level 1 / (r + 1).

    Args:
        dense: the model that gives the probabilities.
        prompt: renders a system prompt and a question.
        target: the target persona's system prompt.
        references: the reference personas' system prompts.
        answers: questions and answers, which may repeat.
        finished: log-likelihoods of the distinct answers by number of the persona (0 is the
            target), from an earlier call; further ones are added.
        on_persona: called after each persona.
        on_rows: called with the number of answers scored under one persona, after each batch.
    """
    distinct = distinct_answers(answers)
    chance = ScoredAnswer(1 / (len(references) + 1), None)
    if not distinct:
        return [chance] * len(answers)
    known = {} if finished is None else finished
    for number, persona in enumerate((target, *references)):
        if number not in known:
            prompts = [prompt(persona, answer.query) for answer in distinct]
            data = answer_set(prompts, [answer.ids for answer in distinct])
            known[number] = answer_loglikelihoods(dense, data, on_rows=on_rows).tolist()
            on_persona()
    log_p = torch.tensor([known[number] for number in range(len(references) + 1)])
    posteriors = target_posterior(log_p).tolist()
    losses = [-total / len(a.ids) for total, a in zip(log_p[0].tolist(), distinct, strict=True)]
    scored = {
        answer: ScoredAnswer(posterior, loss)
        for answer, posterior, loss in zip(distinct, posteriors, losses, strict=True)
    }
    return [scored.get(answer, chance) for answer in answers]


def distinct_answers(answers: Iterable[GivenAnswer]) -> list[GivenAnswer]:
    """Return each nonempty answer once."""
    return list(dict.fromkeys(answer for answer in answers if answer.ids and not answer.empty))


def target_posterior(log_probabilities: Tensor) -> Tensor:
    """Return the posterior `[n]` of row 0 of log-likelihoods `[personas, n]`, uniform prior."""
    return torch.softmax(log_probabilities.double(), dim=0)[0]


def answer_set(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> TokenizedSet:
    """Return prompts with their answers as token ids, split into common prefix and suffixes."""
    starts = [len(prompt) for prompt in prompts]
    prefix, suffixes = split(
        [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)],
        before=starts,
    )
    return TokenizedSet(
        prefix=prefix,
        suffixes=suffixes,
        positions=[
            list(range(start - len(prefix) - 1, len(suffix) - 1))
            for start, suffix in zip(starts, suffixes, strict=True)
        ],
        labels=[list(answer) for answer in answers],
    )


@torch.no_grad()
def answer_loglikelihoods(
    model: nn.Module, data: TokenizedSet, *, on_rows: Callable[[int], None] = _ignore
) -> Tensor:
    """Return the log-likelihood `[n]` of each row's answer given its prompt, in nats.

    It is the sum over the answer's tokens, in float32 for any number format of the model.

    Args:
        model: a causal language model of a supported family.
        data: at least one row, and no empty answer.
        on_rows: called with the number of finished rows after each batch.
    """
    prefix = run_prefix(model, data.prefix)
    sums = torch.zeros(len(data))
    for rows in data.batches():
        output = answer_hidden_states(model, prefix, data, rows)
        labels = labels_of(data, rows, output.hidden_states.device)
        parts = []
        for part in chunks(len(labels)):
            values = logits(model, output.hidden_states[part])
            chosen = values.gather(1, labels[part].unsqueeze(1)).squeeze(1)
            parts.append(chosen - values.logsumexp(dim=1))
        by_answer = torch.split(torch.cat(parts).cpu(), output.counts)
        sums[rows] = torch.stack([tokens.sum() for tokens in by_answer])
        on_rows(len(rows))
    return sums
