"""Bars: shares of a whole by name, and stages one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infifusion.report import svg
from infifusion.report.chart import Chart

NARROWEST_LABELLED = 0.11
"""Share of a bar below which its figure does not fit into it."""
UNITS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def bar_chart(
    title: str, bars: Sequence[tuple[str, Sequence[float]]], *, names: Sequence[str], rest: str
) -> Chart:
    """One bar per (label, shares), 0 to 1 wide, shares in the order of names; what is missing from
    1 is `rest`."""
    left, row = 92, 30
    height, plot = row * len(bars) + 24, svg.WIDTH - left - 20  # 20: half of the last tick
    x = svg.Scale(0, 1, left, left + plot)
    parts = [svg.grid_x(x(tick), height - 20, f"{round(100 * tick)} %") for tick in (0, 0.5, 1)]
    for n, (label, shares) in enumerate(bars):
        y = 4 + row * n
        parts.append(
            f"{svg.row_label(label, left - 8, y + 16, 14)}"
            f'<rect class="rest" x="{left}" y="{y}" width="{plot}" height="{row - 8}">'
            f"<title>{svg.text(rest)}</title></rect>"
        )
        at = 0.0
        for s, share in enumerate(shares):
            inside = f"{round(100 * share)} %" if share >= NARROWEST_LABELLED else ""
            parts.append(
                f'<g class="{svg.colour(s)}">'
                f"<title>{svg.text(names[s])}: {100 * share:.1f} %</title>"
                f'<rect class="area" x="{x(at):.1f}" y="{y}" '
                f'width="{plot * share:.1f}" height="{row - 8}"/>'
                f'<text class="on" x="{x(at + share / 2):.1f}" y="{y + 15}" '
                f'text-anchor="middle">{inside}</text></g>'
            )
            at += share
    return Chart(
        title,
        svg.drawing(title, parts, height),
        ["", *names, rest],
        [[label, *shares, max(0.0, 1 - sum(shares))] for label, shares in bars],
    )


@dataclass(frozen=True)
class Span:
    """One stage: how long it took, in words too, and the number of its colour."""

    label: str
    seconds: float
    shown: str
    number: int


def timeline(title: str, spans: Sequence[Span]) -> Chart | None:
    """Bars from top left to bottom right; None where nothing took any time. Only working time is
    svg.drawn: how long a run lay idle between two stages is not known."""
    total = sum(span.seconds for span in spans)
    if total <= 0:
        return None
    width, left, row = 720, 176, 19
    height, plot = row * len(spans) + 40, width - left - 76
    x = svg.Scale(0, total, left, left + plot)
    unit, unit_name = next(((u, n) for u, n in UNITS if total >= 2 * u), UNITS[-1])
    _, _, ticks = svg.axis([0.0, total / unit], margin=0)
    parts = [svg.grid_x(x(tick * unit), height - 34, svg.number(tick)) for tick in ticks]
    parts.append(svg.axis_label(f"working time, {unit_name}", left + plot / 2, height - 4))
    rows: list[list[object]] = []
    at = 0.0
    for n, span in enumerate(spans):
        y = 4 + row * n
        bar = (
            f'<rect class="area" x="{x(at):.1f}" y="{y + 2}" '
            f'width="{max(1.5, plot * span.seconds / total):.1f}" height="{row - 6}" rx="2"/>'
        )
        parts.append(
            svg.labelled_row(
                svg.colour(span.number),
                span.label,
                span.shown,
                bar,
                size=(width, row),
                top=y - 1,
                base=y + 13,
                right=left - 8,
                longest=27,
            )
        )
        rows.append([span.label, round(at, 3), round(span.seconds, 3)])
        at += span.seconds
    return Chart(
        title, svg.drawing(title, parts, height, width), ["stage", "start", "seconds"], rows
    )
