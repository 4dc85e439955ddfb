"""The report's figures as files for papers and slides: SVG to look at, CSV to calculate with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from infifusion.report.chart import Chart, as_csv, standalone
from infifusion.report.document import file_name, write_text
from infifusion.report.heat import heat_chart
from infifusion.report.pages.compare import comparison_view
from infifusion.report.pages.merges import merge_view
from infifusion.report.pages.page import VIEWS
from infifusion.report.run_folder import Run, read_run, read_runs, run_as_written


def export_figures(run_dirs: Sequence[Path], folder: Path) -> list[Path]:
    """Write every figure of a run's report, or of the comparison of several runs, to `folder`:
    NAME.svg in the light colours, and NAME.csv; returns the paths.

    Raises ArtifactError as the report does.
    """
    with run_as_written(", ".join(map(str, run_dirs))):
        if len(run_dirs) == 1:
            run = read_run(run_dirs[0])
            charts = dict(charts_in([view(run) for view in VIEWS.values()])) | heat_maps(run)
        else:
            charts = dict(charts_in(comparison_view(read_runs(run_dirs))))
    written = []
    for name, chart in charts.items():
        for ending, text in (("svg", standalone(chart)), ("csv", as_csv(chart))):
            written.append(write_text(folder / f"{file_name(name)}.{ending}", text))
    return written


def charts_in(view: object) -> Iterator[tuple[str, Chart]]:
    """Every chart anywhere in a view, under its name."""
    if isinstance(view, dict):
        for name, part in view.items():
            if isinstance(part, Chart):
                yield name, part
            else:
                yield from charts_in(part)
    elif isinstance(view, list | tuple):
        for part in view:
            yield from charts_in(part)


def heat_maps(run: Run) -> dict[str, Chart]:
    """The merges' grids, which the page shows as tables."""
    charts = {}
    for merge in merge_view(run):
        for grid in merge["grids"]:
            rows = [(str(n), [cell["value"] for cell in cells]) for n, cells in grid["rows"]]
            if rows:
                name = f"{grid['measure']}-by-layer-{merge['name']}"
                charts[name] = heat_chart(grid["title"], grid["kinds"], rows)
    return charts
