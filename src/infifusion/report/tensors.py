"""What a merge kept: ratio, rate and skewness per layer and kind of tensor."""

from __future__ import annotations

from typing import Any, NamedTuple

from infifusion.artifacts import Json
from infifusion.report.run_folder import Run

MEASURES = {
    "ratio": "Ratio: share of the tensor's positions that the merge takes from the copies",
    "rate": "Rate: share of positions on which the copies differ at all",
    "skewness": "Skewness of the disagreement: high where few positions carry it",
    "tau": "Tau: share kept of the positions on which the copies differ",
}


class Place(NamedTuple):
    """Where a tensor sits: layer None is outside the layers (embedding, head, last norm)."""

    layer: int | None
    kind: str


def place_of(name: str) -> Place:
    """Layer and kind of a tensor, from its name alone, for any architecture.

    The first number in the name is the layer, what follows it is the kind; later numbers (experts)
    become `*`. A trailing `weight` says nothing and is dropped: model.layers.3.mlp.up_proj.weight
    is layer 3, mlp.up_proj; h.0.attn.c_attn.bias is layer 0, attn.c_attn.bias.
    """
    parts = name.split(".")
    if parts[-1] == "weight" and len(parts) > 1:
        parts = parts[:-1]
    at = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if at is None or at == len(parts) - 1:
        return Place(None, parts[-1] if parts[-1] != "bias" else ".".join(parts[-2:]))
    rest = ["*" if part.isdigit() else part for part in parts[at + 1 :]]
    return Place(int(parts[at]), ".".join(rest))


def merge_view(run: Run) -> list[dict[str, Any]]:
    """One entry per merge, with a grid of layers by kinds for every measure it recorded."""
    return [_merge(name, details) for name, details in run.merges.items()]


def _merge(name: str, details: Json) -> dict[str, Any]:
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
    }


def grid_of(tensors: list[Json], measure: str) -> dict[str, Any]:
    """Means over the tensors of one place, weighted by their elements."""
    sums: dict[Place, tuple[float, int]] = {}
    for tensor in tensors:
        if tensor.get(measure) is None:
            continue
        place = place_of(tensor["name"])
        value, weight = sums.get(place, (0.0, 0))
        numel = tensor["numel"]
        sums[place] = (value + tensor[measure] * numel, weight + numel)
    means = {place: value / weight for place, (value, weight) in sums.items() if weight}
    kinds = list(dict.fromkeys(place.kind for place in means if place.layer is not None))
    low, high = min(means.values(), default=0.0), max(means.values(), default=1.0)
    return {
        "kinds": kinds,
        "rows": [
            (layer, [_shade(means.get(Place(layer, kind)), low, high) for kind in kinds])
            for layer in sorted({place.layer for place in means if place.layer is not None})
        ],
        "outside": [
            (place.kind, _shade(mean, low, high))
            for place, mean in means.items()
            if place.layer is None
        ],
    }


def _shade(value: float | None, low: float, high: float) -> dict[str, Any]:
    """A value and how dark its cell is, in per cent of the way from the least to the most."""
    if value is None:
        return {"value": None, "shade": 0}
    return {"value": value, "shade": round(70 * (value - low) / (high - low)) if high > low else 35}


def _mean_coefficients(tensors: list[Json]) -> list[float]:
    """Mean coefficient of each merged model, weighted by the elements of the tensors."""
    having = [t for t in tensors if t.get("coefficients")]
    total = sum(t["numel"] for t in having)
    if not total:
        return []
    count = len(having[0]["coefficients"])
    return [sum(t["coefficients"][s] * t["numel"] for t in having) / total for s in range(count)]
