"""Small SVG charts, drawn by hand: no library to load, sharp on paper, coloured by the page's CSS.

Every chart is 340 units wide, so that several fit side by side and one fits a phone. Values are
drawn at full precision; None and NaN leave a gap. Every text is escaped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from markupsafe import Markup, escape

WIDTH = 340
LEFT, RIGHT = 122, 56
"""Room for labels and for values beside a dot chart."""
ROW = 22
LONGEST_LABEL = 16
Point = tuple[float, float | None]


@dataclass(frozen=True)
class Dot:
    """One row of a dot chart: a value and, where known, its interval."""

    label: str
    value: float
    shown: str
    """The value in words, at the right."""
    kind: str
    """CSS class that decides the colour."""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """One curve; number decides its colour."""

    label: str
    points: list[Point]
    number: int


def dot_chart(title: str, dots: Sequence[Dot], *, zero: bool = False, left: int = LEFT) -> Markup:
    """Values as dots with error bars on one axis; `zero` draws the line of no difference. left is
    the room for labels; what it takes beyond its usual width the chart is wider."""
    width = WIDTH + left - LEFT
    edges = [edge for d in dots for edge in (d.value, d.low, d.high) if edge is not None]
    low, high, ticks = axis([*edges, 0.0] if zero else edges)
    height = ROW * len(dots) + 28
    plot = WIDTH - LEFT - RIGHT

    def x(value: float) -> float:
        return left + plot * (value - low) / (high - low)

    parts = [_grid_x(x(tick), height - 22, number(tick)) for tick in ticks]
    if zero:
        parts.append(
            f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="2" y2="{height - 22}"/>'
        )
    for row, dot in enumerate(dots):
        y = 6 + ROW * row + ROW / 2
        bar = ""
        if dot.low is not None and dot.high is not None:
            bar = f'<path class="bar" d="M{x(dot.low):.1f} {y - 4}v8m0-4H{x(dot.high):.1f}m0-4v8"/>'
        label, shown = escape(dot.label), escape(dot.shown)
        parts.append(
            f'<g class="{escape(dot.kind)}"><title>{label}: {shown}</title>'
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">'
            f"{escape(_short(dot.label, LONGEST_LABEL * left // LEFT))}</text>"
            f'{bar}<circle cx="{x(dot.value):.1f}" cy="{y}" r="4"/>'
            f'<text class="value" x="{width}" y="{y + 4}" text-anchor="end">{shown}</text></g>'
        )
    return _figure(title, parts, height, width)


def line_chart(title: str, lines: Sequence[Line], *, x_label: str) -> Markup:
    """Curves over a shared x axis."""
    height, left, bottom = 210, 44, 34
    points = [(x, y) for line in lines for x, y in line.points if _drawn(y)]
    if not points:
        return Markup("")
    x_low, x_high, x_ticks = axis([x for x, _ in points], margin=0)
    y_low, y_high, y_ticks = axis([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (WIDTH - left - 10) * (x - x_low) / (x_high - x_low),
            6 + (height - bottom - 6) * (y_high - y) / (y_high - y_low),
        )

    parts = [_grid_x(place(t, 0)[0], height - bottom, number(t)) for t in x_ticks]
    parts += [_grid_y(place(0, t)[1], left, number(t)) for t in y_ticks]
    parts.append(
        f'<text class="tick" x="{(WIDTH + left) / 2}" y="{height - 3}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    for line in lines:
        path, pen = "", "M"
        for x_value, y_value in line.points:
            if not _drawn(y_value):
                pen = "M"
                continue
            path += "{}{:.1f} {:.1f}".format(pen, *place(x_value, y_value))
            pen = "L"
        parts.append(
            f'<path class="line c{line.number % 8}" d="{path}"><title>{escape(line.label)}</title>'
            "</path>"
        )
    return _figure(title, parts, height)


def stacked_chart(
    title: str, xs: Sequence[float], shares: Sequence[Sequence[float]], *, x_label: str
) -> Markup:
    """Shares of a whole over x: shares[i][s] at xs[i], stacked in the order of s, 0 to 1."""
    height, left, bottom = 190, 44, 34
    if len(xs) < 2:
        return Markup("")
    x_low, x_high, x_ticks = axis(xs, margin=0)

    def place(x: float, y: float) -> str:
        return (
            f"{left + (WIDTH - left - 10) * (x - x_low) / (x_high - x_low):.1f} "
            f"{6 + (height - bottom - 6) * (1 - y):.1f}"
        )

    parts = []
    floor = [0.0] * len(xs)
    for s in range(len(shares[0])):
        top = [below + share[s] for below, share in zip(floor, shares, strict=True)]
        edge = [place(x, y) for x, y in zip(xs, top, strict=True)]
        back = [place(x, y) for x, y in zip(xs, floor, strict=True)][::-1]
        parts.append(f'<path class="area c{s % 8}" d="M{"L".join(edge + back)}Z"/>')
        floor = top
    for tick in x_ticks:
        parts.append(_grid_x(float(place(tick, 0).split()[0]), height - bottom, number(tick)))
    for tick in (0.0, 0.5, 1.0):
        parts.append(_grid_y(float(place(x_low, tick).split()[1]), left, number(tick)))
    parts.append(
        f'<text class="tick" x="{(WIDTH + left) / 2}" y="{height - 3}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    return _figure(title, parts, height)


STYLE = (
    "svg{font:11.5px system-ui,sans-serif;background:#fff}text{fill:#1c2024}.tick{fill:#5d666f}"
    "circle{fill:currentColor}.bar{stroke:currentColor;stroke-width:1.6;fill:none}"
    ".grid{stroke:#d9dee3}.zero{stroke:#1c2024;stroke-dasharray:3 3}"
    ".better{color:#127a3e}.worse{color:#b3261e}.unclear{color:#5d666f}"
)


def standalone(chart: Markup) -> str:
    """A chart as an SVG file of its own: its title inside, colours included."""
    text = str(chart)  # joined to Markup, plain text would be escaped
    title = text.partition("<figcaption>")[2].partition("</figcaption>")[0]
    body = "<svg" + text.partition("<svg")[2].partition("</figure>")[0]
    opening, _, rest = body.partition(">")
    found = re.search(r'viewBox="0 0 (\S+) (\S+)"', opening)
    assert found is not None
    width, height = found.group(1), float(found.group(2))
    opening = opening.replace(found.group(0), f'viewBox="0 -20 {width} {height + 20}"')
    return (
        f'{opening} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>'
        f'<text x="0" y="-7">{title}</text>{rest}\n'
    )


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


def number(value: float) -> str:
    """A tick: no trailing zeros, no exponent between 0.0001 and a million."""
    text = f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1e6 else f"{value:.0e}"
    return "0" if text in ("-0", "") else text.replace("-", "\u2212")


def _drawn(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _short(label: str, longest: int) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"


def _grid_x(x: float, bottom: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{bottom}"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{label}</text>'
    )


def _grid_y(y: float, left: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{left}" x2="{WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    )


def _figure(title: str, parts: Sequence[str], height: float, width: int = WIDTH) -> Markup:
    return Markup(
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )
