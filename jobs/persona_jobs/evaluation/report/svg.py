"""Small SVG building blocks: escaped elements, linear scales and axes.

Colours come from CSS classes of the page, so charts follow its light and dark scheme.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

Attribute = str | int | float | None
TICKS = 5


class Svg(str):
    """SVG markup whose texts are already escaped; Jinja inserts it unchanged."""

    __slots__ = ()

    def __html__(self) -> str:
        """Return the markup itself (markupsafe's protocol)."""
        return self


def element(tag: str, *children: str | Svg, **attributes: Attribute) -> Svg:
    """Return one element, with plain `str` children and all attribute values escaped.

    Attribute names use `_` for `-` and a trailing `_` for Python keywords; None omits one.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_text(value), quote=True)}"'
        for name, value in attributes.items()
        if value is not None
    )
    content = "".join(
        child if isinstance(child, Svg) else escape(child, quote=False) for child in children
    )
    return Svg(f"<{tag}{written}>{content}</{tag}>" if content else f"<{tag}{written}/>")


def group(children: Iterable[Svg], **attributes: Attribute) -> Svg:
    """Return a `<g>` of elements."""
    return element("g", *children, **attributes)


def figure(title: str, width: int, height: int, *children: Svg) -> Svg:
    """Return the `<svg>` root, scaled to the page's width, with an accessible title."""
    return element(
        "svg",
        element("title", title),
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=title,
        style=f"max-width:{width}px",
    )


def number(value: float) -> str:
    """Return a coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _text(value: str | int | float) -> str:
    return number(value) if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Scale:
    """A linear map from data values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel position of `value`."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def span(values: Iterable[float], *, zero: bool = False) -> tuple[float, float]:
    """Return the smallest range with a margin around the finite `values`; it is never empty."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    # Ends that are equal in floating point would leave no ticks.
    margin = max((high - low) * 0.05, abs(high) * 1e-3, 1e-6)
    return (low if zero and low == 0 else low - margin), high + margin


def ticks(low: float, high: float) -> list[float]:
    """Return about `TICKS` round values (steps of 1, 2 or 5) within the range."""
    raw = (high - low) / TICKS
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_label(value: float, step: float) -> str:
    """Return `value` with as many decimals as `step` needs."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    return f"{value:,.{min(decimals, 6)}f}"


def x_axis(scale: Scale, y: float, label: str) -> Svg:
    """Draw the axis below the plot with tick labels and a title."""
    marks = ticks(scale.low, scale.high)
    step = marks[1] - marks[0] if len(marks) > 1 else 1.0
    middle = (scale.start + scale.end) / 2
    return group(
        [
            element("line", x1=scale.start, x2=scale.end, y1=y, y2=y, class_="axis"),
            *(
                element("text", tick_label(v, step), x=scale(v), y=y + 17, class_="tick middle")
                for v in marks
            ),
            element("text", label, x=middle, y=y + 36, class_="label middle"),
        ]
    )


def y_axis(scale: Scale, left: float, right: float, label: str) -> Svg:
    """Draw the axis at the left of the plot with grid lines, tick labels and a title."""
    marks = ticks(scale.low, scale.high)
    step = marks[1] - marks[0] if len(marks) > 1 else 1.0
    middle = (scale.start + scale.end) / 2
    return group(
        [
            *(
                element("line", x1=left, x2=right, y1=scale(v), y2=scale(v), class_="grid")
                for v in marks
            ),
            *(
                element("text", tick_label(v, step), x=left - 8, y=scale(v) + 4, class_="tick end")
                for v in marks
            ),
            element(
                "text",
                label,
                x=14,
                y=middle,
                class_="label middle",
                transform=f"rotate(-90 14 {number(middle)})",
            ),
        ]
    )


def legend(entries: Iterable[tuple[str, str]], x: float, y: float) -> Svg:
    """Draw a row of swatches from (label, CSS class) pairs."""
    drawn: list[Svg] = []
    for label, style in entries:
        drawn.append(
            element("rect", x=x, y=y - 9, width=14, height=10, rx=2, class_=f"fill {style}")
        )
        drawn.append(element("text", label, x=x + 20, y=y, class_="tick"))
        x += 20 + 7 * len(label) + 22
    return group(drawn)
