"""Which source taught what: counts for the manifest and the log, figures and sample texts for the
report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infifusion.align.byte_spans import token_table
from infifusion.align.project import Origins
from infifusion.align.vocabulary import VocabularyMap
from infifusion.data.tokenizers import tokenizer_json, tokenizer_of
from infifusion.recipe import Recipe
from infifusion.types import Aligned, Example, Rendered, Target

Json = dict[str, Any]
SAMPLES_PER_DOMAIN = 3
BINS = 50
LONGEST_SAMPLE = 400
"""Tokens shown of a sample text."""
LIKELIEST = 5
"""Guesses kept of every source at every token of a sample text."""
WORST_TOKENS = 20
COUNTED = 1 << 20
"""Positions whose tokens are counted at once."""


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
    return f"{counts['positions']} positions, {taught:.1f} % taught; aligned: {aligned}"


def who_may_teach(names: Sequence[str], open_SN: NDArray[np.bool_], domains: Sequence[str]) -> str:
    """What a gate decided, in words: [S, N] says which source may teach which example, rows past
    the names (the pivot as a source) aside; domains: [N]."""
    of_N, parts = np.asarray(domains), []
    for name, open_N in zip(names, open_SN[: len(names)], strict=True):
        shares = {domain: open_N[of_N == domain].mean() for domain in dict.fromkeys(domains)}
        taught = [f"{d} ({share:.0%})" if share < 1 else d for d, share in shares.items() if share]
        parts.append(
            f"{name} teaches {', '.join(taught)}"
            if taught
            else f"{name} teaches NOTHING, as it beats the pivot in no domain (is its "
            "chat template right? infifusion check names models without one)"
        )
    return "; ".join(parts)


class TeachingView:
    """Mean weights by domain and along the data, and a few texts token by token: collected part
    by part, then put together."""

    def __init__(
        self,
        recipe: Recipe,
        names: list[str],
        examples: list[Example],
        pivot: Rendered,
        gold_R: NDArray[np.int32],
    ) -> None:
        self._bytes_V = token_table(tokenizer_json(tokenizer_of(recipe.pivot))).bytes_V
        self._names, self._examples, self._pivot, self._gold_R = names, examples, pivot, gold_R
        self._domains = sorted({example.domain for example in examples})
        self._bins = min(BINS, len(examples))
        self._shown: set[int] = set()
        for domain in self._domains:
            numbers = [n for n, example in enumerate(examples) if example.domain == domain]
            self._shown |= set(numbers[:SAMPLES_PER_DOMAIN])
        self._parts: list[dict[str, Any]] = []
        self._missed: list[Counter[int]] = [Counter() for _ in names]

    def part(
        self, begin: int, end: int, aligned: Aligned, origins: Origins, fused: Target
    ) -> dict[str, Any]:
        """Sums over the rows of examples [begin, end), and the sample texts among them."""
        row_N1 = self._pivot.row_N1[begin : end + 1] - self._pivot.row_N1[begin]
        weight_NS = np.add.reduceat(fused.weight_ST, row_N1[:-1], axis=1).T
        taught_N = np.add.reduceat(fused.taught_T, row_N1[:-1])
        of = np.array([self._domains.index(e.domain) for e in self._examples[begin:end]])
        bins = np.arange(begin, end) * self._bins // len(self._examples)

        def sums(values_N: NDArray, places_N: NDArray, size: int) -> list:
            total = np.zeros((size, *values_N.shape[1:]))
            np.add.at(total, places_N, values_N)
            return total.tolist()

        length_N, domains = np.diff(row_N1), len(self._domains)
        gold_T = self._gold_R[int(self._pivot.row_N1[begin]) : int(self._pivot.row_N1[end])]
        return {
            "weight": sums(weight_NS, of, domains),
            "positions": sums(length_N, of, domains),
            "taught": sums(taught_N, of, domains),
            "bin_weight": sums(weight_NS, bins, self._bins),
            "bin_positions": sums(length_N, bins, self._bins),
            "unaligned": [_counted(gold_T[source_T < 0]) for source_T in origins.source_ST],
            "samples": [
                self._sample(n, slice(*row_N1[n - begin : n - begin + 2].tolist()), aligned, fused)
                for n in range(begin, end)
                if n in self._shown
            ],
        }

    def add(self, part: dict[str, Any]) -> None:
        """Take in what `part` gave, in the order of the data. The tokens without a boundary are
        added up at once: a part has thousands, and there are thousands of parts."""
        for missed, unaligned in zip(self._missed, part["unaligned"], strict=True):
            for token, times in unaligned.items():
                missed[int(token)] += times
        self._parts.append({key: value for key, value in part.items() if key != "unaligned"})

    def as_json(self) -> dict[str, Any]:
        """What fuse/<target>/weights.json holds: all parts together."""
        parts, seen_V = self._parts, _times_seen(self._gold_R)

        def total(key: str) -> NDArray[np.float64]:
            return np.sum([np.asarray(part[key]) for part in parts], axis=0)

        weight_by_domain = total("weight") / np.maximum(total("positions"), 1)[:, None]
        taught_by_domain = total("taught") / np.maximum(total("positions"), 1)
        weight_by_bin = total("bin_weight") / np.maximum(total("bin_positions"), 1)[:, None]
        return {
            "sources": self._names,
            "by_domain": dict(zip(self._domains, weight_by_domain.round(4).tolist(), strict=True)),
            "taught_share": dict(
                zip(self._domains, taught_by_domain.round(4).tolist(), strict=True)
            ),
            "over_examples": [
                {"example": place * len(self._examples) // self._bins, "weights": weights}
                for place, weights in enumerate(weight_by_bin.round(4).tolist())
            ],
            "worst_tokens": {
                name: self._worst(missed, seen_V)
                for name, missed in zip(self._names, self._missed, strict=True)
            },
            "examples": [sample for part in parts for sample in part["samples"]],
        }

    def _worst(self, missed: Counter[int], seen_V: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The pivot tokens at whose first byte a source most often has no token boundary."""
        return [
            {"token": self._text(token), "unaligned": missed[token], "seen": int(seen_V[token])}
            for token in sorted(missed, key=lambda token: (-missed[token], token))[:WORST_TOKENS]
        ]

    def _text(self, token: int) -> str:
        return self._bytes_V[token].decode(errors="replace")

    def _likeliest(
        self, ids_K: NDArray[np.int32], prob_K: NDArray[np.float32]
    ) -> list[tuple[str, float]]:
        """The most probable tokens of one row, most probable first."""
        order = sorted(np.flatnonzero(ids_K >= 0).tolist(), key=lambda k: -prob_K[k])
        return [(self._text(int(ids_K[k])), round(float(prob_K[k]), 4)) for k in order[:LIKELIEST]]

    def _sample(self, number: int, rows: slice, aligned: Aligned, fused: Target) -> dict[str, Any]:
        example = self._examples[number]
        first = int(self._pivot.row_N1[number])
        tokens = []
        for t in range(rows.start, min(rows.stop, rows.start + LONGEST_SAMPLE)):
            gold = int(self._gold_R[first + t - rows.start])
            given = fused.prob_TK[t][fused.ids_TK[t] == gold]
            taught = bool(fused.taught_T[t])
            tokens.append(
                {
                    "text": self._text(gold),
                    "weights": fused.weight_ST[:, t].round(4).tolist(),
                    "entropy": [
                        round(float(u), 4) if there else None
                        for u, there in zip(
                            aligned.entropy_ST[:, t], aligned.aligned_ST[:, t], strict=True
                        )
                    ],
                    "gold": round(float(given.sum()), 4) if taught else None,
                    "top": [
                        self._likeliest(aligned.ids_STK[s, t], aligned.prob_STK[s, t])
                        if aligned.aligned_ST[s, t]
                        else None
                        for s in range(len(self._names))
                    ],
                    "target": self._likeliest(fused.ids_TK[t], fused.prob_TK[t])
                    if taught
                    else None,
                }
            )
        prompt = "\n".join(message["content"] for message in example.prompt)
        return {"id": example.id, "domain": example.domain, "prompt": prompt, "tokens": tokens}


def _counted(ids: NDArray[np.int32]) -> dict[str, int]:
    """How often each id stands in there; JSON has strings for keys."""
    values, counts = np.unique(ids, return_counts=True)
    return {str(value): int(count) for value, count in zip(values, counts, strict=True)}


def _times_seen(ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """How often each id stands in there, [largest + 1]; some at a time: there may be a billion."""
    seen_V = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
    for begin in range(0, len(ids), COUNTED):
        seen_V += np.bincount(ids[begin : begin + COUNTED], minlength=len(seen_V))
    return seen_V
