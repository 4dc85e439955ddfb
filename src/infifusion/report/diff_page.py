"""The page of `infifusion diff`: heat maps of how models differ, layer by layer."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from infifusion.artifacts import Json
from infifusion.report.tensors import grid_of

HERE = Path(__file__).parent


def diff_page(values: Json) -> str:
    """One self-contained page; every name is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    grids = []
    for measure, meaning in values["measures"].items():
        first = values["tensors"][0][measure] if values["tensors"] else None
        if isinstance(first, list):
            for n, model in enumerate(values["models"]):
                rows = [{**tensor, measure: tensor[measure][n]} for tensor in values["tensors"]]
                grids.append({"title": f"{model}: {meaning}", **grid_of(rows, measure)})
        else:
            grids.append({"title": meaning, **grid_of(values["tensors"], measure)})
    return environment.get_template("diff.html").render(
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        base=values["base"],
        models=values["models"],
        grids=grids,
    )
