"""Which answers to a prompt take part, what the named chooser makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from infifusion.choose import CHOOSERS, PARAMS
from infifusion.choose.candidates import Candidate, Choice, Judges
from infifusion.errors import InfiFusionError, RecipeError
from infifusion.named import function_and_params
from infifusion.recipe import WriteResponses
from infifusion.sandbox.programs import require_sandbox
from infifusion.strict import Strict
from infifusion.types import Prompt, Written

RULES = {"agreement": 2}


@dataclass(frozen=True)
class Decided:
    """One prompt: what was left out of the choice and why, the candidates, the choice."""

    prompt: Prompt
    answers: list[tuple[str, Written, str]]
    """(source, answer, why it took no part, or "") in the recipe's order of sources."""
    candidates: list[Candidate]
    choice: Choice

    @property
    def winner(self) -> Candidate | None:
        """The candidate that was chosen."""
        return None if self.choice.winner is None else self.candidates[self.choice.winner]


@dataclass(frozen=True)
class NamedChooser:
    """A chooser, its parameters and the recipe key that names it."""

    function: Callable[..., Choice]
    params: Strict
    where: str


def choosers_of(asked: WriteResponses) -> list[NamedChooser]:
    """One per entry of `prompts`. RecipeError for an unknown name or parameter."""
    found = []
    for place, source in enumerate(asked.prompts):
        where = f"write_responses.prompts.{place}" if source.choose else "write_responses"
        function, params = function_and_params(
            CHOOSERS,
            PARAMS,
            source.choose or asked.choose,
            source.params if source.choose else asked.params,
            kind="chooser",
            where=where,
        )
        found.append(NamedChooser(function, params, where))
    return found


def rules_of(asked: WriteResponses) -> dict[str, dict[str, int]]:
    """Numbers of the rules by which the named choosers judge, where they are not the first ones, as
    runs of earlier versions have it: a choice by other rules is made anew."""
    names = {source.choose or asked.choose for source in asked.prompts}
    numbers = {name: RULES[name] for name in sorted(names & RULES.keys())}
    return {"rules": numbers} if numbers else {}


def decided(
    prompt: Prompt,
    answers: Mapping[str, Mapping[str, list[Written]]],
    asked: WriteResponses,
    chooser: NamedChooser,
    judges: Judges,
) -> Decided:
    """Choose among the usable answers to one prompt; answers: source -> prompt's id -> answers."""
    listed = [
        (name, one, _why_not(one, asked)) for name in answers for one in answers[name][prompt.id]
    ]
    candidates = [
        Candidate(name, one.sample, one.response, one.entropy)
        for name, one, why in listed
        if not why and one.entropy is not None
    ]
    if not candidates:
        return Decided(prompt, listed, candidates, Choice(None, "no_usable_answer", ()))
    try:
        choice = chooser.function(prompt, candidates, chooser.params, judges)
    except ValueError as error:
        raise RecipeError(f"{chooser.where}: {error}") from error
    here = choice.winner is None or 0 <= choice.winner < len(candidates)
    if (
        len(choice.votes) != len(candidates)
        or not here
        or (choice.winner is None) != bool(choice.why)
    ):
        raise RecipeError(
            f"{chooser.where}: the chooser returned {choice} for {len(candidates)} candidates. "
            "Expected a place among them and no `why`, or None and why; and one vote each."
        )
    return Decided(prompt, listed, candidates, choice)


def _why_not(one: Written, asked: WriteResponses) -> str:
    if one.fault is not None:
        return one.fault
    if not one.finished and asked.unfinished == "drop":
        return "unfinished"
    too_high = asked.max_entropy is not None and (one.entropy or 0.0) > asked.max_entropy
    return "too_uncertain" if too_high else ""


def chooser_problems(asked: WriteResponses) -> list[str]:
    """Choosers, and the sandbox they need."""
    named = {source.choose or asked.choose for source in asked.prompts}
    try:
        choosers_of(asked)
        if "unit_tests" in named and not asked.unsafe_code:
            require_sandbox()
    except RecipeError as error:
        return [str(error)]
    except InfiFusionError as error:
        return [f"write_responses: {error}"]
    return []
