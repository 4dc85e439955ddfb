"""Single items of the tasks, for every pair compared: gained, lost, both right, neither."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from infifusion.report.document import size_in_page
from infifusion.report.run_folder import Json, Run
from infifusion.report.visible import cut

PER_OUTCOME = {"gained": 150, "lost": 150, "both": 50, "neither": 75}
"""Items shown per pair, task and outcome: most of what differs."""
BUDGET = 1_800_000
"""Bytes of prompts and outputs in the page, about."""


def items_view(run: Run) -> dict[str, Any] | None:
    """Items by task and id with the answers of the models compared; None without any.

    `pairs` lists the ids shown per outcome and `counts` how many there are in all; an item that
    only one of the two models answered is left out of both. Every pair has an equal part of
    BUDGET, spent on its outcomes in turn.
    """
    texts: dict[str, dict[str, Json]] = {}
    pairs = []

    @cache
    def answers(model: str, task: str) -> dict[str, Json]:
        return {str(item["id"]): item for item in run.items(model, task)}

    for pair in sorted(run.comparisons, key=lambda pair: run.kind_of(pair["b"]) != "fused"):
        a, b, task = pair["a"], pair["b"], pair["task"]
        left, right = answers(a, task), answers(b, task)
        by_outcome: dict[str, list[str]] = {outcome: [] for outcome in PER_OUTCOME}
        for name in left:
            if name in right:
                by_outcome[_outcome(left[name], right[name])].append(name)
        if not any(by_outcome.values()):
            continue
        shown: dict[str, list[str]] = {outcome: [] for outcome in PER_OUTCOME}
        spent = 0
        for outcome, name in _in_turn(by_outcome):
            if spent > BUDGET / len(run.comparisons):
                break
            question = _question(left[name])
            given = {a: _answer(left[name]), b: _answer(right[name])}
            item = texts.setdefault(task, {}).setdefault(name, {**question, "answers": {}})
            item["answers"] |= given
            spent += size_in_page([question, given])
            shown[outcome].append(name)
        counts = {outcome: len(names) for outcome, names in by_outcome.items()}
        pairs.append({"a": a, "b": b, "task": task, "counts": counts, "shown": shown})
    return {"pairs": pairs, "items": texts} if pairs else None


def _in_turn(by_outcome: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    """(outcome, id): the first of every outcome, then the second, up to PER_OUTCOME of each."""
    for place in range(max(PER_OUTCOME.values())):
        for outcome, names in by_outcome.items():
            if place < min(PER_OUTCOME[outcome], len(names)):
                yield outcome, names[place]


def _outcome(left: Json, right: Json) -> str:
    """What b (right) did against a (left); of several samples, by how many are right."""
    a, b = (float(item.get("share", bool(item["correct"]))) for item in (left, right))
    if a == b:
        return "both" if a else "neither"
    return "gained" if b > a else "lost"


def _question(item: Json) -> Json:
    return {key: _shown(item.get(key)) for key in ("prompt", "gold")}


def _answer(item: Json) -> Json:
    texts = {key: _shown(item.get(key)) for key in ("output", "extracted")}
    return texts | {key: bool(item.get(key)) for key in ("correct", "truncated", "invalid")}


def _shown(value: object) -> str | None:
    return None if value is None else cut(str(value))
