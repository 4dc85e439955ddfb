"""What a merge kept: ratio, rate and skewness per layer and kind of tensor."""

from __future__ import annotations

from typing import Any

from infifusion.report.pages.deltas import deltas_view
from infifusion.report.run_folder import Json, Run
from infifusion.report.tensors import grid_of

MEASURES = {
    "ratio": "Ratio: share of the tensor's positions that the merge takes from the copies",
    "rate": "Rate: share of positions on which the copies differ at all",
    "skewness": "Skewness of the disagreement: high where few positions carry it",
    "tau": "Tau: share kept of the positions on which the copies differ",
}


def merge_view(run: Run) -> list[dict[str, Any]]:
    """One entry per merge, with a grid of layers by kinds for every measure it recorded."""
    return [_merge(run, name, details) for name, details in run.merges.items()]


def _merge(run: Run, name: str, details: Json) -> dict[str, Any]:
    tensors = details.get("tensors", [])
    measures = [m for m in MEASURES if any(t.get(m) is not None for t in tensors)]
    total = sum(tensor["numel"] for tensor in tensors)
    kept = [tensor["kept"] for tensor in tensors if tensor.get("kept") is not None]
    return {
        "name": name,
        "method": details.get("method"),
        "params": details.get("params", {}),
        "models": details.get("models", []),
        "tensors": tensors,
        "numel": total,
        "kept": sum(kept) if kept else None,
        "share": sum(kept) / total if kept and total else None,
        "coefficients": _mean_coefficients(tensors),
        "grids": [{"title": MEASURES[m], "measure": m, **grid_of(tensors, m)} for m in measures],
        "validation": details.get("tau0_validation", []),
        "deltas": deltas_view(run, name),
    }


def _mean_coefficients(tensors: list[Json]) -> list[float]:
    """Mean coefficient of each merged model, weighted by the elements of the tensors."""
    having = [t for t in tensors if t.get("coefficients")]
    total = sum(t["numel"] for t in having)
    if not total:
        return []
    count = len(having[0]["coefficients"])
    return [sum(t["coefficients"][s] * t["numel"] for t in having) / total for s in range(count)]
