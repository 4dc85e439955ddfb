"""Tables of docs/results/ that look into merges: skewness and ratio of the tensors, by layer."""

from __future__ import annotations

import re
from collections import defaultdict
from fnmatch import fnmatchcase
from pathlib import Path

from infifusion.store.records import Json, read_json

LAYER = re.compile(r"\.layers\.(\d+)\.")
NORMS, EMBEDDING = "norms", "embedding"


def tensor_table(sweep: Path, pattern: str) -> str:
    """One row per merge of a sweep whose name fits the pattern: the lowest and the highest skewness
    and ratio of its tensors, over all seeds; for the matrices of every layer, norms, embedding.

    Tensors that no copy changed are left out. SystemExit where no merge fits.
    """
    merges: dict[str, list[Json]] = defaultdict(list)
    for path in sorted(sweep.glob("*/seed*/merge/*/merge_details.json")):
        if fnmatchcase(path.parent.name, pattern):
            changed = [one for one in read_json(path)["tensors"] if one["rate"] > 0]
            merges[path.parent.name] += changed
    if not merges:
        raise SystemExit(f"{sweep} has no merge called '{pattern}'")
    found = {name: _by_place(tensors) for name, tensors in merges.items()}
    places = sorted({place for of in found.values() for place in of}, key=_order)
    lines = [["merge", "kept %", *(f"{p}: skewness, ratio" for p in places)]]
    lines += [["---", "---:", *("---:" for _ in places)]]
    for name, tensors in merges.items():
        kept = sum(one["kept"] for one in tensors) / sum(one["numel"] for one in tensors)
        cells = [_cell(found[name].get(place, [])) for place in places]
        lines.append([name, f"{100 * kept:.0f}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _by_place(tensors: list[Json]) -> dict[str, list[Json]]:
    found = defaultdict(list)
    for one in tensors:
        layer = LAYER.search(one["name"])
        place = f"layer {layer[1]}" if layer else EMBEDDING
        if "norm" in one["name"]:
            place = NORMS
        found[place].append(one)
    return found


def _order(place: str) -> tuple[int, int]:
    names = (NORMS, EMBEDDING)
    return (1, names.index(place)) if place in names else (0, int(place.split()[1]))


def _cell(tensors: list[Json]) -> str:
    if not tensors:
        return "–"
    ranges = []
    for key in ("skewness", "ratio"):
        values = [one[key] for one in tensors]
        ranges.append(f"{min(values):.2f} to {max(values):.2f}")
    return ", ".join(ranges)
