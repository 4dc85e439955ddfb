"""How well the sources' tokens fit the pivot's, and how the sources saw the training data."""

from __future__ import annotations

from typing import Any

from infifusion.report.run_folder import Run

WORST_SHOWN = 12


def coverage_view(run: Run) -> list[dict[str, Any]]:
    """One row per fused target and source."""
    rows = []
    for stage, counts in run.counts.items():
        if not stage.startswith("fuse/"):
            continue
        for source, of in counts.get("sources", {}).items():
            vocabulary = of.get("vocabulary", {})
            total = sum(vocabulary.values())
            rows.append(
                {
                    "target": stage.removeprefix("fuse/"),
                    "source": source,
                    "aligned_share": of.get("aligned_share"),
                    "vocabulary": {
                        kind: (count, count / total if total else 0.0)
                        for kind, count in vocabulary.items()
                    },
                    "gold_paths": of.get("gold_paths"),
                    "unmapped_mass": of.get("unmapped_mass"),
                    "gated_examples": of.get("gated_examples"),
                    "positions": counts.get("positions"),
                    "taught": counts.get("taught"),
                    "tail_mass": counts.get("tail_mass"),
                }
            )
    return rows


def worst_tokens_view(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Source -> the pivot tokens at which it most often has no token boundary. The same text gives
    the same figures in every target that aligns alike, so the first target that has them counts."""
    found: dict[str, list[dict[str, Any]]] = {}
    for weights in run.weights.values():
        for source, tokens in weights.get("worst_tokens", {}).items():
            found.setdefault(source, tokens[:WORST_SHOWN])
    return {source: tokens for source, tokens in found.items() if tokens}


def teachers_view(run: Run) -> list[dict[str, Any]]:
    """How each source saw the training data: mean entropy and bits per byte by domain."""
    return [
        {
            "source": stage.removeprefix("teach/"),
            "examples": counts.get("examples"),
            "positions": counts.get("positions"),
            "mean_entropy": counts.get("mean_entropy", {}),
            "bits_per_byte": counts.get("bits_per_byte", {}),
        }
        for stage, counts in run.counts.items()
        if stage.startswith("teach/")
    ]
