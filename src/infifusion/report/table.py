"""The table of results, for the terminal and for Markdown."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

from infifusion.report.summary import domains_of, tasks_of
from infifusion.store.records import Json

MISSING = "–"
BEYOND = 0.01
CAPTION = (
    "%: accuracy ± half of its 95 % Wilson interval (few items: its ends); bits: bits per "
    "byte of held-out responses, lower is better."
)
NOTHING = "No model was scored: the recipe has neither data.held_out nor evaluate.tasks."
FIGURES = (
    "lm-eval: what lm-evaluation-harness prints for the same outputs "
    "(docs/scores.md says how it differs)."
)


def console_table(summary: Json) -> Group:
    """One row per model: accuracy of every task, bits per byte of every domain. A sentence where no
    model was scored on anything."""
    header, rows = _cells(summary)
    if len(header) == 1:
        return Group(Text(NOTHING))
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for number, name in enumerate(header):
        title = Text(name.replace(" (", "\n").replace(")", ""))
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell.replace(" ± ", "±")) for cell in row))
    return _over(table, CAPTION)


def _over(table: Table, caption: str) -> Group:
    """The table, and below it a footnote as wide as the terminal: rich would make it as narrow as
    the table."""
    return Group(table, Text(caption, "dim italic"))


def metrics_table(result: Json) -> Group:
    """One row per model, task and figure: what ours is, and what lm-eval prints for the same
    outputs."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for title in ("model", "task", "figure", "%"):
        table.add_column(title, justify="right" if title == "%" else "left", overflow="fold")
    for name, model in result["models"].items():
        for task, score in model["scores"].items():
            for figure, value in figures_of(score):
                table.add_row(Text(name), Text(task), Text(figure), Text(value))
    return _over(table, FIGURES)


def figures_of(score: Json) -> list[tuple[str, str]]:
    """(figure, value in per cent) of one task's scores, the headline first."""
    metrics = score.get("metrics", {})
    headline = score.get("headline", "accuracy")
    found = [(f"{headline} (headline)", _accuracy(score).replace(" ± ", "±"))]
    found += [(key, f"{100 * v:.1f}") for key, v in metrics.items() if key != headline]
    for family in ("pass@k", "maj@k"):
        for k, estimate in score.get(family, {}).items():
            value = per_cent(estimate["value"], *estimate["ci95"]).replace(" ± ", "±")
            found.append((family.replace("k", k), value))
    for key, value in score.get("lm_eval", {}).items():
        if "_stderr," not in key:
            found.append((f"lm-eval {key}", f"{100 * value:.2f}"))
    size = score.get("samples", 1) * score["n"]
    cut_off = score.get("truncated", 0) * score.get("samples", 1)
    return [*found, ("cut off", f"{100 * cut_off / size:.1f}")]


def markdown_table(summary: Json) -> str:
    """The same table as GitHub Markdown, with a final line break."""
    header, rows = _cells(summary)
    lines = [
        [cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [header, *rows]
    ]
    return markdown(lines[0], lines[1:]) + "\n"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table in GitHub's Markdown: names at the left, figures at the right. The cells hold no
    bars."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(summary: Json) -> tuple[list[str], list[list[str]]]:
    tasks, domains = tasks_of(summary), domains_of(summary)
    header = ["model", *(f"{t} (%)" for t in tasks), *(f"{d} (bits)" for d in domains)]
    rows = [
        [
            name,
            *(_accuracy(model["scores"].get(task)) for task in tasks),
            *(_bits(model["bits_per_byte"].get(domain)) for domain in domains),
        ]
        for name, model in summary["models"].items()
    ]
    return header, rows


def _accuracy(score: Json | None) -> str:
    if score is None:
        return MISSING
    return per_cent(score["accuracy"], *score["ci95"])


def per_cent(share: float, low: float, high: float) -> str:
    """A share with its interval: 43.2 ± 2.7; with both ends where half of its width on either side
    would lead below 0 or above 100 by more than a point, as few items do: 0.0 (0.0 to 49.0)."""
    half = (high - low) / 2
    if share - half < -BEYOND or share + half > 1 + BEYOND:
        return f"{100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * share:.1f} ± {100 * half:.1f}"


def _bits(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"
