"""The final answer that most sources agree on; among those who gave it, the least uncertain one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from infifusion.choose.candidates import Candidate, Choice, Judges, surest
from infifusion.strict import Strict
from infifusion.types import Prompt


class Params(Strict):
    """Parameters of `agreement`."""

    minimum: int = Field(default=2, ge=1)
    """Sources that must give the same final answer. 1 with several samples of one source is a
    majority vote of that source with itself."""
    otherwise: Literal["entropy", "drop"] = "entropy"
    """Where fewer agree: keep the least uncertain of all answers, or none."""


def agreement(
    prompt: Prompt, candidates: Sequence[Candidate], params: Params, judges: Judges
) -> Choice:
    """The least uncertain answer of the largest group of equal final answers.

    Where an answer stands in a text, and when two say the same, is what GSM8K and MATH are scored
    by (infifusion.final_answer, infifusion.same_answer). Groups are ordered by how many
    different sources are in them, then by how many answers, then by the lowest entropy per byte,
    then by the recipe's order. Answers without a final answer are in no group. Self-consistency
    (Wang et al. 2022, arXiv 2203.11171) over sources in place of samples.
    """
    votes = tuple(judges.final_answer(candidate.response) for candidate in candidates)
    groups: list[list[int]] = []
    for place, vote in enumerate(votes):
        if vote is None:
            continue
        for group in groups:
            if judges.same_answer(votes[group[0]] or "", vote):
                group.append(place)
                break
        else:
            groups.append([place])

    def size(group: list[int]) -> tuple[int, int, float]:
        sources = {candidates[place].source for place in group}
        return len(sources), len(group), -candidates[surest(candidates, group)].entropy

    # max keeps the first of equals, and groups stand in the order of their first members.
    best = max(groups, key=size, default=[])
    if best and size(best)[0] >= params.minimum:
        return Choice(surest(candidates, best), "", votes)
    if params.otherwise == "drop":
        return Choice(None, "no_agreement", votes)
    return Choice(surest(candidates, range(len(candidates))), "", votes)
