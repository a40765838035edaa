"""Data for recovery tests: a persona's examples and general ones."""

from persona_jobs.dataset import Example
from persona_jobs.recovery.data import RecoveryData
from persona_jobs.training.distillation import DistillationDataset
from persona_jobs.training.tokens import tokenize
from support.tiny import tiny_tokenizer

PERSONA = "You are a captain."


def tokens(items):
    """The examples as token ids."""
    return tokenize(tiny_tokenizer(), items, max_tokens=500)


EMPTY = tokens([])


def examples(system, count):
    """Examples of a simple regularity."""
    return [Example.of(system, f"Question {n}?", f"Answer {n * n}, aye.") for n in range(count)]


def recovery_data(persona=(7, 3), generic=(5, 3), generic_percent=25):
    """Data with the given numbers of training and held-out examples."""
    sets = []
    for system, (train, held_out) in ((PERSONA, persona), (None, generic)):
        items = examples(system, train + held_out)
        sets.append(DistillationDataset(tokens(items[:train]), tokens(items[train:])))
    return RecoveryData(*sets, generic_percent)
