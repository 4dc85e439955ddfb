"""The results of a sweep as tables (CSV, Markdown) and as one page with plots. Reads JSON only."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from infifusion.recipe.variants import file_word
from infifusion.report.charts.chart import Chart, standalone
from infifusion.report.charts.dots import Dot, dot_chart
from infifusion.report.document import document
from infifusion.store.durable import atomic_write
from infifusion.store.records import Json

MISSING = "–"
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
    texts = {
        "results.csv": csv_table(results),
        "results.md": markdown_of(results),
        "results.html": page_of(results),
    }
    for name, text in texts.items():
        with atomic_write(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return out / "results.html"


def csv_table(results: Json) -> str:
    """One line per setting, arm and figure: value, error, and the comparison with each base."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in results["rows"]:
        start = [row["setting"], row["arm"]]
        seeds = len(row["seeds"])
        figures = {f"accuracy {task}": value for task, value in row["accuracy"].items()}
        figures |= {f"bits {domain}": value for domain, value in row["bits"].items()}
        for name, key in (("accuracy mean", "mean_accuracy"), ("bits mean", "mean_bits")):
            if key in row:
                figures[name] = row[key]
        for figure, (value, error) in figures.items():
            plain = [*start, figure, value, error, seeds]
            bases = row["against"] or {"": {}}
            for base, found in bases.items():
                writer.writerow([*plain, base, *_difference_cells(figure, found)])
        for figure in ("seconds", "training_seconds", "flops"):
            if row[figure] is not None:
                writer.writerow([*start, figure, row[figure], "", seeds, *[""] * 7])
    return file.getvalue()


def _difference_cells(figure: str, found: Json) -> list[object]:
    kind, name = figure.split(" ", 1)
    if kind == "bits":
        of_bits = {"mean": found.get("bits"), **found.get("bits_by_domain", {})}
        pair: list[float] | None = of_bits.get(name)
        return [""] * 6 if pair is None else [*pair, "", "", "", ""]
    test: Json = found if name == "mean" else found.get("tasks", {}).get(name, {})
    if "difference" not in test:
        return [""] * 6
    return [
        test["difference"],
        test["error"],
        *test["ci95"],
        test["p_value"],
        test.get("p_holm"),
    ]


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
    return _markdown(*table_cells(results, setting, bases=bases))


def summary_table(results: Json, base: str) -> str:
    """One row per setting: every arm's difference from `base` in points, or in bits per byte where
    there are no tasks; in bold where the 95 % interval leaves zero out and p is below 0.05."""
    arms = [arm for arm in results["arms"] if arm != base]
    rows = []
    for setting in results["settings"]:
        of = {row["arm"]: row for row in results["rows"] if row["setting"] == setting}
        own = of.get(base, {})
        key = "mean_accuracy" if results["tasks"] else "mean_bits"
        cells = [_spread(own.get(key), digits=1 if results["tasks"] else 3)]
        for arm in arms:
            cells.append(_summary_cell(of.get(arm, {}).get("against", {}).get(base, {})))
        rows.append([setting or "all", *cells])
    return _markdown(["setting", base, *(f"{arm} minus {base}" for arm in arms)], rows)


def _summary_cell(found: Json) -> str:
    if "difference" in found:
        low, high = found["ci95"]
        text = _spread((found["difference"], found["error"]), sign=True)
        sure = (low > 0 or high < 0) and found["p_holm"] < 0.05
        return f"**{text}**" if sure else text
    return _spread(found.get("bits"), digits=3, sign=True)


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def table_cells(
    results: Json, setting: str, *, bases: list[str] | None = None
) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of one setting, as text. Bits per byte by domain where there are no tasks."""
    compared: list[str] = results["against"] if bases is None else bases
    tasks: list[str] = results["tasks"]
    rows = [row for row in results["rows"] if row["setting"] == setting]
    with_bits = any("mean_bits" in row for row in rows)
    domains = [] if tasks else list(dict.fromkeys(name for row in rows for name in row["bits"]))
    header = ["arm", *(f"{task} %" for task in tasks), *(["mean %"] if len(tasks) > 1 else [])]
    header += [f"{domain} bits" for domain in domains]
    for base in compared:
        header += [f"minus {base}", "95 %", "p"] if tasks else []
        header += [f"{domain} minus {base}" for domain in domains]
        header += [f"bits minus {base}"] if with_bits else []
    header += ["bits"] if with_bits else []
    header += ["training s", "GFLOP"]
    cells = []
    for row in rows:
        line = [row["arm"], *(_spread(row["accuracy"].get(task)) for task in tasks)]
        line += [_spread(row.get("mean_accuracy"))] if len(tasks) > 1 else []
        line += [_spread(row["bits"].get(domain), digits=3) for domain in domains]
        for base in compared:
            found = row["against"].get(base, {})
            if tasks:
                line += _test_cells(found)
            by_domain = found.get("bits_by_domain", {})
            line += [_spread(by_domain.get(name), digits=3, sign=True) for name in domains]
            if with_bits:
                line += [_spread(found.get("bits"), digits=3, sign=True)]
        line += [_spread(row.get("mean_bits"), digits=3)] if with_bits else []
        seconds, flops = row["training_seconds"], row["flops"]
        line += [MISSING if seconds is None else f"{seconds:.0f}"]
        line += [MISSING if flops is None else f"{flops / 1e9:,.0f}"]
        cells.append(line)
    return header, cells


def _test_cells(found: Json) -> list[str]:
    if "difference" not in found:
        return [MISSING] * 3
    low, high = found["ci95"]
    return [
        _spread((found["difference"], found["error"]), sign=True),
        f"{low:+.1f} to {high:+.1f}",
        f"{found['p_holm']:.2g}",
    ]


def _spread(
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
        here = [row for row in results["rows"] if row["setting"] == setting]
        charts = [chart for base in results["against"] for chart in _charts(here, base).values()]
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


def write_sweep_plots(results: Json, folder: Path) -> list[Path]:
    """One SVG file per setting and base, with the differences; for documents."""
    written = []
    for number, setting in enumerate(results["settings"]):
        here = [row for row in results["rows"] if row["setting"] == setting]
        for base in results["against"]:
            for kind, chart in _charts(here, base).items():
                word = file_word(base).strip("-")
                name = "-".join([results["name"], str(number), word, kind])
                path = folder / f"{name}.svg"
                with atomic_write(path) as temporary:
                    temporary.write_text(standalone(chart), encoding="utf-8")
                written.append(path)
    return written


def _charts(rows: list[Json], base: str) -> dict[str, Chart]:
    """Every arm minus the base: `accuracy` and `bits`, as far as there are any."""
    accuracy, bits = [], []
    for row in rows:
        found = row["against"].get(base, {})
        if "difference" in found:
            low, high = found["ci95"]
            kind = "better" if low > 0 else "worse" if high < 0 else "unclear"
            accuracy.append(
                Dot(row["arm"], found["difference"], f"{found['difference']:+.1f}", kind, low, high)
            )
        if "bits" in found:
            mean, error = found["bits"]
            shown = f"{mean:+.3f}"
            if error is None:
                bits.append(Dot(row["arm"], mean, shown, "unclear"))
            else:
                low, high = mean - 2 * error, mean + 2 * error
                kind = "better" if high < 0 else "worse" if low > 0 else "unclear"
                bits.append(Dot(row["arm"], mean, shown, kind, low, high))
    wanted = {
        "accuracy": (f"accuracy minus {base}, points, 95 %", accuracy),
        "bits": (f"bits per byte minus {base}, ± 2 errors", bits),
    }
    return {
        kind: dot_chart(title, dots, zero=True, most=WIDEST_LABELS)
        for kind, (title, dots) in wanted.items()
        if dots
    }
