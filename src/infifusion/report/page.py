"""report/index.html and summary.json of a run: one page that needs no network."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
from markupsafe import Markup

from infifusion.artifacts import Json, atomic_write, write_json
from infifusion.errors import ArtifactError
from infifusion.report.bookkeeping import (
    coverage_view,
    data_view,
    left_out_view,
    settings_view,
    teachers_view,
    timings_view,
)
from infifusion.report.items import items_view
from infifusion.report.responses import responses_view
from infifusion.report.run_folder import Run, read_run
from infifusion.report.scores import bits_view, scores_view
from infifusion.report.summary import summary_of
from infifusion.report.teaching import teaching_view
from infifusion.report.tensors import merge_view
from infifusion.report.training import training_view

HERE = Path(__file__).parent


def write_report(run_dir: Path) -> Path:
    """Write RUN_DIR/summary.json and RUN_DIR/report/index.html, each whole or not at all.

    Returns the page's path. Reads JSON only; a part that the run does not have is said to be
    missing. Raises ArtifactError when `run_dir` is no run folder or a file in it is damaged.
    """
    try:
        run = read_run(run_dir)
        summary = summary_of(run)
        text = render_page(run, summary)
    except (LookupError, TypeError, ValueError, AttributeError, jinja2.TemplateError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"{run_dir}: a file of the run does not hold what a run writes ({error!r:.200}): it is "
            "damaged, or of another version. Run the recipe again with --redo."
        ) from error
    write_json(run_dir / "summary.json", summary)
    page = run_dir / "report" / "index.html"
    with atomic_write(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def render_page(run: Run, summary: Json) -> str:
    """The page; everything that comes from data or models is escaped by the template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script_json"] = script_json
    return environment.get_template("page.html").render(
        name=run.resolved.get("recipe", {}).get("name") or run.folder.resolve().name,
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        js=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        scores=scores_view(run, summary),
        bits=bits_view(run, summary),
        responses=responses_view(run),
        teaching=teaching_view(run),
        training=training_view(run),
        merges=merge_view(run),
        coverage=coverage_view(run),
        teachers=teachers_view(run),
        items=items_view(run),
        data=data_view(run),
        left_out=left_out_view(run),
        timings=timings_view(run),
        settings=settings_view(run),
    )


def script_json(value: object) -> Markup:
    """JSON that can stand inside a script element: no `<` that could end it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
