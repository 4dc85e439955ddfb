"""The page of `infifusion diff`: heat maps of how models differ, layer by layer."""

from __future__ import annotations

from infifusion.report.document import document
from infifusion.report.run_folder import Json
from infifusion.report.tensors import grid_of


def diff_page(values: Json) -> str:
    """One self-contained page; every name is escaped."""
    grids = []
    for measure, meaning in values["measures"].items():
        first = values["tensors"][0][measure] if values["tensors"] else None
        if isinstance(first, list):
            for n, model in enumerate(values["models"]):
                rows = [{**tensor, measure: tensor[measure][n]} for tensor in values["tensors"]]
                grids.append({"title": f"{model}: {meaning}", **grid_of(rows, measure)})
        else:
            grids.append({"title": meaning, **grid_of(values["tensors"], measure)})
    return document(
        "diff.html",
        styles=("base.css", "charts.css"),
        base=values["base"],
        models=values["models"],
        grids=grids,
    )
