"""How far the distilled pivots moved from the pivot, and how far in one direction."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

from infifusion.report.chart import Chart
from infifusion.report.curves import Line, line_chart
from infifusion.report.run_folder import Json, Run
from infifusion.report.tensors import place_of

CLOSEST = 70
"""Per cent of the accent colour at a cosine of 1."""


def deltas_view(run: Run, merge: str) -> dict[str, Any] | None:
    """Cosines between the changes of every pair of models over the whole model, and changes by
    layer; None where the merge did not record them."""
    recorded = run.deltas.get(merge)
    if not recorded or not recorded["tensors"]:
        return None
    models, tensors = recorded["models"], recorded["tensors"]
    moved, cosines = _moved(tensors, len(models)), _cosines(tensors, len(models))
    return {
        "models": models,
        "rows": [
            {
                "model": model,
                "moved": moved[s],
                "cells": [
                    _cell(1.0 if s == other else cosines.get((min(s, other), max(s, other))))
                    for other in range(len(models))
                ],
            }
            for s, model in enumerate(models)
        ],
        "charts": _charts(merge, models, tensors),
    }


def _squares(tensors: list[Json], models: int) -> list[float]:
    """Squared size of each model's change over these tensors."""
    return [math.fsum(t["norm"][s] ** 2 for t in tensors) for s in range(models)]


def _moved(tensors: list[Json], models: int) -> list[float | None]:
    """Size of each model's change relative to the pivot's weights; None where those are all 0."""
    base = math.fsum(t["base_norm"] ** 2 for t in tensors)
    return [math.sqrt(own / base) if base else None for own in _squares(tensors, models)]


def _cosines(tensors: list[Json], models: int) -> dict[tuple[int, int], float]:
    """Cosine of each pair over all tensors: sum of products over the product of the norms."""
    squares, cosines = _squares(tensors, models), {}
    for n, (a, b) in enumerate(combinations(range(models), 2)):
        product = math.fsum((t["cosine"][n] or 0.0) * t["norm"][a] * t["norm"][b] for t in tensors)
        if squares[a] and squares[b]:
            cosines[a, b] = product / math.sqrt(squares[a] * squares[b])
    return cosines


def _charts(merge: str, models: list[str], tensors: list[Json]) -> dict[str, Chart]:
    """Change and cosines by layer; none for a model of one layer."""
    by_layer: dict[int, list[Json]] = {}
    for tensor in tensors:
        layer = place_of(tensor["name"]).layer
        if layer is not None:
            by_layer.setdefault(layer, []).append(tensor)
    if len(by_layer) < 2:
        return {}
    layers = sorted(by_layer)
    moved = {layer: _moved(by_layer[layer], len(models)) for layer in layers}
    cosines = {layer: _cosines(by_layer[layer], len(models)) for layer in layers}
    sizes = [
        Line(model, [(float(n), moved[n][s]) for n in layers], s) for s, model in enumerate(models)
    ]
    angles = [
        Line(
            f"{models[pair[0]]} and {models[pair[1]]}",
            [(float(n), cosines[n].get(pair)) for n in layers],
            number,
        )
        for number, pair in enumerate(combinations(range(len(models)), 2))
    ]
    title = "Size of the change relative to the pivot's weights, by layer"
    charts = {
        f"moved-by-layer-{merge}": line_chart(title, sizes, x_label="layer"),
        f"cosine-by-layer-{merge}": line_chart(
            "Cosine between the changes, by layer", angles, x_label="layer"
        ),
    }
    return {name: chart for name, chart in charts.items() if chart}


def _cell(value: float | None) -> dict[str, Any]:
    """A cosine, and how dark its cell is: only what points the same way is shaded."""
    return {"value": value, "shade": round(CLOSEST * max(value or 0.0, 0.0))}
