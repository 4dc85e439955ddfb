"""How well the sources' tokens fit the pivot's."""

from __future__ import annotations

from infifusion.report.run_folder import Json, Run

WORST_SHOWN = 12


def coverage_view(run: Run) -> list[tuple[str, str, Json, Json]]:
    """(target, source, what was counted of the source, of the target), per target and source."""
    return [
        (target, source, of_source, counts)
        for target, counts in run.counts_of("fuse").items()
        for source, of_source in counts.get("sources", {}).items()
    ]


def worst_tokens_view(run: Run) -> dict[str, list[Json]]:
    """Source -> the pivot tokens at which it most often has no token boundary. The same text gives
    the same figures in every target that aligns alike, so the first target that has them counts."""
    worst: dict[str, list[Json]] = {}
    for weights in run.weights.values():
        for source, tokens in weights.get("worst_tokens", {}).items():
            worst.setdefault(source, tokens[:WORST_SHOWN])
    return {source: tokens for source, tokens in worst.items() if tokens}


def teachers_view(run: Run) -> dict[str, Json]:
    """Source -> how it saw the training data: mean entropy and bits per byte by domain."""
    return run.counts_of("teach")
