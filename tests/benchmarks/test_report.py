"""The page of the quality benchmark: what is compared with what."""

import pytest
from benchmarks.quality.cells import Cell, Losses
from benchmarks.quality.report import compared, markdown, plot
from benchmarks.quality.settings import Settings

METHODS = ["activation-norm", "optimal-brain-surgeon", "straight-through-kl", "wanda"]


def cell(persona, method, kl, recovery="full"):
    losses = Losses(kl=[kl - 0.1, kl + 0.1], cross_entropy=[1.0, 1.0])
    return Cell(
        persona=persona,
        method=method,
        sparsity_percent=50,
        width=8,
        recovery=recovery,
        train_answers=9,
        threads=1,
        rank_minutes=1.0,
        recover_minutes=2.0,
        kept_parts=[],
        sets={"persona": losses, "rolePlay": losses, "generic": losses},
    )


CELLS = [
    cell("a", "activation-norm", 2.0),
    cell("b", "activation-norm", 4.0),
    cell("a", "optimal-brain-surgeon", 1.0),
    cell("b", "optimal-brain-surgeon", 2.0),
    cell("c", "optimal-brain-surgeon", 7.0),
    cell("a", "straight-through-kl", 1.5),
]
SETTINGS = Settings.model_validate(
    {"title": "T", "personas": 3, "sparsityPercents": [50], "methods": METHODS, "spec": {}}
)


def test_methods_are_compared_on_the_personas_that_they_share():
    found = [
        {method: [one.persona for one in own] for method, own in by_method.items()}
        for by_method in compared(METHODS, CELLS)
    ]
    both = {"activation-norm": ["a", "b"], "optimal-brain-surgeon": ["a", "b"]}
    every = ["activation-norm", "optimal-brain-surgeon", "straight-through-kl"]
    assert found == [both, {method: ["a"] for method in every}]


def test_each_table_names_its_personas_and_the_differences_to_the_best():
    page = markdown(SETTINGS, CELLS, [], "model", "plot.svg")
    first, second = page.split("Measured on a:")
    assert "Measured on a, b:" in first
    assert "| activation norm | 3.000 |" in first
    assert "| optimal brain surgeon | 1.500 (-1.500)" in first
    assert "| straight-through, KL | 1.500 (-0.500)" in second
    assert "Persona KL against optimal brain surgeon: activation norm (+1.000)" in second
    assert "Persona KL of each persona: activation norm 2.000/4.000;" in first
    assert "Wanda" not in page


def test_the_plot_shows_the_comparison_with_the_most_methods():
    image = plot(SETTINGS, CELLS)
    assert "(50 % removed, a), nats per token" in image
    for value in (2.0, 1.0, 1.5):
        assert f"<title>{value:.3f}</title>" in image
    assert image.count("<title>") == 1 + 3


@pytest.mark.parametrize("cells", [CELLS[:1], CELLS[4:5]])
def test_a_page_of_one_method_compares_it_with_nothing(cells):
    page = markdown(SETTINGS, cells, [], "model", "plot.svg")
    assert f"Measured on {cells[0].persona}:" in page
    assert "Persona KL against" not in page
