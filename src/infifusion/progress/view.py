"""A run as a terminal shows it: the bar of one piece of work, the live view, the frame of watch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from infifusion.process.bar import work_line
from infifusion.process.meter import duration
from infifusion.progress.state import RunState, Status

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 24
MARKS = {
    Status.WAITING: ("·", "dim"),
    Status.RUNNING: ("▶", "cyan"),
    Status.DONE: ("✓", "green"),
    Status.STOPPED: ("■", "yellow"),
    Status.FAILED: ("✗", "red"),
}


def sparkline(values: Sequence[float], width: int = CURVE_WIDTH) -> str:
    """The values as blocks from the lowest to the highest, in at most `width` columns (means)."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if not finite:
        return ""
    columns = min(width, len(finite))
    edges = [round(i * len(finite) / columns) for i in range(columns + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in means)


def stage_words(state: RunState) -> str:
    """The stage under way, such as `stage 5 of 14: distill unified`."""
    if state.current is None or state.step is None:
        done = sum(step.status == Status.DONE for step in state.steps)
        return f"{done} of {len(state.steps)} stages done"
    name = state.step.name.replace("/", " ", 1)
    return f"stage {state.current + 1} of {len(state.steps)}: {name}"


def run_words(state: RunState) -> str:
    """Time since the start, time left, free space on the disk."""
    said = [duration(max(0.0, state.updated - state.started))]
    left = state.left()
    if left and state.status == Status.RUNNING:
        said.append(f"about {duration(left)} left")
    if state.disk_free is not None:
        said.append(f"{state.disk_free / 1e9:,.1f} GB free on the disk")
    return ", ".join(said)


def live_view(state: RunState, *, width: int) -> RenderableType:
    """Two lines at the foot of the terminal, and a third one for losses."""
    lines: list[RenderableType] = [
        Text(f"{state.name}  {stage_words(state)}  ({run_words(state)})", "bold")
    ]
    if state.work is not None:
        lines.append(work_line(state.work, width=width))
        if len(state.work.curve) > 1:
            first, last = state.work.curve[0], state.work.curve[-1]
            curve = sparkline(state.work.curve, min(60, max(8, width - 30)))
            lines.append(Text(f"loss {first:.3g} {curve} {last:.3g}", "cyan", no_wrap=True))
    return Group(*lines)


def watch_view(state: RunState, *, life: str, width: int) -> RenderableType:
    """Everything that progress.json holds, a row per stage; life: `sign_of_life` of the run."""
    mark, colour = MARKS[Status(state.status)]
    head = Text(f"{mark} {state.name}: {state.status}", f"bold {colour}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "stage", "done", "time", "loss"):
        table.add_column(title, no_wrap=True)
    for step in state.steps:
        mark, colour = MARKS[Status(step.status)]
        work = state.work if step is state.step else None
        curve = work.curve if work is not None and work.curve else step.curve
        ends = f"{curve[0]:.3g} {sparkline(curve)} {curve[-1]:.3g}" if curve else ""
        table.add_row(
            Text(mark, colour),
            Text(step.name, colour if step.status != Status.WAITING else "dim"),
            "" if work is None else f"{100 * work.share:.0f} %",
            duration(step.seconds) if step.seconds else "",
            ends,
        )
    words: list[RenderableType] = [head, Text(f"{stage_words(state)}; {run_words(state)}"), table]
    if state.work is not None:
        words.append(work_line(state.work, width=width))
    if state.message:
        words.append(Text(state.message, "red" if state.status == Status.FAILED else ""))
    return Group(*words, Text(life, "dim"))
