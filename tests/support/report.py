"""Report data for tests."""

from datetime import UTC, datetime
from typing import Any

from persona_jobs.dataset import CurvePoint
from persona_jobs.evaluation.bootstrap import Interval
from persona_jobs.evaluation.persona_score import NOTHING, ScoredAnswer
from persona_jobs.evaluation.report import (
    Answer,
    Curve,
    KeptChannels,
    RankedQuery,
    Ranking,
    ReportData,
    Sample,
)
from persona_jobs.evaluation.speed import Speed
from persona_jobs.pipeline.judge_results import JudgeCheck, JudgeMetrics, JudgeScore
from persona_jobs.pipeline.results import (
    EvaluationMetrics,
    HeldOutKl,
    RecoveryMetrics,
    RecoveryPart,
    VariantMetrics,
)


def variant(score: float | None = 60.0, **changes: Any) -> VariantMetrics:
    values: dict[str, Any] = {
        "parameters": 1000,
        "checkpoint_bytes": 4000,
        "persona_score": score,
        "persona_score_low": None if score is None else score - 5,
        "persona_score_high": None if score is None else score + 5,
        "persona_score_retention": None if score is None else 100 * score / 80,
        "persona_score_retention_low": None if score is None else 100 * score / 80 - 15,
        "persona_score_retention_high": None if score is None else 100 * score / 80 + 10,
        "voice": 90.5,
        "relevance": 95.25,
        "fluency": 85.0,
        "originality": 99.0,
        "answer_loss": 1.5,
        "persona_loss": 2.0,
        "persona_kl": 0.5,
        "generic_loss": 3.0,
        "generic_kl": 0.25,
        "prefill_tokens_per_second": 400.0,
        "decode_tokens_per_second": 20.0,
    }
    return VariantMetrics(**{**values, **changes})


def metrics(**changes: Any) -> EvaluationMetrics:
    values: dict[str, Any] = {
        "served": "recovered",
        "chance_persona_score": 9.09,
        "queries": 2,
        "variants": {
            "dense": variant(80.0, persona_kl=0.0, generic_kl=0.0),
            "masked": variant(50.0, parameters=1000),
            "sliced": variant(50.0, parameters=750, decode_tokens_per_second=25.0),
            "recovered": variant(70.0, parameters=750, decode_tokens_per_second=25.0),
            "baseline": variant(
                65.0, prefill_tokens_per_second=None, decode_tokens_per_second=None
            ),
        },
    }
    return EvaluationMetrics(**{**values, **changes})


def judges() -> list[JudgeMetrics]:
    """A trusted judge with a score for every answer, and an untrusted one with none."""
    dense = JudgeScore(score=74, low=66, high=81, score_with_zeros=74, scored=20, weighted=20)
    served = JudgeScore(
        score=70.5, low=61, high=78, score_with_zeros=70.5, scored=20, weighted=20,
        difference=-3.5, difference_low=-9, difference_high=1.5,
    )  # fmt: skip
    silent = JudgeScore(score_with_zeros=0, scored=0, unparseable=20)
    checks = [
        JudgeCheck(name="otherPersonas", pairs=20, difference=31.5, better_percent=95, passed=True)
    ]
    return [
        JudgeMetrics(
            name="large", model="org/large", trusted=True, mode="weighted", checks=checks,
            variants={"dense": dense, "recovered": served},
        ),
        JudgeMetrics(
            name="small", model="org/small", trusted=False,
            reason="it gave a score for 0 of 100 answers only; 90 % are needed",
            variants={"dense": silent, "recovered": silent},
        ),
    ]  # fmt: skip


def recovery(**changes: Any) -> RecoveryMetrics:
    """A recovery whose refit helped and whose fine-tuning did not."""
    start, refitted, tuned = (
        HeldOutKl(persona=persona, generic=generic, weighted=weighted)
        for persona, generic, weighted in ((0.9, 1.3, 1.0), (0.5, 0.7, 0.55), (0.4, 1.2, 0.6))
    )
    values: dict[str, Any] = {
        "persona_kl_before": 0.9,
        "persona_kl": 0.5,
        "generic_kl_before": 1.3,
        "generic_kl": 0.7,
        "kept": ["refit"],
        "left_out": ["fineTune"],
        "train_examples": 40,
        "generic_examples": 30,
        "held_out_examples": 9,
        "warnings": [],
        "parts": [
            RecoveryPart(name="refit", kept=True, before=start, after=refitted, seconds=71.2),
            RecoveryPart(name="fineTune", kept=False, before=refitted, after=tuned, seconds=9),
        ],
    }
    return RecoveryMetrics(**{**values, **changes})


def report_data(text: str = "plain", **changes: Any) -> ReportData:
    """Report data in which every text from users, models or files is `text`."""
    mask = [[i % 4 != 3 for i in range(16)] for _ in range(3)]
    other = [[i % 4 != 2 for i in range(16)] for _ in range(3)]
    ranked = [RankedQuery(rank, 1 / rank, text, rank < 3) for rank in range(1, 5)]
    values: dict[str, Any] = {
        "persona": text,
        "base_model": text,
        "created_at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        "metrics": metrics(),
        "kept": KeptChannels(mask, other),
        "ranking": Ranking([r.score for r in ranked], 2, ranked[:2], ranked[2:]),
        "samples": [
            Sample(
                text,
                text,
                {
                    "dense": Answer(text, ScoredAnswer(0.9, 0.8, 1.0, 0.5, 1.25)),
                    "sliced": Answer("", NOTHING, finished=False),
                    "recovered": Answer(text, ScoredAnswer(0.7, 0.6, 0.5, 1.0, 2.5)),
                },
            )
        ],
        "settings": text,
        "differences": {"recovered": Interval(-10.0, -20.0, 1.5)},
        "speeds": {"dense": Speed(400.0, 20.0, (390.0, 1410.5), (18.25, 21.0), rounds=9)},
        "curves": [
            Curve(text, [CurvePoint(step=s, train_loss=1 / (s + 1)) for s in range(5)]),
        ],
        "notes": [text],
        "environment": {text: text},
    }
    return ReportData(**{**values, **changes})
