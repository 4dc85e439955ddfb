"""report/index.html and summary.json of a run: one page that needs no network."""

from __future__ import annotations

from pathlib import Path

from infifusion.report.damaged import run_as_written
from infifusion.report.document import document
from infifusion.report.kinds import KINDS
from infifusion.report.run_folder import Run, read_run
from infifusion.report.summary import summary_of
from infifusion.report.tabs.alignment import coverage_view, teachers_view, worst_tokens_view
from infifusion.report.tabs.bits import bits_view
from infifusion.report.tabs.cost import cost_view
from infifusion.report.tabs.items import items_view
from infifusion.report.tabs.left_out import data_view, left_out_view
from infifusion.report.tabs.merges import merge_view
from infifusion.report.tabs.reproduce import settings_view
from infifusion.report.tabs.responses import responses_view
from infifusion.report.tabs.scores import scores_view
from infifusion.report.tabs.teaching import teaching_view
from infifusion.report.tabs.tokens import tokens_view
from infifusion.report.tabs.training import training_view
from infifusion.report.use import use_view
from infifusion.store.durable import atomic_write
from infifusion.store.records import Json, write_json

STYLES = ("base.css", "charts.css", "parts.css")
SCRIPTS = ("dom.js", "theme.js", "tabs.js", "curves.js", "items.js", "tokens.js", "copy.js")


def write_report(run_dir: Path) -> Path:
    """Write RUN_DIR/summary.json and RUN_DIR/report/index.html, each whole or not at all.

    Returns the page's path. Reads JSON only; a part that the run does not have is said to be
    missing. Raises ArtifactError when `run_dir` is no run folder or a file in it is damaged.
    """
    with run_as_written(str(run_dir)):
        run = read_run(run_dir)
        summary = summary_of(run)
        text = render_page(run, summary)
    write_json(run_dir / "summary.json", summary)
    page = run_dir / "report" / "index.html"
    with atomic_write(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def render_page(run: Run, summary: Json) -> str:
    """The page, in the order of the questions: is it better, who taught it what, what did it cost,
    how is it used, how is it made again."""
    return document(
        "page.html",
        styles=STYLES,
        scripts=SCRIPTS,
        name=run.name,
        kinds=KINDS,
        scores=scores_view(run, summary),
        bits=bits_view(run, summary),
        items=items_view(run),
        teaching=teaching_view(run),
        tokens=tokens_view(run),
        responses=responses_view(run),
        training=training_view(run),
        merges=merge_view(run),
        coverage=coverage_view(run),
        worst=worst_tokens_view(run),
        teachers=teachers_view(run),
        cost=cost_view(run),
        data=data_view(run),
        left_out=left_out_view(run),
        usable=use_view(run, summary),
        settings=settings_view(run),
    )
