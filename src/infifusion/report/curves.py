"""Curves over one x axis, and shares of a whole stacked over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infifusion.report import svg
from infifusion.report.chart import Chart

LEFT, BOTTOM, TOP, RIGHT = 44, 34, 6, 10
Point = tuple[float, float | None]


@dataclass(frozen=True)
class Line:
    """One curve; number decides its colour."""

    label: str
    points: list[Point]
    number: int


def line_chart(title: str, lines: Sequence[Line], *, x_label: str) -> Chart | None:
    """Curves over a shared x axis; None where no value can be svg.drawn."""
    points = [(x, y) for line in lines for x, y in line.points if svg.drawn(y)]
    if not points:
        return None
    plane = _Plane([x for x, _ in points], svg.axis([y for _, y in points]), 210, x_label)
    paths = []
    for line in lines:
        path, pen = "", "M"
        for x, y in line.points:
            if svg.drawn(y):
                path, pen = f"{path}{pen}{plane.at(x, y)}", "L"
            else:
                pen = "M"
        paths.append(
            f'<path class="line {svg.colour(line.number)}" d="{path}">'
            f"<title>{svg.text(line.label)}</title></path>"
        )
    xs = sorted({x for line in lines for x, _ in line.points})
    by_line = [dict(line.points) for line in lines]
    rows: list[list[object]] = [[x, *(points.get(x) for points in by_line)] for x in xs]
    return plane.chart(title, [*plane.grid(), *paths], rows, [_readable(line) for line in lines])


def _readable(line: Line) -> Line:
    """The points that are drawn, with as many digits as a reader wants."""
    points: list[Point] = [(x, float(f"{y:.4g}")) for x, y in line.points if svg.drawn(y)]
    return Line(line.label, points, line.number)


def stacked_chart(
    title: str,
    xs: Sequence[float],
    shares: Sequence[Sequence[float]],
    *,
    names: Sequence[str],
    x_label: str,
) -> Chart | None:
    """Shares of a whole over x: shares[i][s] at xs[i], stacked in the order of s, 0 to 1; names[s]
    says what s is. None for fewer than two places."""
    if len(xs) < 2:
        return None
    plane = _Plane(xs, (0.0, 1.0, [0.0, 0.5, 1.0]), 190, x_label)
    areas = []
    floor = [0.0] * len(xs)
    for s in range(len(shares[0])):
        top = [below + share[s] for below, share in zip(floor, shares, strict=True)]
        edge = list(map(plane.at, xs, top)) + list(map(plane.at, xs, floor))[::-1]
        areas.append(
            f'<path class="area {svg.colour(s)}" d="M{"L".join(edge)}Z">'
            f"<title>{svg.text(names[s])}</title></path>"
        )
        floor = top
    lines = [
        Line(name, [(x, share[s]) for x, share in zip(xs, shares, strict=True)], s)
        for s, name in enumerate(names)
    ]
    rows: list[list[object]] = [[x, *share] for x, share in zip(xs, shares, strict=True)]
    return plane.chart(title, [*areas, *plane.grid()], rows, lines)


class _Plane:
    """The axes of a chart of curves; y: its lowest and highest value, and the ticks between."""

    def __init__(
        self, xs: Sequence[float], y: tuple[float, float, list[float]], height: int, x_label: str
    ) -> None:
        low, high, ticks = svg.axis(xs, margin=0)
        y_low, y_high, self._y_ticks = y
        self._x_ticks = svg.whole_ticks(xs, ticks)
        self._x = svg.Scale(low, high, LEFT, svg.WIDTH - RIGHT)
        self._y = svg.Scale(y_high, y_low, TOP, height - BOTTOM)
        self._height, self._label = height, x_label

    def at(self, x: float, y: float) -> str:
        """A point, as a path names it."""
        return f"{self._x(x):.1f} {self._y(y):.1f}"

    def grid(self) -> list[str]:
        """The lines of the ticks, and what the x svg.axis measures."""
        return [
            *(svg.grid_x(self._x(t), self._y.end, svg.number(t)) for t in self._x_ticks),
            *(
                svg.grid_y(self._y(t), self._x.start, self._x.end, svg.number(t))
                for t in self._y_ticks
            ),
            svg.axis_label(self._label, (svg.WIDTH + LEFT) / 2, self._height - 3),
        ]

    def chart(
        self, title: str, parts: list[str], rows: list[list[object]], lines: Sequence[Line]
    ) -> Chart:
        """The chart of these parts, with what the page's script reads the lines from."""
        x, y = self._x, self._y
        values = {
            "x": [x.start, x.end, x.low, x.high],
            "y": [y.start, y.end],
            "label": self._label,
            "lines": [
                {
                    "name": line.label,
                    "colour": line.number % svg.COLOURS,
                    "points": [list(point) for point in line.points],
                }
                for line in lines
            ],
        }
        header = [self._label, *(line.label for line in lines)]
        return Chart(title, svg.drawing(title, parts, self._height), header, rows, values)
