"""The table and the plot of all results."""

from collections.abc import Mapping, Sequence
from html import escape

from persona_jobs.evaluation.bootstrap import Interval, differences

from .cells import RECOVERIES, Cell, Losses
from .settings import BASELINE, Settings

SAMPLES = 2000
COLUMNS = (
    ("persona", "kl", "persona KL"),
    ("persona", "cross_entropy", "persona CE"),
    ("rolePlay", "kl", "other role KL"),
    ("generic", "kl", "generic KL"),
)
NAMES = {
    "random": "random",
    "weight-norm": "weight norm",
    "activation-norm": "activation norm",
    "wanda": "Wanda",
    "taylor": "Taylor",
    "straight-through-ce": "straight-through, CE",
    "straight-through-kl": "straight-through, KL",
    "straight-through-kl-scales": "straight-through, KL, factors",
    "optimal-brain-surgeon": "optimal brain surgeon",
}


def markdown(settings: Settings, cells: Sequence[Cell], model: str) -> str:
    """Return the table as Markdown.

    Every figure is the mean over all answers of all personas; below it stands the paired difference
    to the baseline with its 95 % interval, by bootstrap over answers.
    """
    personas = sorted({cell.persona for cell in cells})
    lines = [
        f"# {settings.title}",
        "",
        f"Base model `{model}`, {len(personas)} personas, {_answers(cells)} held-out answers in "
        "all. KL is the divergence from the dense model and CE the cross-entropy, in nats per "
        "token and averaged over answers; lower is better. In brackets: the paired difference to "
        "activation norm with its 95 % interval. Every method has the same recovery.",
        "",
    ]
    for percent in settings.sparsity_percents:
        for recovery in RECOVERIES:
            chosen = [c for c in cells if (c.sparsity_percent, c.recovery) == (percent, recovery)]
            if not chosen:
                continue
            after = "after the full recovery" if recovery == "full" else "without recovery"
            lines += [
                f"## {percent} % of the channels removed ({chosen[0].width} kept), {after}",
                "",
                "| method | " + " | ".join(label for _, _, label in COLUMNS) + " | minutes |",
                "|---" * (len(COLUMNS) + 2) + "|",
                *_rows(settings.all_methods(), chosen),
                "",
            ]
    return "\n".join(lines)


def _answers(cells: Sequence[Cell]) -> int:
    by_persona = {cell.persona: len(cell.sets["persona"].kl) for cell in cells}
    return sum(by_persona.values())


def _rows(methods: Sequence[str], cells: Sequence[Cell]) -> list[str]:
    complete = complete_methods(methods, cells)
    by_column = [
        (means(complete, name, field), intervals(complete, name, field))
        for name, field, _ in COLUMNS
    ]
    rows = []
    for method, own in complete.items():
        figures = [
            f"{mean[method]:.3f}{_bracket(interval.get(method))}" for mean, interval in by_column
        ]
        minutes = sum(cell.rank_minutes + cell.recover_minutes for cell in own) / len(own)
        rows.append(f"| {NAMES[method]} | " + " | ".join(figures) + f" | {minutes:.1f} |")
    return rows


def complete_methods(methods: Sequence[str], cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Return the cells by method, of the methods that were measured on every persona."""
    personas = sorted({cell.persona for cell in cells})
    found = {}
    for method in methods:
        own = {cell.persona: cell for cell in cells if cell.method == method}
        if sorted(own) == personas:
            found[method] = [own[persona] for persona in personas]
    return found


def _values(cells: Sequence[Cell], name: str, field: str) -> list[float]:
    return [value for cell in cells for value in _field(cell.sets[name], field)]


def _field(losses: Losses, field: str) -> list[float]:
    return losses.kl if field == "kl" else losses.cross_entropy


def means(by_method: Mapping[str, Sequence[Cell]], name: str, field: str) -> dict[str, float]:
    """Return the mean loss of every method over all answers of all personas."""
    values = {method: _values(cells, name, field) for method, cells in by_method.items()}
    return {method: sum(row) / len(row) for method, row in values.items()}


def intervals(
    by_method: Mapping[str, Sequence[Cell]], name: str, field: str
) -> dict[str, Interval]:
    """Return every method's paired difference to the baseline."""
    values = {method: _values(cells, name, field) for method, cells in by_method.items()}
    if BASELINE not in values:
        return {}
    return differences(values, BASELINE, samples=SAMPLES, seed=0)


def _bracket(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f" ({interval.mean:+.3f}, {interval.low:+.3f} to {interval.high:+.3f})"


ROW, LEFT, RIGHT, WIDTH = 24, 220, 40, 760
COLORS = {"none": "#9aa5b1", "full": "#1f6feb"}


def plot(settings: Settings, cells: Sequence[Cell]) -> str:
    """Return an SVG: every method's persona KL at the first sparsity, before and after recovery."""
    percent = settings.sparsity_percents[0]
    of_width = [cell for cell in cells if cell.sparsity_percent == percent]
    figures = {
        recovery: means(
            complete_methods(
                settings.all_methods(), [c for c in of_width if c.recovery == recovery]
            ),
            "persona",
            "kl",
        )
        for recovery in RECOVERIES
    }
    methods = [name for name in settings.all_methods() if any(name in f for f in figures.values())]
    highest = max((value for f in figures.values() for value in f.values()), default=1.0)
    scale = (WIDTH - LEFT - RIGHT) / (highest * 1.05)
    height = 70 + ROW * len(methods)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13">',
        f"<title>{escape(settings.title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="20">KL to the dense model on held-out persona answers '
        f"({percent} % removed), nats per token</text>",
    ]
    for number, recovery in enumerate(RECOVERIES):
        x = LEFT + 180 * number
        label = "after recovery" if recovery == "full" else "without recovery"
        parts.append(f'<circle cx="{x + 5}" cy="{height - 14}" r="5" fill="{COLORS[recovery]}"/>')
        parts.append(f'<text x="{x + 16}" y="{height - 10}">{label}</text>')
    for number, method in enumerate(methods):
        y = 48 + ROW * number
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{NAMES[method]}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#e4e7eb"/>')
        for recovery in RECOVERIES:
            if (value := figures[recovery].get(method)) is not None:
                at = LEFT + value * scale
                parts.append(
                    f'<circle cx="{at:.1f}" cy="{y}" r="5" fill="{COLORS[recovery]}">'
                    f"<title>{value:.3f}</title></circle>"
                )
    parts.append("</svg>")
    return "\n".join(parts) + "\n"
