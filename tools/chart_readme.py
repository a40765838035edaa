"""The chart's README: every value of values.yaml with its default and its comment."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

# Shown whole: the entries of these maps are examples or one setting.
_WHOLE = ("profiles", "operator.resources")
_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):(?: |$)")
_INTRODUCTION = """# The persona-pruner chart

Installs the operator that turns a persona's text into a lighter language model and serves it: its
CustomResourceDefinitions, Deployment, permissions and metrics.
[Install on a cluster](../../docs/install.md) explains how to choose the values.

```
helm install persona-pruner charts/persona-pruner -n persona-system --create-namespace -f store.yaml
```

Requires Kubernetes {kubernetes}.

A value that is null or empty is not set: its default applies. In `profiles` and
`operator.resources`, null removes an entry. In the values of a chart above this one,
`global.imageRegistry` and `global.imagePullSecrets` apply as well.

| value | default | meaning |
|---|---|---|
"""


def chart_readme(notice: str, values: str, chart: str) -> str:
    """Return the README.

    Args:
        notice: first line, which says that the file is generated.
        values: content of values.yaml.
        chart: content of Chart.yaml.
    """
    kubernetes = yaml.safe_load(chart)["kubeVersion"].removesuffix("-0").replace(">=", "≥ ")
    defaults = yaml.safe_load(values) or {}
    rows = []
    for path, comment in _comments(values):
        default = _at(defaults, path)
        if isinstance(default, dict) and default and ".".join(path) not in _WHOLE:
            cells = [f"**`{'.'.join(path)}`**", "", comment]
            if not comment:
                continue
        else:
            cells = [f"`{'.'.join(path)}`", f"`{json.dumps(default)}`", comment]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return notice + _INTRODUCTION.format(kubernetes=kubernetes) + "\n".join(rows) + "\n"


def _comments(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path of each value and the comment directly above it."""
    parents: list[tuple[int, str]] = []
    comment: list[str] = []
    hidden: int | None = None
    for line in text.splitlines():
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if hidden is not None and stripped and indent > hidden:
            continue
        hidden = None
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# ").removeprefix("-- "))
            continue
        key = _KEY.match(line)
        if key:
            while parents and parents[-1][0] >= indent:
                parents.pop()
            parents.append((indent, key[2]))
            path = tuple(name for _, name in parents)
            if ".".join(path) in _WHOLE:
                hidden = indent
            yield path, " ".join(comment)
        comment = []


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        values = values[name]
    return values
