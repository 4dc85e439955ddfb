"""How far the distilled pivots moved from the pivot, and how far in one direction."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

from infifusion.report.charts.chart import Chart
from infifusion.report.charts.lines import Line, line_chart
from infifusion.report.run_folder import Run
from infifusion.report.tensors import place_of
from infifusion.store.records import Json

CLOSEST = 70
"""Per cent of the accent colour at a cosine of 1."""


def deltas_view(run: Run, merge: str) -> dict[str, Any] | None:
    """Cosines between the changes of every pair of models over the whole model, and changes by
    layer; None where the merge did not record them."""
    found = run.deltas.get(merge)
    if not found or not found["tensors"]:
        return None
    models, tensors = found["models"], found["tensors"]
    base = math.fsum(t["base_norm"] ** 2 for t in tensors)
    squares = [math.fsum(t["norm"][s] ** 2 for t in tensors) for s in range(len(models))]
    cosines = _cosines(tensors, squares)
    return {
        "models": models,
        "rows": [
            {
                "model": model,
                "moved": math.sqrt(squares[s] / base) if base else None,
                "cells": [
                    _cell(1.0 if s == other else cosines.get((min(s, other), max(s, other))))
                    for other in range(len(models))
                ],
            }
            for s, model in enumerate(models)
        ],
        "charts": _charts(merge, models, tensors),
    }


def _cosines(tensors: list[Json], squares: list[float]) -> dict[tuple[int, int], float]:
    """Cosine of each pair over all tensors: sum of products over the product of the norms."""
    found = {}
    for n, (a, b) in enumerate(combinations(range(len(squares)), 2)):
        product = math.fsum((t["cosine"][n] or 0.0) * t["norm"][a] * t["norm"][b] for t in tensors)
        if squares[a] and squares[b]:
            found[a, b] = product / math.sqrt(squares[a] * squares[b])
    return found


def _charts(merge: str, models: list[str], tensors: list[Json]) -> dict[str, Chart]:
    """Change and cosines by layer; none for a model of one layer."""
    layers: dict[int, list[Json]] = {}
    for tensor in tensors:
        layer = place_of(tensor["name"]).layer
        if layer is not None:
            layers.setdefault(layer, []).append(tensor)
    if len(layers) < 2:
        return {}
    moved, alike = [], []
    for s, model in enumerate(models):
        points = []
        for layer in sorted(layers):
            base = math.fsum(t["base_norm"] ** 2 for t in layers[layer])
            own = math.fsum(t["norm"][s] ** 2 for t in layers[layer])
            points.append((float(layer), math.sqrt(own / base) if base else None))
        moved.append(Line(model, points, s))
    for n, (a, b) in enumerate(combinations(range(len(models)), 2)):
        points = []
        for layer in sorted(layers):
            squares = [
                math.fsum(t["norm"][s] ** 2 for t in layers[layer]) for s in range(len(models))
            ]
            points.append((float(layer), _cosines(layers[layer], squares).get((a, b))))
        alike.append(Line(f"{models[a]} and {models[b]}", points, n))
    charts = {
        f"moved-by-layer-{merge}": line_chart(
            "Size of the change relative to the pivot's weights, by layer", moved, x_label="layer"
        ),
        f"cosine-by-layer-{merge}": line_chart(
            "Cosine between the changes, by layer", alike, x_label="layer"
        ),
    }
    return {name: chart for name, chart in charts.items() if chart}


def _cell(value: float | None) -> dict[str, Any]:
    """A cosine, and how dark its cell is: only what points the same way is shaded."""
    return {"value": value, "shade": round(CLOSEST * max(value or 0.0, 0.0))}
