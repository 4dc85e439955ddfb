"""A few words of SVG for the figures of docs/concepts.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

INK, FAINT, LINE = "#1c2024", "#5d666f", "#c4ccd4"
BLUE, ORANGE, GREEN, RED = "#2457a6", "#b35900", "#127a3e", "#b3261e"
PALE = {BLUE: "#dbe7f8", ORANGE: "#fbe6d0", GREEN: "#d8f0e0", RED: "#f9dedb", FAINT: "#eef1f4"}
STYLE = (
    "svg{font:14px system-ui,sans-serif;background:#fff}"
    f"text{{fill:{INK}}}"
    ".mono{font-family:ui-monospace,monospace}"
)


def svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """A whole picture; `title` is what a screen reader says."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">\n<style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    colour: str = INK,
    size: int = 14,
    mono: bool = False,
) -> str:
    """Words with their baseline at y."""
    kind = ' class="mono" xml:space="preserve"' if mono else ""
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" font-size="{size}"'
        f' style="fill:{colour}"{kind}>{escape(words)}</text>'
    )


def box(x: float, y: float, width: float, height: float, *, colour: str, radius: int = 4) -> str:
    """A pale rectangle with a border of `colour`."""
    return (
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="{radius}" '
        f'fill="{PALE[colour]}" stroke="{colour}"/>'
    )


def bar(x: float, y: float, width: float, height: float, *, colour: str) -> str:
    """A filled rectangle."""
    return (
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" fill="{colour}"/>'
    )


def line(
    x1: float, y1: float, x2: float, y2: float, *, colour: str = LINE, dashed: bool = False
) -> str:
    """A straight line."""
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" '
        f'stroke="{colour}" stroke-width="1.5"{dash}/>'
    )


def arrow(x1: float, y1: float, x2: float, y2: float, *, colour: str = FAINT) -> str:
    """A line with a head at its end, rightwards or downwards."""
    if abs(x2 - x1) >= abs(y2 - y1):
        head = [(x2 - 8, y2 - 4), (x2, y2), (x2 - 8, y2 + 4)]
    else:
        head = [(x2 - 4, y2 - 8), (x2, y2), (x2 + 4, y2 - 8)]
    return line(x1, y1, x2, y2, colour=colour) + curve(head, colour=colour)


def curve(points: Sequence[tuple[float, float]], *, colour: str) -> str:
    """A line through points."""
    joined = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'


def dot(x: float, y: float, *, colour: str) -> str:
    """A small disc."""
    return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="4.5" fill="{colour}"/>'


def _n(number: float) -> str:
    return f"{number:.1f}".rstrip("0").rstrip(".")
