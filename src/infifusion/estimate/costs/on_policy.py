"""What it costs that the pivot writes a part of what it learns, and the sources correct it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from infifusion.estimate.costs.case import PIVOT, Case, schedule
from infifusion.estimate.costs.lengths import Lengths
from infifusion.estimate.costs.work import Work, decode_work, forward_work
from infifusion.recipe import FuseTarget, OnPolicy, TrainingRun

ROW_BYTES = 13
"""Of a round's arrays, per position, beside the kept entries and the weights (train/own_text.py):
token, log-probability, advantage, and whether it is learnt."""
ANSWER_BYTES = 600
"""Of a round's sheet, per answer: its text and figures."""


@dataclass(frozen=True)
class OwnAnswers:
    """Answers of a whole run. Each is taken to be as long as it may, and each prompt as long as
    those of the training examples. batch: answers under way at once."""

    answers: float
    prompt: float
    new: float
    batch: int

    def seen(self) -> Lengths:
        """The answers as a model sees them."""
        length = self.prompt + self.new
        count = math.ceil(self.answers)
        return Lengths(count, count * length, count * self.new, [math.ceil(length)])


def own_answers(case: Case, run: TrainingRun, own: OnPolicy) -> OwnAnswers:
    """How much the pivot writes."""
    steps, lengths = schedule(case, run), case.trained(PIVOT, run)
    places = steps.batch * steps.accumulation * case.place("distill").devices
    prompt = (lengths.tokens - lengths.positions) / max(lengths.examples, 1)
    answers = steps.steps * places * own.share / own.epochs
    at_once = math.ceil(places * own.share * own.round_steps)
    return OwnAnswers(answers, prompt, own.max_new_tokens, min(own.batch_size, at_once))


def trained_with_own(case: Case, run: TrainingRun) -> Lengths:
    """What a run trains on: its examples, some of them in the pivot's own words."""
    lengths, own = case.trained(run.of, run), run.on_policy
    if own is None:
        return lengths
    made = own_answers(case, run, own)
    length, share = made.prompt + made.new, own.share
    count = lengths.examples
    sample = sorted(
        math.ceil(length) if (n + 1) * share % 1 < share else one
        for n, one in enumerate(lengths.sample)
    )
    return Lengths(
        count,
        (1 - share) * lengths.tokens + share * count * length,
        (1 - share) * lengths.positions + share * count * made.new,
        sample,
    )


def correcting(case: Case, run: TrainingRun, target: FuseTarget, own: OnPolicy) -> Work:
    """Writing the answers, a pass of the pivot and of every source over them, and the mixing."""
    made, pivot = own_answers(case, run, own), case.models[PIVOT]
    width = case.place("distill").width
    decoded = decode_work(
        pivot.shape,
        items=math.ceil(made.answers),
        prompt=made.prompt,
        new=made.new,
        batch=made.batch,
        weight_bytes=width * pivot.parameters,
    )
    units = {key: n for key, n in decoded.units.items() if not key.startswith("task")}
    work = case.rated(Work(decoded.flops, units), half=case.trains_in_half(run))
    seen = made.seen()
    frozen = [PIVOT] if target.pivot_as_source or own.extrapolate != 1 else []
    for name in (PIVOT, *frozen, *target.sources):
        batches = seen.by_length(made.batch, case.recipe.teach.batch_tokens)
        once = forward_work(case.models[name].shape, seen, batches)
        work += case.rated(once, half=case.in_half(name))
    return work + Work({}, {"fuse_position": seen.positions * len(target.sources)})


def rounds_bytes(case: Case, run: TrainingRun, target: FuseTarget, own: OnPolicy) -> float:
    """What the rounds leave in the run's folder."""
    made = own_answers(case, run, own)
    sources = len(target.sources) + target.pivot_as_source
    row = 8 * target.keep + 4 * sources + ROW_BYTES
    return made.answers * (made.new * row + 4 * made.prompt + ANSWER_BYTES)


def loaded_beside(target: FuseTarget, own: OnPolicy) -> list[str]:
    """Models in memory beside the pivot that trains."""
    frozen = target.pivot_as_source or own.extrapolate != 1
    return [*target.sources, *([PIVOT] if frozen else [])]
