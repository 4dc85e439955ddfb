"""A chart: its drawing and its figures, which are the drawing's text alternative and its CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from markupsafe import Markup, escape

from infifusion.report.visible import visible

WIDTH = 340
COLOURS = 8
"""How many colours the page's CSS has: c0 to c7."""
STYLE = (
    "svg{font:11.5px system-ui,sans-serif;background:#fff}text{fill:#1c2024}.tick{fill:#5d666f}"
    ".group{font-weight:600}.on{fill:#fff}.dot{fill:currentColor;stroke:currentColor}"
    ".hollow{fill:#fff;stroke:currentColor;stroke-width:1.6}"
    ".bar,.line{stroke:currentColor;stroke-width:1.6;fill:none}.area{fill:currentColor}"
    ".grid{stroke:#d9dee3}.zero{stroke:#1c2024;stroke-dasharray:3 3}.rest{fill:#e4e8ec}"
    ".pivot{color:#5d666f}.source{color:#1f7299}.tuned{color:#8a6400}.fused{color:#0b57b0}"
    ".better{color:#0b57b0}.worse{color:#b3401b}.unclear{color:#5d666f}"
    ".c0{color:#0067a8}.c1{color:#b84d00}.c2{color:#007a5a}.c3{color:#94478e}"
    ".c4{color:#8a6400}.c5{color:#1f7299}.c6{color:#735838}.c7{color:#5f676e}"
)
"""What a chart needs of the page's CSS when it stands alone."""


@dataclass(frozen=True)
class Chart:
    """svg holds one element; header and rows say the same in figures. values are what the page's
    script reads the curves from; None where there is nothing to follow with a pointer."""

    title: str
    svg: Markup
    header: list[str]
    rows: list[list[object]]
    values: dict[str, Any] | None = None


def drawing(title: str, parts: Sequence[str], height: float, width: float = WIDTH) -> Markup:
    """The svg element; title is what a screen reader says of it."""
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{text(title)}">'
        f"{''.join(parts)}</svg>"
    )


def standalone(chart: Chart) -> str:
    """A chart as an SVG file of its own: its title inside, colours included."""
    opening, _, rest = str(chart.svg).partition(">")
    found = re.search(r'viewBox="0 0 (\S+) (\S+)"', opening)
    assert found is not None
    width, height = found.group(1), float(found.group(2))
    opening = opening.replace(found.group(0), f'viewBox="0 -20 {width} {height + 20:g}"')
    return (
        f'{opening} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>'
        f'<text x="0" y="-7">{text(chart.title)}</text>{rest}\n'
    )


def as_csv(chart: Chart) -> str:
    """The chart's figures, one line each under a header."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(chart.header)
    writer.writerows(["" if cell is None else cell for cell in row] for row in chart.rows)
    return file.getvalue()


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


def grid_x(x: float, bottom: float, label: str, *, top: float = 2) -> str:
    """A vertical line and the tick under it."""
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:g}" y2="{bottom:g}"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom + 14:g}" text-anchor="middle">{label}</text>'
    )


def grid_y(y: float, left: float, right: float, label: str) -> str:
    """A horizontal line and the tick left of it."""
    return (
        f'<line class="grid" x1="{left:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{left - 5:g}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    )


def axis_label(label: str, x: float, y: float) -> str:
    """What the x axis measures, under its ticks."""
    return f'<text class="tick" x="{x:g}" y="{y:g}" text-anchor="middle">{text(label)}</text>'
