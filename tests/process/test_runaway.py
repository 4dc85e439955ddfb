from __future__ import annotations

import pytest

from infifusion.errors import RunError
from infifusion.process.runaway import Runaway, in_words, means


def sums(length: float = 20, entropy: float = 1.0, learnt: int = 64) -> dict[str, float]:
    """A round of 64 answers of this mean length and entropy a token."""
    tokens = 64 * length
    return {
        "answers": 64,
        "tokens": tokens,
        "positions": tokens,
        "entropy": entropy * tokens,
        "cut_off": 64 - learnt,
        "learnt": learnt,
    }


@pytest.mark.parametrize("now", [{"length": 61}, {"length": 6}, {"entropy": 3.1}])
def test_answers_that_run_away_stop_the_run(now: dict[str, float]) -> None:
    runaway = Runaway(3.0)
    runaway.add(sums())
    with pytest.raises(RunError, match=r"run away.*on_policy\.stop_at_growth"):
        runaway.add(sums(**now))


@pytest.mark.parametrize("now", [{"length": 59}, {"length": 7}, {"entropy": 2.9}, {"entropy": 0.1}])
def test_answers_that_change_as_they_may_do_not(now: dict[str, float]) -> None:
    runaway = Runaway(3.0)
    runaway.add(sums())
    runaway.add(sums(**now))


def test_short_and_sure_answers_may_become_three_times_as_long() -> None:
    runaway = Runaway(3.0)
    runaway.add(sums(length=2, entropy=0.01))
    runaway.add(sums(length=9, entropy=0.4))


def test_no_checkpoint_is_kept_on_the_way_there() -> None:
    runaway = Runaway(4.0)
    runaway.add(sums())
    assert runaway.healthy
    runaway.add(sums(length=50))  # more than the square root of 4 times as long
    assert not runaway.healthy
    runaway.add(sums(length=30))
    assert runaway.healthy


def test_nothing_to_learn_stops_the_run_even_without_bounds() -> None:
    for why, said in (
        ({"fault/cut_off": 60, "fault/empty": 4}, "60 cut off, 4 empty. Raise .*max_new_tokens"),
        ({"fault/cut_off": 4, "fault/too_long": 60}, "60 too long, 4 cut off. Raise data.max_leng"),
        ({"fault/written_otherwise": 64}, "64 written otherwise. .*form: distribution"),
        ({"fault/control": 64}, "64 control. Start from a run on given examples"),
    ):
        with pytest.raises(RunError, match=f"None of the pivot's last 64 answers.*: {said}"):
            Runaway(None).add({**sums(learnt=0), **why})
    Runaway(None).add({**sums(learnt=0), "answers": 8, "cut_off": 8})  # too few to judge by


def test_a_run_that_goes_on_remembers_without_judging() -> None:
    runaway = Runaway(3.0)
    runaway.add(sums(), judge=False)
    runaway.add(sums(length=100), judge=False)
    with pytest.raises(RunError):
        runaway.add(sums(length=100))


def test_a_round_in_words() -> None:
    made = {**sums(learnt=48), "nats/math": 32.0, "bytes/math": 64.0}
    assert means(made)["divergence_math"] == 0.5
    assert in_words(2, made, 10.0) == (
        "round 3: 20 tokens an answer, 10 answers/s, 25 % cut off, nats/byte from math 0.500"
    )
