"""Tables and plots of a sweep for the documents: one row per setting, one SVG file per plot."""

from __future__ import annotations

from pathlib import Path

from infifusion.report.chart import standalone
from infifusion.report.document import file_name, write_text
from infifusion.report.pages.sweep import bar_free_markdown, difference_charts, points, spread
from infifusion.store.records import Json


def summary_table(results: Json, base: str) -> str:
    """One row per setting: every arm's difference from `base` in points, or in bits per byte where
    there are no tasks; in bold where the 95 % interval leaves zero out and p is below 0.05."""
    arms = [arm for arm in results["arms"] if arm != base]
    key, digits = ("mean_accuracy", 1) if results["tasks"] else ("mean_bits", 3)
    rows = []
    for setting in results["settings"]:
        of = {row["arm"]: row for row in results["rows"] if row["setting"] == setting}
        cells = [spread(of.get(base, {}).get(key), digits=digits)]
        for arm in arms:
            cells.append(_summary_cell(of.get(arm, {}).get("against", {}).get(base, {})))
        rows.append([setting or "all", *cells])
    return bar_free_markdown(["setting", base, *(f"{arm} minus {base}" for arm in arms)], rows)


def _summary_cell(against: Json) -> str:
    if "difference" not in against:
        return spread(against.get("bits"), digits=3, sign=True)
    low, high = against["ci95"]
    sure = (low > 0 or high < 0) and against["p_holm"] < 0.05
    return f"**{points(against)}**" if sure else points(against)


def write_sweep_plots(results: Json, folder: Path) -> list[Path]:
    """One SVG file per setting and base, with the differences; for documents."""
    written = []
    for number, setting in enumerate(results["settings"]):
        for base in results["against"]:
            for kind, chart in difference_charts(results, setting, base).items():
                path = folder / f"{results['name']}-{number}-{file_name(base)}-{kind}.svg"
                written.append(write_text(path, standalone(chart)))
    return written
