"""What fusion was worth, in sentences: each fused model against fine-tuning on the labels alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infifusion.recipe import Resolved
from infifusion.store.folders import RunFolder
from infifusion.store.records import read_json

HELD_OUT = "held_out.json"
"""Beside a model's scores: nats and bytes of every held-out response, and its domain."""
RESAMPLES = 4000


class Against(NamedTuple):
    """Bits per byte of one model less those of another on one domain; low, high: 95 %, by drawing
    examples anew."""

    domain: str
    difference: float
    low: float
    high: float


def compared(nats_N: NDArray, other_N: NDArray, bytes_N: NDArray) -> tuple[float, float, float]:
    """(difference, low, high): bits per byte of a model less those of the other on the same N
    responses, by a paired bootstrap over responses with seed 0."""
    per_bit = bytes_N * math.log(2)
    change_N = nats_N - other_N
    generator = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        drawn_N = generator.integers(len(change_N), size=len(change_N))
        found.append(change_N[drawn_N].sum() / per_bit[drawn_N].sum())
    low, high = np.quantile(found, [0.025, 0.975])
    return float(change_N.sum() / per_bit.sum()), float(low), float(high)


def last_words(folder: RunFolder, resolved: Resolved) -> list[str]:
    """One sentence for every fused model: how it stands to fine-tuning, domain by domain, and where
    it is worse beyond chance the likely cause and what to change. Nothing where the run has no
    fine-tuned model or no fused one."""
    tuned = [run.name for run in resolved.runs if run.target is None and run.start == "pivot"]
    fused = [run.name for run in resolved.runs if run.target is not None]
    fused += [merge.name for merge in resolved.merges]
    fused = [name for name in fused if name in resolved.scored]
    if not tuned or not fused:
        return []
    base = _read(folder.evaluate(tuned[0]))
    if base is None and _scored(folder.evaluate(tuned[0])):
        return []  # by a build that kept no response's bits
    if base is None:
        return [
            f"Whether fusion was worth it cannot be told: there are no held-out examples on which "
            f"{', '.join(fused)} could be compared with {tuned[0]}. Give data.held_out a file."
        ]
    words = []
    for name in fused:
        own = _read(folder.evaluate(name))
        if own is None or own["domains"] != base["domains"]:
            continue
        against = _by_domain(own, base)
        shown = ", ".join(
            f"{one.domain} {one.difference:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
            for one in against
        )
        worse = [one.domain for one in against if one.low > 0]
        said = f"{name} against {tuned[0]}, held-out bits per byte, lower is better: {shown}."
        words += [" ".join([said, *(_why(folder, resolved, domain, base) for domain in worse)])]
    return words


def _by_domain(own: dict[str, Any], base: dict[str, Any]) -> list[Against]:
    domain_N = np.array(own["domains"])
    bytes_N = np.array(own["bytes"], np.float64)
    pair = np.array(own["nats"]), np.array(base["nats"])
    return [
        Against(domain, *compared(pair[0][of], pair[1][of], bytes_N[of]))
        for domain in dict.fromkeys(own["domains"])
        for of in [domain_N == domain]
    ]


def _why(folder: RunFolder, resolved: Resolved, domain: str, base: dict[str, Any]) -> str:
    """The likely cause of a domain in which fusion is worse, by what the sources know of it."""
    found = {
        name.partition(":")[2]: _bits(own, domain)
        for name in resolved.scored
        if name.startswith("source:") and (own := _read(folder.evaluate(name))) is not None
    }
    if not found:
        return f"On {domain} it is worse."
    best = min(found, key=lambda name: found[name])
    tuned = _bits(base, domain)
    if found[best] >= tuned:
        return (
            f"On {domain} it is worse: no source predicts these answers as well as the fine-tuned "
            f"pivot does ({best} the best of them, {found[best]:.3f} bits per byte against "
            f"{tuned:.3f}), so they pull it back. Raise gold_weight, or leave the domain to a run "
            "without a target (domains:)."
        )
    return (
        f"On {domain} it is worse although the source {best} is ahead of the fine-tuned pivot "
        f"({found[best]:.3f} bits per byte against {tuned:.3f}): compare gold_weight, learning "
        "rate and epochs on the validation share before blaming the source."
    )


def _bits(of: dict[str, Any], domain: str) -> float:
    """Bits per byte of a model on one domain."""
    there = np.array(of["domains"]) == domain
    nats, size = np.array(of["nats"])[there].sum(), np.array(of["bytes"])[there].sum()
    return float(nats / size / math.log(2)) if size else math.inf


def _scored(place: Path) -> bool:
    """Whether a model has bits per byte."""
    path = place / "scores.json"
    return path.is_file() and bool(read_json(path)["bits_per_byte"])


def _read(place: Path) -> dict[str, Any] | None:
    path = place / HELD_OUT
    return read_json(path) if path.is_file() else None
