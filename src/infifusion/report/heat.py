"""A grid of shaded cells, for files: in the page the same grid is a table."""

from __future__ import annotations

from collections.abc import Sequence

from infifusion.report import svg
from infifusion.report.chart import Chart

CELL, LEFT, HEAD = 58, 110, 40


def heat_chart(
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float | None]]],
) -> Chart:
    """Cells as dark as their value lies between the least and the most; None is left empty."""
    values = [value for _, cells in rows for value in cells if value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    width, height = LEFT + CELL * len(columns), HEAD + 20 * len(rows) + 4
    parts = [
        f'<text class="tick" x="{LEFT + CELL * n + CELL / 2:g}" y="{HEAD - 6 - 12 * (n % 3)}" '
        f'text-anchor="middle">{svg.text(svg.short(column, 30))}</text>'
        for n, column in enumerate(columns)
    ]
    for r, (label, cells) in enumerate(rows):
        y = HEAD + 20 * r
        parts.append(svg.row_label(label, LEFT - 8, y + 14, 16))
        for n, value in enumerate(cells):
            if value is None:
                continue
            share = (value - low) / (high - low) if high > low else 0.5
            x = LEFT + CELL * n
            parts.append(
                f'<rect class="area c0" x="{x}" y="{y}" width="{CELL}" height="20" '
                f'fill-opacity="{0.7 * share:.2f}"/><text x="{x + CELL / 2:g}" y="{y + 14}" '
                f'text-anchor="middle">{svg.number(round(value, 3))}</text>'
            )
    return Chart(
        title,
        svg.drawing(title, parts, height, width),
        ["", *columns],
        [[label, *cells] for label, cells in rows],
    )
