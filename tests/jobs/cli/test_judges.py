"""What `persona run` shows of the judges."""

from rich.console import Console

from persona_jobs.cli.judges import judges_table, trust
from support.report import judges


def test_the_table_has_a_row_per_judge_and_variant():
    console = Console(width=120, record=True, file=None)
    with console.capture() as captured:
        console.print(judges_table(judges()))
    rows = [
        line.split() for line in captured.get().splitlines() if "dense" in line or "rec" in line
    ]
    assert rows == [
        ["large", "dense", "74.0", "[66–81]", "74.0", "20", "0", "0", "0"],
        ["recovered", "70.5", "[61–78]", "70.5", "20", "0", "0", "0"],
        ["small", "dense", "–", "0.0", "0", "0", "20", "0"],
        ["recovered", "–", "0.0", "0", "0", "20", "0"],
    ]


def test_a_line_says_whether_a_judge_is_trusted_and_why():
    trusted, untrusted = map(trust, judges())
    assert trusted == (
        "Judge large (org/large, scores weighted by token probabilities) is trusted. "
        "Checks: otherPersonas +31.5 points."
    )
    assert untrusted == (
        "Judge small (org/small) is not trusted: it gave a score for 0 of 100 answers only; 90 % "
        "are needed."
    )
