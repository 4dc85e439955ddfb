"""A plan in words: the table for the terminal, and one line for the start of a run."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE
from rich.table import Table

COLUMNS = ("stage", "", "tokens", "FLOPs", "written", "memory", "time")


def plan_table(plan: dict[str, Any]) -> Table:
    """A row per thing that is made, and a total."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_footer=False)
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if number < 2 else "right", no_wrap=number != 1)
    last = ""
    for row in plan["rows"]:
        if row["stage"] != last and last:
            table.add_section()
        label = "" if row["stage"] == last else row["stage"]
        last = row["stage"]
        table.add_row(label, row["name"], *_cells(row))
    total = plan["total"]
    table.add_section()
    table.add_row("total", machines(plan), *_cells(total), style="bold")
    return table


def machines(plan: dict[str, Any]) -> str:
    """8 x h200, 2 nodes."""
    found = plan["device"] if plan["count"] == 1 else f"{plan['count']} x {plan['device']}"
    return found if plan["nodes"] == 1 else f"{found}, {plan['nodes']} nodes"


def summary_line(plan: dict[str, Any]) -> str:
    """The plan in one line."""
    total = plan["total"]
    return (
        f"plan: about {duration(total['seconds'])} on {machines(plan)}, "
        f"{number(total['flops'])}FLOP, cache {size(total['cache_bytes'])}, targets "
        f"{size(total['target_bytes'])}, checkpoints {size(total['checkpoint_bytes'])}, memory "
        f"{size(total['memory'])}"
    )


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """What stands under the table: disk, the teacher's comparison, notes."""
    total = plan["total"]
    lines = [
        f"disk      cache {size(total['cache_bytes'])}, targets {size(total['target_bytes'])}, "
        f"checkpoints {size(total['checkpoint_bytes'])}; at most {size(total['disk'])} at once",
    ]
    if teacher := plan["teacher"]:
        lines.append(
            f"teacher   cached: {duration(teacher['cached_seconds'])} and "
            f"{size(teacher['cached_bytes'])}; online: {duration(teacher['online_seconds'])} "
            f"({teacher['passes']:.1f} passes), an estimate. {teacher['cheaper']} is cheaper"
        )
    lines += [f"note      {note}" for note in plan["notes"]]
    return lines + [f"WARNING   {sentence}" for sentence in plan["advice"]]


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        f"{number(row['tokens'])}".strip() if row["tokens"] else "",
        number(row["flops"]).strip() if row["flops"] else "",
        size(row["bytes"]) if row["bytes"] else "",
        size(row["memory"]) if row["memory"] else "",
        duration(row["seconds"]),
    ]


def number(value: float) -> str:
    """1.5 M, 2.1 E: with a prefix of the SI."""
    for prefix, unit in (("Z", 1e21), ("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= unit:
            return f"{value / unit:.1f} {prefix}"
    for prefix, unit in (("M", 1e6), ("k", 1e3)):
        if value >= unit:
            return f"{value / unit:.1f} {prefix}"
    return f"{value:.0f} "


def size(value: float) -> str:
    """1.5 GB, in powers of ten."""
    for prefix, unit in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= unit:
            return f"{value / unit:.1f} {prefix}"
    return f"{value / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """8 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
