"""The results of a sweep as tables (CSV, Markdown) and as one page with plots. Reads JSON only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from infifusion.report.chart import Chart, csv_text
from infifusion.report.document import document, write_text
from infifusion.report.dots import Dot, dot_chart
from infifusion.report.run_folder import Json
from infifusion.report.table import MISSING, markdown

WIDEST_LABELS = 300
COLUMNS = (
    *("setting", "arm", "figure", "value", "error", "seeds"),
    *("against", "difference", "difference_error", "low", "high", "p_value", "p_holm"),
)
CAPTION = (
    "Mean ± standard error over seeds. Accuracy in %, differences in points: mean over tasks, "
    "95 % interval by a bootstrap over seeds and items, p by an exact McNemar test on all paired "
    "items, corrected by Holm over all rows of the sweep. Bits per byte: mean over domains, lower "
    "is better. GFLOP: billions of operations of the arm's teacher passes and training, as planned."
)


def write_sweep_report(results: Json, out: Path) -> Path:
    """Write OUT/results.csv, results.md and results.html, each whole; returns the page's path."""
    write_text(out / "results.csv", csv_table(results))
    write_text(out / "results.md", markdown_of(results))
    return write_text(out / "results.html", page_of(results))


def csv_table(results: Json) -> str:
    """One line per setting, arm and figure: value, error, and the comparison with each base."""
    lines: list[list[object]] = []
    for row in results["rows"]:
        start, seeds = [row["setting"], row["arm"]], len(row["seeds"])
        figures = {f"accuracy {task}": value for task, value in row["accuracy"].items()}
        figures |= {f"bits {domain}": value for domain, value in row["bits"].items()}
        for name, key in (("accuracy mean", "mean_accuracy"), ("bits mean", "mean_bits")):
            if key in row:
                figures[name] = row[key]
        for figure, (value, error) in figures.items():
            for base, against in (row["against"] or {"": {}}).items():
                difference = _difference_cells(figure, against)
                lines.append([*start, figure, value, error, seeds, base, *difference])
        for figure in ("seconds", "training_seconds", "flops"):
            if row[figure] is not None:
                lines.append([*start, figure, row[figure], "", seeds, *[""] * 7])
    return csv_text(COLUMNS, lines)


def _difference_cells(figure: str, against: Json) -> list[object]:
    """Difference, its error, interval and p-values of one figure, as far as there are any."""
    kind, name = figure.split(" ", 1)
    if kind == "bits":
        of_bits = {"mean": against.get("bits"), **against.get("bits_by_domain", {})}
        return [*(of_bits.get(name) or ["", ""]), "", "", "", ""]
    test: Json = against if name == "mean" else against.get("tasks", {}).get(name, {})
    if "difference" not in test:
        return [""] * 6
    low, high = test["ci95"]
    return [test["difference"], test["error"], low, high, test["p_value"], test.get("p_holm")]


def markdown_of(results: Json) -> str:
    """A table per setting, and what is missing."""
    parts = [f"# {results['name']}", "", CAPTION, ""]
    for setting in results["settings"]:
        if setting:
            parts += [f"## {setting}", ""]
        parts += [markdown_table(results, setting), ""]
    for where in results["missing"]:
        parts.append(
            f"* not scored: {where['arm']}, seed {where['seed']}, {where['setting'] or 'all'}"
        )
    return "\n".join(parts).rstrip() + "\n"


def markdown_table(results: Json, setting: str, *, bases: list[str] | None = None) -> str:
    """One setting's rows; `bases` chooses what they are compared with."""
    return bar_free_markdown(*table_cells(results, setting, bases=bases))


def bar_free_markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a bar in a cell, which would end it, becomes a slash."""
    lines = [[cell.replace("|", "/") for cell in line] for line in [header, *rows]]
    return markdown(lines[0], lines[1:])


class _Column(NamedTuple):
    """A column of a table: its title, the keys that lead to its value in a row, and how the value
    is written."""

    title: str
    keys: tuple[str, ...]
    written: Callable[[Any], str]

    def cell(self, row: Any) -> str:
        """The row's cell; MISSING where one of the keys, or the value, is not there."""
        for key in self.keys:
            row = None if row is None else row.get(key)
        return MISSING if row is None else self.written(row)


def table_cells(
    results: Json, setting: str, *, bases: list[str] | None = None
) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of one setting, as text. Bits per byte by domain where there are no tasks."""
    tasks: list[str] = results["tasks"]
    rows = [row for row in results["rows"] if row["setting"] == setting]
    domains = [] if tasks else list(dict.fromkeys(name for row in rows for name in row["bits"]))
    columns = [_Column("arm", ("arm",), str)]
    columns += [_Column(f"{task} %", ("accuracy", task), spread) for task in tasks]
    if len(tasks) > 1:
        columns.append(_Column("mean %", ("mean_accuracy",), spread))
    columns += [_Column(f"{domain} bits", ("bits", domain), _bits) for domain in domains]
    with_bits = any("mean_bits" in row for row in rows)
    for base in results["against"] if bases is None else bases:
        here = ("against", base)
        if tasks:
            columns.append(_Column(f"minus {base}", here, points))
            columns.append(_Column("95 %", (*here, "ci95"), "{0[0]:+.1f} to {0[1]:+.1f}".format))
            columns.append(_Column("p", (*here, "p_holm"), "{:.2g}".format))
        for domain in domains:
            keys = (*here, "bits_by_domain", domain)
            columns.append(_Column(f"{domain} minus {base}", keys, _fewer_bits))
        if with_bits:
            columns.append(_Column(f"bits minus {base}", (*here, "bits"), _fewer_bits))
    if with_bits:
        columns.append(_Column("bits", ("mean_bits",), _bits))
    columns.append(_Column("training s", ("training_seconds",), "{:.0f}".format))
    columns.append(_Column("GFLOP", ("flops",), lambda flops: f"{flops / 1e9:,.0f}"))
    return [c.title for c in columns], [[c.cell(row) for c in columns] for row in rows]


def points(against: Json) -> str:
    """The difference in points with its error, MISSING where no task was compared."""
    if "difference" not in against:
        return MISSING
    return spread((against["difference"], against["error"]), sign=True)


def _bits(value: list[float]) -> str:
    return spread(value, digits=3)


def _fewer_bits(value: list[float]) -> str:
    return spread(value, digits=3, sign=True)


def spread(
    value: tuple[float, float | None] | list[float] | None, *, digits: int = 1, sign: bool = False
) -> str:
    """mean ± standard error; the mean alone for one seed."""
    if value is None:
        return MISSING
    mean, error = value
    text = f"{mean:+.{digits}f}" if sign else f"{mean:.{digits}f}"
    return text if error is None else f"{text} ± {error:.{digits}f}"


def page_of(results: Json) -> str:
    """The page: per setting the differences as dots with intervals, and the table."""
    views = []
    for setting in results["settings"]:
        header, rows = table_cells(results, setting)
        by_base = [difference_charts(results, setting, base) for base in results["against"]]
        charts = [chart for charts in by_base for chart in charts.values()]
        views.append({"title": setting, "header": header, "rows": rows, "charts": charts})
    return document(
        "sweep.html",
        styles=("base.css", "charts.css"),
        name=results["name"],
        caption=CAPTION,
        seeds=results["seeds"],
        views=views,
        missing=results["missing"],
    )


def difference_charts(results: Json, setting: str, base: str) -> dict[str, Chart]:
    """Every arm minus the base: `accuracy` and `bits`, as far as there are any."""
    accuracy, bits = [], []
    for row in results["rows"]:
        against = row["against"].get(base, {}) if row["setting"] == setting else {}
        if "difference" in against:
            low, high = against["ci95"]
            shown = f"{against['difference']:+.1f}"
            kind = _kind(low, high)
            accuracy.append(Dot(row["arm"], against["difference"], shown, kind, low, high))
        if "bits" in against:
            mean, error = against["bits"]
            dot = Dot(row["arm"], mean, f"{mean:+.3f}", "unclear")
            if error is not None:
                low, high = mean - 2 * error, mean + 2 * error
                dot = replace(dot, kind=_kind(-high, -low), low=low, high=high)
            bits.append(dot)
    wanted = {
        "accuracy": (f"accuracy minus {base}, points, 95 %", accuracy),
        "bits": (f"bits per byte minus {base}, ± 2 errors", bits),
    }
    return {
        kind: dot_chart(title, dots, zero=True, most=WIDEST_LABELS)
        for kind, (title, dots) in wanted.items()
        if dots
    }


def _kind(low: float, high: float) -> str:
    """What an interval of a gain says: better, worse, or unclear where it holds zero."""
    return "better" if low > 0 else "worse" if high < 0 else "unclear"
