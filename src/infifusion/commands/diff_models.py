"""`infifusion diff`: the table, and the page, of how models differ from a base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from infifusion.errors import RecipeError
from infifusion.merge.engine.diff import MEASURES, differences
from infifusion.merge.engine.models import open_model
from infifusion.report.pages.diff_page import diff_page
from infifusion.store.durable import atomic_write

WORST = 20  # tensors in the printed table


def diff_command(names: list[str], *, html: Path | None) -> tuple[str, dict[str, Any]]:
    """The table to print, and all of it as values; a page with heat maps where asked for."""
    if len(names) < 2:
        raise RecipeError("diff compares a base with one model or more: infifusion diff BASE A B.")
    base = open_model(names[0], Path())
    models = [open_model(name, Path(), like=base) for name in names[1:]]
    values = {
        "base": names[0],
        "models": names[1:],
        "measures": MEASURES,
        "tensors": differences(base, models),
    }
    if html is not None:
        with atomic_write(html) as temporary:
            temporary.write_text(diff_page(values), encoding="utf-8")
    return _as_text(values, html), values


def _as_text(values: dict[str, Any], html: Path | None) -> str:
    """The tensors that changed most, and the mean over all."""
    tensors = values["tensors"]
    table = Table(title=f"{', '.join(values['models'])} against {values['base']}")
    table.add_column("tensor", overflow="fold")
    for key in MEASURES:
        table.add_column(key.replace("_", " "), justify="right", overflow="fold")

    def most(tensor: dict[str, Any]) -> float:
        return -max((value or 0.0 for value in tensor["rms"]), default=0.0)

    for tensor in sorted(tensors, key=most)[:WORST]:
        table.add_row(tensor["name"], *(_cell(tensor[key]) for key in MEASURES))
    table.add_section()
    table.add_row(f"all {len(tensors)}, by weights", *(_cell(_mean(tensors, k)) for k in MEASURES))
    console = Console(width=140)
    with console.capture() as capture:
        console.print(table)
        for key, meaning in MEASURES.items():
            console.print(f"{key.replace('_', ' ')}: {meaning}")
        if html is None:
            console.print("Heat maps: add --html diff.html; every tensor: --json.")
        else:
            console.print(f"Heat maps: {html}")
    return capture.get().rstrip()


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_cell(one) for one in value)
    return "–" if value is None else f"{value:.3g}"


def _mean(tensors: list[dict[str, Any]], key: str) -> Any:
    """Mean over the tensors, each counting as much as it has weights."""
    values = [t[key] for t in tensors]
    if values and isinstance(values[0], list):
        columns = range(len(values[0]))
        return [_mean([{**t, key: t[key][n]} for t in tensors], key) for n in columns]
    known = [(v, t["numel"]) for v, t in zip(values, tensors, strict=True) if v is not None]
    total = sum(weight for _, weight in known)
    return sum(v * weight for v, weight in known) / total if total else None
