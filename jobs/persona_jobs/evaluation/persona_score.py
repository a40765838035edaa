"""Persona score without a judge: how sure the dense model is that the target persona answered.

For a question q and the answer a that the evaluated model gave to it under the target's system
prompt, Bayes' rule with a uniform prior over the target and r reference personas gives

    P(target | q, a) = p(a | P_target, q) / sum_j p(a | P_j, q)

where p is the dense model's probability of the answer's tokens under the system prompt P_j. The
score is 100 times the mean over the questions; a model that ignores its persona gets 100 / (r + 1).

It tells personas apart, not sense from nonsense: a broken model's babble can still be likeliest
under the target. The same pass therefore gives the answer's loss under the target's prompt, which
babble makes large.

Token cost of D different answers of t tokens to questions of q tokens, personas of p tokens:
(r + 1) (p + D (q + t)) prompt tokens through the dense model, each persona's prompt once, the
language-model head on the answers' tokens only. Variants of the model that give the same answer
share it. 10 questions, 4 variants, 10 references, t = 64, q = 20, p = 80: 38,000 tokens.
"""

from collections.abc import Callable, Sequence
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
        ids: the answer's token ids, with the end-of-turn token if it was reached.
        empty: whether the answer says nothing (no text).
    """

    query: str
    ids: tuple[int, ...]
    empty: bool = False


@dataclass(frozen=True)
class JudgedAnswer:
    """What the dense model makes of an answer.

    Attributes:
        posterior: P(target | question, answer), 0 to 1.
        loss: -log p(answer | target, question), nats a token; None for an empty answer.
    """

    posterior: float
    loss: float | None


Prompt = Callable[[str, str], list[int]]
"""(system prompt, query) to the token ids that the answer follows."""


def _ignore(_: int) -> None:
    pass


def chance_level(references: int) -> float:
    """Persona score of a model that ignores its persona, 0 to 100."""
    return 100 / (references + 1)


def judge_answers(
    dense: nn.Module,
    prompt: Prompt,
    target: str,
    references: Sequence[str],
    answers: Sequence[GivenAnswer],
    *,
    on_rows: Callable[[int], None] = _ignore,
) -> list[JudgedAnswer]:
    """Posterior and loss of every answer. An empty one says nothing: its posterior is 1 / (r + 1).

    Args:
        dense: the model whose probabilities decide.
        prompt: renders a system prompt and a question.
        target: the target persona's system prompt.
        references: the reference personas' system prompts.
        answers: questions and answers, repeats allowed.
        on_rows: called with the number of answers done under one persona, after each batch.
    """
    distinct = list(dict.fromkeys(a for a in answers if a.ids and not a.empty))
    nothing = JudgedAnswer(1 / (len(references) + 1), None)
    if not distinct:
        return [nothing] * len(answers)
    log_p = torch.stack(
        [
            answer_log_probabilities(
                dense,
                answer_set([prompt(persona, a.query) for a in distinct], [a.ids for a in distinct]),
                on_rows=on_rows,
            )
            for persona in (target, *references)
        ]
    )  # [personas, answers]
    posteriors = target_posterior(log_p).tolist()
    losses = [-total / len(a.ids) for total, a in zip(log_p[0].tolist(), distinct, strict=True)]
    judged = {
        answer: JudgedAnswer(posterior, loss)
        for answer, posterior, loss in zip(distinct, posteriors, losses, strict=True)
    }
    return [judged.get(answer, nothing) for answer in answers]


def target_posterior(log_probabilities: Tensor) -> Tensor:
    """Posterior `[n]` of row 0 of log-likelihoods `[personas, n]` under a uniform prior."""
    return torch.softmax(log_probabilities.double(), dim=0)[0]


def answer_set(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> TokenizedSet:
    """Answers to prompts as token ids; what the prompts have in common becomes the prefix."""
    starts = [len(prompt) for prompt in prompts]
    prefix, rests = split(
        [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)],
        before=starts,
    )
    return TokenizedSet(
        prefix=prefix,
        suffixes=rests,
        positions=[
            list(range(start - len(prefix) - 1, len(rest) - 1))
            for start, rest in zip(starts, rests, strict=True)
        ],
        labels=[list(answer) for answer in answers],
    )


@torch.no_grad()
def answer_log_probabilities(
    model: nn.Module, data: TokenizedSet, *, on_rows: Callable[[int], None] = _ignore
) -> Tensor:
    """Log-probability `[n]` of each row's answer given what precedes it, in nats.

    The sum over the answer's tokens, in float32 whatever the model's number format.

    Args:
        model: a causal language model of a supported family.
        data: at least one row; none with an empty answer.
        on_rows: called with the number of rows done, after each batch.
    """
    prefix = run_prefix(model, data.prefix)
    sums = torch.zeros(len(data))
    for rows in data.batches():
        output = answer_hidden_states(model, prefix, data, rows)
        targets = labels_of(data, rows, output.hidden_states.device)
        parts = []
        for part in chunks(len(targets)):
            values = logits(model, output.hidden_states[part])
            chosen = values.gather(1, targets[part].unsqueeze(1)).squeeze(1)
            parts.append(chosen - values.logsumexp(dim=1))
        by_answer = torch.split(torch.cat(parts).cpu(), output.counts)
        sums[rows] = torch.stack([tokens.sum() for tokens in by_answer])
        on_rows(len(rows))
    return sums
