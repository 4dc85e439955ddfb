"""A chart: its drawing and its figures, which are the drawing's text alternative and its CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from infifusion.report import svg

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


def standalone(chart: Chart) -> str:
    """A chart as an SVG file of its own: its title inside, colours included."""
    opening, _, rest = str(chart.svg).partition(">")
    box = re.search(r'viewBox="0 0 (\S+) (\S+)"', opening)
    assert box is not None
    width, height = box.group(1), float(box.group(2))
    opening = opening.replace(box.group(0), f'viewBox="0 -20 {width} {height + 20:g}"')
    return (
        f'{opening} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>'
        f'<text x="0" y="-7">{svg.text(chart.title)}</text>{rest}\n'
    )


def as_csv(chart: Chart) -> str:
    """The chart's figures, one line each under a header."""
    return csv_text(chart.header, chart.rows)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV; None is an empty cell."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return file.getvalue()
