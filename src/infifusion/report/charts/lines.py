"""Curves over one x axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infifusion.report.charts.chart import (
    COLOURS,
    WIDTH,
    Chart,
    axis,
    axis_label,
    drawing,
    drawn,
    grid_x,
    grid_y,
    number,
    text,
    whole_ticks,
)

HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 210, 44, 34, 6, 10
Point = tuple[float, float | None]


@dataclass(frozen=True)
class Line:
    """One curve; number decides its colour."""

    label: str
    points: list[Point]
    number: int


def line_chart(title: str, lines: Sequence[Line], *, x_label: str) -> Chart | None:
    """Curves over a shared x axis; None where no value can be drawn."""
    points = [(x, y) for line in lines for x, y in line.points if drawn(y)]
    if not points:
        return None
    x_low, x_high, x_ticks = axis([x for x, _ in points], margin=0)
    x_ticks = whole_ticks([x for x, _ in points], x_ticks)
    y_low, y_high, y_ticks = axis([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * (x - x_low) / (x_high - x_low),
            TOP + (HEIGHT - BOTTOM - TOP) * (y_high - y) / (y_high - y_low),
        )

    parts = [grid_x(place(t, 0)[0], HEIGHT - BOTTOM, number(t)) for t in x_ticks]
    parts += [grid_y(place(0, t)[1], LEFT, WIDTH - RIGHT, number(t)) for t in y_ticks]
    parts.append(axis_label(x_label, (WIDTH + LEFT) / 2, HEIGHT - 3))
    for line in lines:
        path, pen = "", "M"
        for x_value, y_value in line.points:
            if not drawn(y_value):
                pen = "M"
                continue
            path += "{}{:.1f} {:.1f}".format(pen, *place(x_value, y_value))
            pen = "L"
        parts.append(
            f'<path class="line c{line.number % COLOURS}" d="{path}">'
            f"<title>{text(line.label)}</title></path>"
        )
    xs = sorted({x for line in lines for x, _ in line.points})
    by_line = [dict(line.points) for line in lines]
    return Chart(
        title,
        drawing(title, parts, HEIGHT),
        [x_label, *(line.label for line in lines)],
        [[x, *(points.get(x) for points in by_line)] for x in xs],
        values={
            "x": [LEFT, WIDTH - RIGHT, x_low, x_high],
            "y": [TOP, HEIGHT - BOTTOM],
            "label": x_label,
            "lines": [
                {
                    "name": line.label,
                    "colour": line.number % COLOURS,
                    "points": [[x, _rounded(y)] for x, y in line.points if drawn(y)],
                }
                for line in lines
            ],
        },
    )


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
