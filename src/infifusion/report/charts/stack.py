"""Shares of a whole: along an axis as areas, by name as bars."""

from __future__ import annotations

from collections.abc import Sequence

from infifusion.report.charts.chart import (
    COLOURS,
    WIDTH,
    Chart,
    axis,
    axis_label,
    drawing,
    grid_x,
    grid_y,
    number,
    short,
    text,
    whole_ticks,
)

HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 190, 44, 34, 6, 10
LABELS, ROW = 92, 30
BAR_RIGHT = 20
"""Room for half of the last tick."""
NARROWEST_LABELLED = 0.11


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
    x_low, x_high, x_ticks = axis(xs, margin=0)
    x_ticks = whole_ticks(xs, x_ticks)

    def place(x: float, y: float) -> str:
        return (
            f"{LEFT + (WIDTH - LEFT - RIGHT) * (x - x_low) / (x_high - x_low):.1f} "
            f"{TOP + (HEIGHT - BOTTOM - TOP) * (1 - y):.1f}"
        )

    parts = []
    floor = [0.0] * len(xs)
    for s in range(len(shares[0])):
        top = [below + share[s] for below, share in zip(floor, shares, strict=True)]
        edge = [place(x, y) for x, y in zip(xs, top, strict=True)]
        back = [place(x, y) for x, y in zip(xs, floor, strict=True)][::-1]
        parts.append(
            f'<path class="area c{s % COLOURS}" d="M{"L".join(edge + back)}Z">'
            f"<title>{text(names[s])}</title></path>"
        )
        floor = top
    for tick in x_ticks:
        parts.append(grid_x(float(place(tick, 0).split()[0]), HEIGHT - BOTTOM, number(tick)))
    for tick in (0.0, 0.5, 1.0):
        parts.append(
            grid_y(float(place(x_low, tick).split()[1]), LEFT, WIDTH - RIGHT, number(tick))
        )
    parts.append(axis_label(x_label, (WIDTH + LEFT) / 2, HEIGHT - 3))
    rows: list[list[object]] = [[x, *share] for x, share in zip(xs, shares, strict=True)]
    return Chart(
        title,
        drawing(title, parts, HEIGHT),
        [x_label, *names],
        rows,
        values={
            "x": [LEFT, WIDTH - RIGHT, x_low, x_high],
            "y": [TOP, HEIGHT - BOTTOM],
            "label": x_label,
            "lines": [
                {
                    "name": name,
                    "colour": s % COLOURS,
                    "points": [[x, share[s]] for x, share in zip(xs, shares, strict=True)],
                }
                for s, name in enumerate(names)
            ],
        },
    )


def bar_chart(
    title: str, bars: Sequence[tuple[str, Sequence[float]]], *, names: Sequence[str], rest: str
) -> Chart:
    """One bar per (label, shares), 0 to 1 wide, shares in the order of names; what is missing from
    1 is `rest`."""
    height = ROW * len(bars) + 24
    plot = WIDTH - LABELS - BAR_RIGHT
    parts = [
        grid_x(LABELS + plot * tick, height - 20, f"{round(100 * tick)} %") for tick in (0, 0.5, 1)
    ]
    for row, (label, shares) in enumerate(bars):
        y = 4 + ROW * row
        parts.append(
            f'<text x="{LABELS - 8}" y="{y + 16}" text-anchor="end">{text(short(label, 14))}</text>'
            f'<rect class="rest" x="{LABELS}" y="{y}" width="{plot}" height="{ROW - 8}">'
            f"<title>{text(rest)}</title></rect>"
        )
        at = 0.0
        for s, share in enumerate(shares):
            inside = f"{round(100 * share)} %" if share >= NARROWEST_LABELLED else ""
            parts.append(
                f'<g class="c{s % COLOURS}"><title>{text(names[s])}: {100 * share:.1f} %</title>'
                f'<rect class="area" x="{LABELS + plot * at:.1f}" y="{y}" '
                f'width="{plot * share:.1f}" height="{ROW - 8}"/>'
                f'<text class="on" x="{LABELS + plot * (at + share / 2):.1f}" y="{y + 15}" '
                f'text-anchor="middle">{inside}</text></g>'
            )
            at += share
    return Chart(
        title,
        drawing(title, parts, height),
        ["", *names, rest],
        [[label, *shares, max(0.0, 1 - sum(shares))] for label, shares in bars],
    )
