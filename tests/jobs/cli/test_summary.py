"""The last line of `persona run`: what got smaller and faster, and what it cost."""

from rich.console import Console

from persona_jobs.cli.summary import answers_table, balance, variants_table
from persona_jobs.pipeline.results import EvaluationMetrics, ShownAnswers

DENSE = {
    "parameters": 1000,
    "checkpointBytes": 4_000_000,
    "genericLoss": 3.0,
    "prefillTokensPerSecond": 100.0,
    "decodeTokensPerSecond": 20.0,
}
SERVED = {
    "parameters": 800,
    "checkpointBytes": 3_200_000,
    "personaKl": 0.4321,
    "genericLoss": 3.25,
    "prefillTokensPerSecond": 125.0,
    "decodeTokensPerSecond": 24.0,
}


def line(seconds=300, **changes):
    metrics = EvaluationMetrics.model_validate(
        {
            "served": "recovered",
            "chancePersonaScore": 10,
            "queries": 8,
            "variants": {"dense": DENSE, "recovered": {**SERVED, **changes}},
        }
    )
    return balance(metrics, seconds)


def test_the_line_names_what_got_smaller_and_faster_and_what_it_cost():
    assert line() == (
        "Smaller: 20 % fewer weights, 3.2 MB of files instead of 4 MB. Faster: reading prompts at "
        "1.25 times and writing answers at 1.20 times the dense model's speed. Cost: the persona's "
        "answers differ from the dense model's by 0.43 nats per token, the loss on general "
        "instructions rises from 3.00 to 3.25, 5 min of work."
    )


def test_a_speed_within_the_noise_is_not_called_faster():
    assert "Faster: reading prompts at 1.25 times the dense model's speed (but writing" in line(
        decodeTokensPerSecond=20.5
    )
    slow = line(prefillTokensPerSecond=95.0, decodeTokensPerSecond=20.9)
    assert "Nothing got faster: reading prompts at 0.95 times and writing answers at 1.04" in slow
    assert "Faster:" not in slow


def test_what_did_not_get_smaller_or_worse_or_was_not_measured_is_said():
    assert "20 % fewer weights, but 8 MB of files instead of 4 MB." in line(
        checkpointBytes=8_000_000
    )
    assert "general" not in line(genericLoss=2.9)
    unmeasured = line(90, prefillTokensPerSecond=None, decodeTokensPerSecond=None, personaKl=None)
    assert "Speed was not measured. Cost: the loss" in unmeasured
    assert unmeasured.endswith(", 90 s of work.")


def test_the_dense_models_answer_stands_beside_the_checkpoints():
    shown = ShownAnswers(query="Who?", answers={"dense": "I [b]am\x07", "recovered": "Me"})
    console = Console(width=60, file=None, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(answers_table([shown], "recovered"))
    text = capture.get()
    assert text.index("dense") < text.index("recovered")
    row = next(row for row in text.splitlines() if "Who?" in row)
    assert row.index("I [b]am") < row.index("Me")
    assert "\x07" not in text


def test_the_table_of_variants_fits_a_terminal_of_80_columns():
    scored = {
        "personaScore": 58.8,
        "personaScoreLow": 40.1,
        "personaScoreHigh": 76.6,
        "personaScoreRetention": 100.0,
        "voice": 100.0,
        "relevance": 100.0,
        "fluency": 100.0,
    }
    variants = {"dense": {**DENSE, **scored}, "recovered": {**SERVED, **scored}}
    metrics = EvaluationMetrics.model_validate(
        {"served": "recovered", "chancePersonaScore": 10, "queries": 8, "variants": variants}
    )
    console = Console(width=80)
    with console.capture() as capture:
        console.print(variants_table(metrics))
    text = capture.get()
    assert "59 [40–77]   100  100/100/100" in text
    assert "…" not in text
