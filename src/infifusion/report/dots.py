"""Dot charts: one value per row, with its interval where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infifusion.report import svg
from infifusion.report.chart import Chart

LEFT, RIGHT = 122, 56
"""Most room for labels where nothing else is asked for, and room for the values."""
ROW = 22
LETTER = 6.6
"""Width of a letter, about; a chart cannot measure its text."""
MARKS = {
    "better": '<path class="dot" d="M{x:.1f} {up:g}l5 8.5h-10z"/>',
    "worse": '<path class="dot" d="M{x:.1f} {down:g}l5 -8.5h-10z"/>',
    "unclear": '<circle class="hollow" cx="{x:.1f}" cy="{y:g}" r="4"/>',
    "": '<circle class="dot" cx="{x:.1f}" cy="{y:g}" r="4"/>',
}
"""Up, down or hollow for better, worse and unclear: colour alone does not tell them apart."""


@dataclass(frozen=True)
class Dot:
    """One row of a dot chart: a value and, where known, its interval."""

    label: str
    value: float
    shown: str
    """The value in words, at the right."""
    kind: str
    """CSS class that decides the colour; better, worse and unclear decide the shape too."""
    low: float | None = None
    high: float | None = None
    group: str = ""
    """A heading above the first row of the group."""


def dot_chart(title: str, dots: Sequence[Dot], *, zero: bool = False, most: int = LEFT) -> Chart:
    """Values as dots with error bars on one axis; `zero` draws the line of no difference. most is
    the most room that labels may take; what they take beyond LEFT the chart is wider."""
    longest = max((max(len(dot.label), len(dot.group)) for dot in dots), default=0)
    left = min(most, round(LETTER * longest) + 16)
    width = svg.WIDTH + max(0, left - LEFT)
    edges = [edge for d in dots for edge in (d.value, d.low, d.high) if edge is not None]
    low, high, ticks = svg.axis([*edges, 0.0] if zero else edges)
    x = svg.Scale(low, high, left, width - RIGHT)
    starts = [d.group and (n == 0 or dots[n - 1].group != d.group) for n, d in enumerate(dots)]
    height = ROW * (len(dots) + sum(map(bool, starts))) + 28
    parts = [svg.grid_x(x(tick), height - 22, svg.number(tick)) for tick in ticks]
    if zero:
        parts.append(
            f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="2" y2="{height - 22}"/>'
        )
    y = 6 + ROW / 2
    for dot, starts_group in zip(dots, starts, strict=True):
        if starts_group:
            parts.append(f'<text class="group" x="0" y="{y + 5:g}">{svg.text(dot.group)}</text>')
            y += ROW
        mark = MARKS.get(dot.kind, MARKS[""]).format(x=x(dot.value), y=y, up=y - 5, down=y + 5)
        if dot.low is not None and dot.high is not None:
            bar = f"M{x(dot.low):.1f} {y - 4:g}v8m0-4H{x(dot.high):.1f}m0-4v8"
            mark = f'<path class="bar" d="{bar}"/>{mark}'
        parts.append(
            svg.labelled_row(
                dot.kind,
                dot.label,
                dot.shown,
                mark,
                size=(width, ROW),
                top=y - ROW / 2,
                base=y + 4,
                right=left - 8,
                longest=int((left - 8) / LETTER),
            )
        )
        y += ROW
    grouped = any(dot.group for dot in dots)
    return Chart(
        title,
        svg.drawing(title, parts, height, width),
        [*(["group"] if grouped else []), "label", "value", "low", "high"],
        [
            [*([dot.group] if grouped else []), dot.label, dot.value, dot.low, dot.high]
            for dot in dots
        ],
    )
