"""What a run cost: time by stage, what was made of it, room on the disk."""

from __future__ import annotations

from typing import Any

from infifusion.report.bars import Span, timeline
from infifusion.report.run_folder import STAGES, Json, Run
from infifusion.report.words import data_size, duration


def cost_view(run: Run) -> dict[str, Any]:
    """Seconds, bytes and counts of every stage, and the figures of the whole run."""
    seconds = {stage: m.get("seconds") or 0.0 for stage, m in run.manifests.items()}
    total = sum(seconds.values())
    spans = [
        Span(stage, value, duration(value), STAGES.index(stage.partition("/")[0]))
        for stage, value in seconds.items()
    ]
    sizes = {stage: run.bytes_of(stage) for stage in run.manifests}
    chart = timeline("Stages one after another", spans)
    return {
        "tiles": _tiles(run, seconds, sum(sizes.values())),
        "charts": {"timeline": chart} if chart else {},
        "rows": [
            {
                "stage": stage,
                "time": duration(manifest.get("seconds")),
                "share": seconds[stage] / total if total else None,
                "bytes": data_size(sizes[stage]),
                "counts": in_words(manifest.get("counts", {})),
            }
            for stage, manifest in run.manifests.items()
        ],
    }


def _tiles(run: Run, seconds: dict[str, float], size: int) -> list[tuple[str, str]]:
    """(what, figure): the time of each kind of stage, where it ran, how much it made."""
    kinds: dict[str, float] = {}
    for stage, value in seconds.items():
        kind = stage.partition("/")[0]
        kinds[kind] = kinds.get(kind, 0.0) + value
    trained = [h for h in run.histories.values() if h.get("positions") and h.get("seconds")]
    positions = sum(h["positions"] * _epochs(h) for h in trained)
    devices = dict.fromkeys(h["device"] for h in run.histories.values() if h.get("device"))
    tiles = [("in all", duration(sum(seconds.values())))]
    tiles += [(kind, duration(value)) for kind, value in kinds.items() if value]
    if trained:
        rate = positions / sum(h["seconds"] for h in trained)
        tiles.append(("response tokens trained on per second", f"{rate:,.0f}"))
    if devices:
        tiles.append(("device of training", ", ".join(devices)))
    if size:
        tiles.append(("files of the stages", data_size(size)))
    return tiles


def _epochs(history: Json) -> float:
    """Passes over the data; 1 where the history does not say."""
    return max((line.get("epoch") or 0.0 for line in history.get("log", [])), default=0.0) or 1.0


def in_words(counts: Json) -> str:
    """Counts on one line: names without underscores, nested ones in brackets."""
    parts = []
    for key, value in counts.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            parts.append(f"{name} ({in_words(value)})")
        elif isinstance(value, list):
            parts.append(f"{name} {', '.join(map(str, value)) or 'none'}")
        elif isinstance(value, float):
            parts.append(f"{name} {value:.4g}")
        else:
            parts.append(f"{name} {value}")
    return ", ".join(parts)
