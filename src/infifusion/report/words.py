"""Figures in words: times, sizes, points, p-values, and what a comparison shows."""

from __future__ import annotations

from collections.abc import Iterable

from infifusion.process.meter import duration as duration  # one place for all figures in words
from infifusion.store.records import Json

SIGNIFICANT = 0.05
MINUS = "\u2212"
STANDING = {
    "better": "better than",
    "worse": "worse than",
    "unclear": "not clearly different from",
}


def signed_points(difference: float) -> str:
    """A difference of accuracies as percentage points with its sign."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)


def p_value(p: float) -> str:
    """A p-value as text; four digits where three would hide on which side of 0.05 it lies."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.4f}" if 0.0495 <= p < 0.0505 else f"p = {p:.3f}"


def outcome(pair: Json) -> str:
    """better, worse or unclear: what b is against a. Unclear whenever p is not below 0.05."""
    if pair["p_value"] >= SIGNIFICANT or pair["difference"] == 0:
        return "unclear"
    return "better" if pair["difference"] > 0 else "worse"


def verdicts(comparisons: Iterable[Json]) -> list[str]:
    """One sentence per pair of models, over all tasks."""
    pairs: dict[tuple[str, str], list[Json]] = {}
    for pair in comparisons:
        pairs.setdefault((pair["b"], pair["a"]), []).append(pair)
    return [_verdict(b, a, tasks) for (b, a), tasks in pairs.items()]


def _verdict(b: str, a: str, tasks: list[Json]) -> str:
    said = []
    for kind, words in (
        ("better", "is better on"),
        ("worse", "is worse on"),
        ("unclear", "shows no clear difference on"),
    ):
        of_kind = [pair for pair in tasks if outcome(pair) == kind]
        if of_kind:
            said.append(f"{words} {joined([_with_figures(pair) for pair in of_kind])}")
    return f"Against {a}, {b} {', and '.join(said)}."


def _with_figures(pair: Json) -> str:
    return (
        f"{pair['task']} ({signed_points(pair['difference'])} points, {p_value(pair['p_value'])})"
    )


def headline(comparisons: Iterable[Json], model: str) -> str:
    """In how many tasks a model is better or worse than each it is compared with, as one sentence;
    empty where it is compared with none."""
    by_base: dict[str, list[str]] = {}
    for pair in comparisons:
        if pair["b"] == model:
            by_base.setdefault(pair["a"], []).append(outcome(pair))
    said = []
    for name, outcomes in by_base.items():
        base, total = "the pivot" if name == "pivot" else name, len(outcomes)
        counts = {words: outcomes.count(kind) for kind, words in STANDING.items()}
        first, *others = [words for words, count in counts.items() if count]
        where = "the only task" if total == 1 else f"all {total} tasks"
        where = f"{counts[first]} of {total} tasks" if others else where
        rest = [f", {words.rpartition(' ')[0]} on {counts[words]}" for words in others]
        said.append(f"{first} {base} on {where}{''.join(rest)}")
    return f"{model} is {'; '.join(said)}." if said else ""


def data_size(size: float) -> str:
    """A number of bytes as text: 512 B, 1.4 MB or 16.1 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def joined(words: list[str]) -> str:
    """The words as a list in a sentence: a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
