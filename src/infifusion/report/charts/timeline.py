"""Stages one after another, each as long as it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infifusion.report.charts.chart import (
    COLOURS,
    Chart,
    axis,
    axis_label,
    drawing,
    grid_x,
    number,
    short,
    text,
)

WIDTH, LEFT, RIGHT, ROW = 720, 176, 76, 19
UNITS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


@dataclass(frozen=True)
class Span:
    """One stage: how long it took, in words too, and the number of its colour."""

    label: str
    seconds: float
    shown: str
    number: int


def timeline(title: str, spans: Sequence[Span]) -> Chart | None:
    """Bars from top left to bottom right; None where nothing took any time. Only working time is
    drawn: how long a run lay idle between two stages is not known."""
    total = sum(span.seconds for span in spans)
    if total <= 0:
        return None
    unit, unit_name = next(((u, n) for u, n in UNITS if total >= 2 * u), UNITS[-1])
    _, _, ticks = axis([0.0, total / unit], margin=0)
    height, plot = ROW * len(spans) + 40, WIDTH - LEFT - RIGHT
    parts = [grid_x(LEFT + plot * tick * unit / total, height - 34, number(tick)) for tick in ticks]
    parts.append(axis_label(f"working time, {unit_name}", LEFT + plot / 2, height - 4))
    rows: list[list[object]] = []
    at = 0.0
    for row, span in enumerate(spans):
        y = 4 + ROW * row
        x, length = LEFT + plot * at / total, max(1.5, plot * span.seconds / total)
        parts.append(
            f'<g class="row c{span.number % COLOURS}">'
            f"<title>{text(span.label)}: {text(span.shown)}</title>"
            f'<rect class="hit" x="0" y="{y - 1}" width="{WIDTH}" height="{ROW}"/>'
            f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">'
            f"{text(short(span.label, 27))}</text>"
            f'<rect class="area" x="{x:.1f}" y="{y + 2}" '
            f'width="{length:.1f}" height="{ROW - 6}" rx="2"/>'
            f'<text class="value" x="{WIDTH}" y="{y + 13}" text-anchor="end">'
            f"{text(span.shown)}</text></g>"
        )
        rows.append([span.label, round(at, 3), round(span.seconds, 3)])
        at += span.seconds
    return Chart(title, drawing(title, parts, height, WIDTH), ["stage", "start", "seconds"], rows)
