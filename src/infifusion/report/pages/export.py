"""The report's figures as files for papers and slides: SVG to look at, CSV to calculate with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infifusion.recipe.variants import file_word
from infifusion.report.charts.chart import Chart, as_csv, standalone
from infifusion.report.charts.heat import heat_chart
from infifusion.report.damaged import run_as_written
from infifusion.report.pages.compare import comparison_view, read_runs
from infifusion.report.run_folder import Run, read_run
from infifusion.report.summary import summary_of
from infifusion.report.tabs.bits import bits_view
from infifusion.report.tabs.cost import cost_view
from infifusion.report.tabs.merges import merge_view
from infifusion.report.tabs.responses import responses_view
from infifusion.report.tabs.scores import scores_view
from infifusion.report.tabs.teaching import teaching_view
from infifusion.report.tabs.training import training_view
from infifusion.store.durable import atomic_write
from infifusion.store.records import Json


def export_figures(run_dirs: Sequence[Path], folder: Path) -> list[Path]:
    """Write every figure of a run's report, or of the comparison of several runs, to `folder`:
    NAME.svg in the light colours, and NAME.csv; returns the paths.

    Raises ArtifactError as the report does.
    """
    with run_as_written(", ".join(map(str, run_dirs))):
        if len(run_dirs) == 1:
            run = read_run(run_dirs[0])
            charts = figures_of(run, summary_of(run))
        else:
            charts = comparison_view(read_runs(run_dirs))["charts"]
    written = []
    for name, chart in charts.items():
        word = file_word(name).strip("-")
        for path, text in (
            (folder / f"{word}.svg", standalone(chart)),
            (folder / f"{word}.csv", as_csv(chart)),
        ):
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def figures_of(run: Run, summary: Json) -> dict[str, Chart]:
    """Every chart of the report under its file's name, and the merges' grids, which the page shows
    as tables."""
    charts: dict[str, Chart] = {}
    parts: list[Any] = [scores_view(run, summary), bits_view(run, summary), training_view(run)]
    parts += [responses_view(run), cost_view(run)]
    parts += (teaching_view(run) or {}).get("targets", [])
    for part in parts:
        charts |= (part or {}).get("charts", {}) | (part or {}).get("pair_charts", {})
    for merge in merge_view(run):
        charts |= (merge["deltas"] or {}).get("charts", {})
        for grid in merge["grids"]:
            rows = [(str(n), [cell["value"] for cell in cells]) for n, cells in grid["rows"]]
            if rows:
                charts[f"{grid['measure']}-by-layer-{merge['name']}"] = heat_chart(
                    grid["title"], grid["kinds"], rows
                )
    return charts
