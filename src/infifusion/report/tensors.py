"""Where a tensor sits in a model, and grids of what is known of tensors: layers by kinds."""

from __future__ import annotations

from typing import Any, NamedTuple

from infifusion.store.records import Json


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
