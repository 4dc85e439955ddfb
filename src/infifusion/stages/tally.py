"""Counts over the chunks of a fused target, for the manifest and the log."""

from __future__ import annotations

from typing import Any

import numpy as np

from infifusion.align.project import Origins
from infifusion.align.vocabulary import VocabularyMap
from infifusion.process.wording import counted
from infifusion.types import Aligned, Target

Json = dict[str, Any]


def tally(names: list[str], aligned: Aligned, origins: Origins, fused: Target) -> Json:
    """The counts of one chunk."""
    of = {}
    for s, name in enumerate(names):
        aligned_T = origins.source_ST[s] >= 0
        shut_T = aligned_T & ~aligned.aligned_ST[s]
        of[name] = {
            "aligned": int(aligned_T.sum()),
            "inside": int(origins.inside_ST[s].sum()),
            "gold_paths": int(origins.gold_path_ST[s].sum()),
            "gated_examples": len(np.unique(aligned.example_T[shut_T])),
            "unmapped_mass": float(origins.unmapped_S[s]),
        }
    return {
        "positions": len(fused.taught_T),
        "taught": int(fused.taught_T.sum()),
        "tail_mass": float((1 - fused.prob_TK[fused.taught_T].sum(axis=1)).sum()),
        "sources": of,
    }


def add_tallies(parts: list[Json]) -> Json:
    """Sums over the chunks, in their order."""
    total = parts[0]
    for part in parts[1:]:
        total = {
            key: _sum_of_sources(total[key], value) if key == "sources" else total[key] + value
            for key, value in part.items()
        }
    return total


def _sum_of_sources(total: Json, part: Json) -> Json:
    return {
        name: {key: total[name].get(key, 0) + value for key, value in counts.items()}
        for name, counts in part.items()
    }


def counts_of(total: Json, maps: dict[str, VocabularyMap]) -> Json:
    """What the manifest says: sums, shares, and means per taught or aligned position."""
    sources = {
        name: {
            **one,
            "aligned_share": one["aligned"] / max(total["positions"], 1),
            "unmapped_mass": one["unmapped_mass"] / max(one["aligned"], 1),
            "vocabulary": maps[name].counts(),
        }
        for name, one in total["sources"].items()
    }
    return {**total, "tail_mass": total["tail_mass"] / max(total["taught"], 1), "sources": sources}


def in_words(counts: Json) -> str:
    """One line for the log."""
    aligned = ", ".join(
        f"{name} {100 * one['aligned_share']:.1f} %" for name, one in counts["sources"].items()
    )
    taught = 100 * counts["taught"] / max(counts["positions"], 1)
    return f"{counted(counts['positions'], 'position')}, {taught:.1f} % taught; aligned: {aligned}"
