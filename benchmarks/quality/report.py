"""The page and the plot of all results."""

import json
from collections.abc import Mapping, Sequence
from html import escape

from persona_jobs.evaluation.bootstrap import Interval, differences

from . import pools
from .cells import RECOVERIES, Cell, Losses
from .settings import BASELINE, Settings

OWN = "own"
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


SOURCES = {
    OWN: "its own slice",
    pools.ALL: "one slice for all",
    pools.OTHERS: "a slice from the others' data",
    pools.OTHERS_LESS: "the same from as little data as its own",
}


def markdown(
    settings: Settings, cells: Sequence[Cell], pool: Sequence[Cell], model: str, plot_file: str
) -> str:
    """Return the page as Markdown.

    Every figure is the mean over all answers of all personas; behind it stands the paired
    difference to the baseline with its 95 % interval over answers.

    Args:
        settings: what is measured.
        cells: the results by method.
        pool: the results of slices for several personas.
        model: name of the base model.
        plot_file: name of the plot beside the page.
    """
    lines = [
        f"# {settings.title}",
        "",
        _introduction(cells, model),
        "",
        *(line for note in settings.notes for line in (note, "")),
        f"![Divergence from the dense model by method]({plot_file})",
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
            ]
            for by_method in compared(settings.all_methods(), chosen):
                measured = [cell.persona for cell in next(iter(by_method.values()))]
                lines += [
                    f"Measured on {', '.join(measured)}:",
                    "",
                    *_table("method", NAMES, by_method, BASELINE),
                    "",
                    *_to_the_best(by_method),
                ]
                if recovery == "full":
                    lines += [*_by_persona(by_method), ""]
    lines += _pool_section(settings, cells, pool)
    return "\n".join(lines)


def compared(methods: Sequence[str], cells: Sequence[Cell]) -> list[dict[str, list[Cell]]]:
    """Return the cells by method, once for each set of personas that methods share.

    The methods that take long may be measured on fewer personas: the first result has the most
    personas, the last one the most methods.
    """
    measured = {
        frozenset(cell.persona for cell in cells if cell.method == method) for method in methods
    }
    found = [
        complete(methods, [cell for cell in cells if cell.persona in personas])
        for personas in sorted(
            measured - {frozenset()}, key=lambda each: (-len(each), sorted(each))
        )
    ]
    return [by_method for by_method in found if len(by_method) > 1] or found[:1]


def _to_the_best(by_method: Mapping[str, Sequence[Cell]]) -> list[str]:
    """Return one line with the differences in persona KL to the method that has the lowest."""
    if len(by_method) < 2:
        return []
    kl = means(by_method, "persona", "kl")
    best = min(kl, key=lambda method: kl[method])
    found = intervals(by_method, "persona", "kl", best)
    parts = [
        f"{NAMES[method]}{_bracket(interval)}"
        for method, interval in found.items()
        if method != best
    ]
    return [f"Persona KL against {NAMES[best]}: {', '.join(parts)}.", ""]


def _introduction(cells: Sequence[Cell], model: str) -> str:
    by_persona = {cell.persona: cell for cell in reversed(cells)}
    first = [by_persona[persona] for persona in sorted(by_persona)]
    train = "/".join(str(cell.train_answers) for cell in first)
    tests = ", ".join(
        f"{sum(len(cell.sets[name].kl) for cell in first)} {label}"
        for name, label in (
            ("persona", "answers in character"),
            ("rolePlay", "answers in another role"),
            ("generic", "general answers"),
        )
    )
    threads = "/".join(str(n) for n in sorted({cell.threads for cell in cells}))
    return (
        f"Base model `{model}`, {len(first)} personas with {train} training answers, measured on "
        f"{tests}, none of them in the training data. KL is the divergence from the dense model "
        "and CE the cross-entropy, in nats per token and averaged over answers; lower is better. "
        "In brackets: the paired difference to the first row with its 95 % interval, by bootstrap "
        "over these answers. So the intervals tell what other answers of these personas would "
        f"show; for other personas, {len(first)} are few, and the intervals should be thought of "
        "as wider. Every method has the same recovery: the refit, then the reconstruction. Minutes "
        f"are processor time per persona; torch threads: {threads}."
    )


def _pool_section(settings: Settings, cells: Sequence[Cell], pool: Sequence[Cell]) -> list[str]:
    percent = settings.sparsity_percents[0]
    own = [
        cell.model_copy(update={"method": OWN})
        for cell in cells
        if (cell.method, cell.sparsity_percent, cell.recovery) == (pools.METHOD, percent, "full")
    ]
    measured = {source: {c.persona for c in pool if c.method == source} for source in SOURCES}
    unseen = measured[pools.OTHERS_LESS] or measured[pools.OTHERS]
    lines = []
    for title, sources, personas in (
        ("One slice for all personas", [OWN, pools.ALL], measured[pools.ALL]),
        ("A slice that has never seen the persona", list(SOURCES), unseen),
    ):
        chosen = [cell for cell in (*own, *pool) if cell.persona in personas]
        by_source = complete(sources, chosen)
        if not personas or len(by_source) < 2:
            continue
        answers = ", ".join(
            f"{SOURCES[source]} {'/'.join(str(cell.train_answers) for cell in found)}"
            for source, found in by_source.items()
        )
        lines += [
            f"## {title}",
            "",
            f"{NAMES[pools.METHOD].capitalize()} with the full recovery, {percent} % removed, "
            f"measured on {', '.join(sorted(personas))}. Training answers: {answers}. Queries that "
            "a slice is measured on are left out of the data of all personas that it is made from. "
            "Minutes are those of one slice.",
            "",
            *_table("made from", SOURCES, by_source, OWN),
            "",
            *_by_persona(by_source, SOURCES),
            "",
        ]
    return lines


def results(cells: Sequence[Cell], pool: Sequence[Cell]) -> str:
    """Return all results as JSON, one per line."""
    documents = {"methods": cells, "pool": pool}
    parts = [
        f'"{name}": [\n'
        + ",\n".join(json.dumps(cell.model_dump(mode="json", by_alias=True)) for cell in found)
        + "\n]"
        for name, found in documents.items()
    ]
    return "{" + ",\n".join(parts) + "}\n"


def _table(
    first: str, names: Mapping[str, str], by_method: Mapping[str, Sequence[Cell]], baseline: str
) -> list[str]:
    columns = [
        (means(by_method, name, field), intervals(by_method, name, field, baseline))
        for name, field, _ in COLUMNS
    ]
    rows = [
        f"| {first} | " + " | ".join(label for _, _, label in COLUMNS) + " | minutes |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for method, own in by_method.items():
        figures = [
            f"{mean[method]:.3f}{_bracket(interval.get(method))}" for mean, interval in columns
        ]
        minutes = sum(cell.rank_minutes + cell.recover_minutes for cell in own) / len(own)
        rows.append(f"| {names[method]} | " + " | ".join(figures) + f" | {minutes:.1f} |")
    return rows


def _by_persona(
    by_method: Mapping[str, Sequence[Cell]], names: Mapping[str, str] = NAMES
) -> list[str]:
    """Return one line per method with the persona KL of each persona."""
    parts = [
        f"{names[method]} " + "/".join(f"{_mean(cell.sets['persona'].kl):.3f}" for cell in own)
        for method, own in by_method.items()
    ]
    return [f"Persona KL of each persona: {'; '.join(parts)}."]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def complete(methods: Sequence[str], cells: Sequence[Cell]) -> dict[str, list[Cell]]:
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
    return {method: _mean(row) for method, row in values.items()}


def intervals(
    by_method: Mapping[str, Sequence[Cell]], name: str, field: str, baseline: str
) -> dict[str, Interval]:
    """Return every method's paired difference to the baseline."""
    values = {method: _values(cells, name, field) for method, cells in by_method.items()}
    if baseline not in values:
        return {}
    return differences(values, baseline)


def _bracket(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return f" ({interval.mean:+.3f})"
    return f" ({interval.mean:+.3f}, {interval.low:+.3f} to {interval.high:+.3f})"


ROW, LEFT, RIGHT, WIDTH = 24, 220, 40, 760
COLORS = {"none": "#9aa5b1", "full": "#1f6feb"}


def plot(settings: Settings, cells: Sequence[Cell]) -> str:
    """Return an SVG: every method's persona KL at the first sparsity, before and after recovery."""
    percent = settings.sparsity_percents[0]
    of_width = [cell for cell in cells if cell.sparsity_percent == percent]
    by_recovery = {
        recovery: compared(
            settings.all_methods(), [cell for cell in of_width if cell.recovery == recovery]
        )
        for recovery in RECOVERIES
    }
    # The last comparison has the most methods.
    figures = {
        recovery: means(found[-1], "persona", "kl") if found else {}
        for recovery, found in by_recovery.items()
    }
    personas = sorted(
        {
            cell.persona
            for found in by_recovery.values()
            for row in found[-1:]
            for own in row.values()
            for cell in own
        }
    )
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
        f"({percent} % removed, {', '.join(personas)}), nats per token</text>",
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
