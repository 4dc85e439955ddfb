"""Parts of small SVG charts, drawn by hand: no library to load, sharp on paper, coloured by the
page's CSS.

Every chart is 340 units wide unless its labels need more, so that several fit side by side and one
fits a phone. Values are drawn at full precision; None and NaN leave a gap. Every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from markupsafe import Markup, escape

from infifusion.report.visible import visible

WIDTH = 340
COLOURS = 8
"""How many colours the page's CSS has: c0 to c7."""


def colour(number: int) -> str:
    """The class that gives the colour of the source or run of this number."""
    return f"c{number % COLOURS}"


def drawing(title: str, parts: Sequence[str], height: float, width: float = WIDTH) -> Markup:
    """The svg element; title is what a screen reader says of it."""
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{text(title)}">'
        f"{''.join(parts)}</svg>"
    )


def text(value: str) -> Markup:
    """A label, escaped, with characters that would hide made visible."""
    return escape(visible(value))


def short(label: str, longest: int) -> str:
    """The label, cut with an ellipsis where it is longer."""
    return label if len(label) <= longest else label[: longest - 1] + "…"


def axis(values: Sequence[float], *, margin: float = 0.06) -> tuple[float, float, list[float]]:
    """(low, high, ticks): the range of the values with a margin, and 2 to 6 round ticks in it."""
    low, high = min(values), max(values)
    largest = max(abs(low), abs(high))
    spread = high - low
    if spread <= 1e-9 * largest or spread < 1e-12:  # below what a tick can tell apart
        spread = largest if largest > 1e-12 else 1.0
        low, high = low - spread / 2, high + spread / 2
    low, high = low - margin * spread, high + margin * spread
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first = math.ceil(low / step)
    return low, high, [i * step for i in range(first, math.floor(high / step) + 1)]


def whole_ticks(values: Sequence[float], ticks: list[float]) -> list[float]:
    """The ticks without fractions where all values are whole: there is no layer 0.5."""
    if not all(float(value).is_integer() for value in values):
        return ticks
    return [tick for tick in ticks if float(tick).is_integer()]


def number(value: float) -> str:
    """A tick: no trailing zeros, no exponent between 0.0001 and a million."""
    shown = f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1e6 else f"{value:.0e}"
    return "0" if shown in ("-0", "") else shown.replace("-", "\u2212")


def drawn(value: float | None) -> TypeGuard[float]:
    """Whether a value can be drawn."""
    return value is not None and math.isfinite(value)


@dataclass(frozen=True)
class Scale:
    """From values to places in a drawing: `low` stands at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where the value stands."""
        share = (self.end - self.start) * (value - self.low) / (self.high - self.low)
        return self.start + share


def grid_x(x: float, bottom: float, label: str) -> str:
    """A vertical line and the tick under it."""
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{bottom:g}"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom + 14:g}" text-anchor="middle">{label}</text>'
    )


def grid_y(y: float, left: float, right: float, label: str) -> str:
    """A horizontal line and the tick left of it."""
    return (
        f'<line class="grid" x1="{left:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{left - 5:g}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    )


def row_label(label: str, right: float, y: float, longest: int) -> str:
    """The name of a row, left of it: it ends at `right` and is cut where it is longer."""
    return f'<text x="{right:g}" y="{y:g}" text-anchor="end">{text(short(label, longest))}</text>'


def labelled_row(
    kind: str,
    label: str,
    shown: str,
    mark: str,
    *,
    size: tuple[float, float],
    top: float,
    base: float,
    right: float,
    longest: int,
) -> str:
    """A row whose whole width answers to the pointer: the label, which ends at `right`, the mark,
    and the value `shown` at its end. kind: the class that colours it. size: width and height.
    base: the line that its text stands on."""
    width, height = size
    return (
        f'<g class="row {text(kind)}"><title>{text(label)}: {text(shown)}</title>'
        f'<rect class="hit" x="0" y="{top:g}" width="{width:g}" height="{height:g}"/>'
        f"{row_label(label, right, base, longest)}{mark}"
        f'<text class="value" x="{width:g}" y="{base:g}" text-anchor="end">{text(shown)}</text></g>'
    )


def axis_label(label: str, x: float, y: float) -> str:
    """What the x axis measures, under its ticks."""
    return f'<text class="tick" x="{x:g}" y="{y:g}" text-anchor="middle">{text(label)}</text>'
