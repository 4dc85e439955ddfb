"""Runs with too few steps, too long a warm-up or no curve are said before they are made."""

from __future__ import annotations

import pytest

from infifusion.estimate.costs.schedule import advice, logging_steps, schedule_of


def advised(examples: int, **training: object) -> list[str]:
    schedule = schedule_of(training, examples=examples, devices=1)
    return advice(training, schedule, examples=examples)


def test_the_first_real_run_would_have_been_warned_of() -> None:
    """12 examples in steps of 32 for two epochs with 20 steps of warm-up: 2 steps."""
    found = advised(
        12, per_device_train_batch_size=8, gradient_accumulation_steps=4, num_train_epochs=2,
        warmup_steps=20, logging_steps=10,
    )  # fmt: skip
    assert "only 2 optimizer steps on 12 examples" in found[0]
    assert "= 1 in place of 32" in found[0] and "num_train_epochs: 30" in found[0]
    # 2 of 20 steps of warm-up: a tenth of the rate.
    assert "1000 % of 2 steps" in found[1] and "at most 10 % of it" in found[1]
    assert "warmup_steps: 0.1" in found[1]
    assert "logging_steps: 10 leaves 0 points" in found[2] and "; 1 is taken" in found[2]


def test_a_run_of_many_steps_with_a_short_warm_up_is_fine() -> None:
    assert advised(3000, per_device_train_batch_size=8, warmup_steps=0.03) == []
    assert advised(3000, warmup_steps=100) == []  # 100 of 375


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"max_steps": 29}, "max_steps: 30 or more"),
        ({"max_steps": 300, "warmup_steps": 150}, "50 % of 300 steps"),
        ({"max_steps": 300, "warmup_steps": 0.4}, "40 % of 300 steps"),
        ({"max_steps": 60, "logging_steps": 7}, "; 6 is taken"),
    ],
)
def test_every_warning_says_what_to_write(training: dict, said: str) -> None:
    found = advised(10_000, **training)
    assert len(found) == 1 and said in found[0]


@pytest.mark.parametrize(
    "training",
    [
        {"max_steps": 30},
        {"max_steps": 300, "warmup_steps": 100},
        {"max_steps": 300, "warmup_steps": 150, "lr_scheduler_type": "constant"},
        {"max_steps": 60, "logging_steps": 6},
        {"max_steps": 60},  # our own logging_steps follow the number of steps
    ],
)
def test_what_is_just_enough_is_not_warned_of(training: dict) -> None:
    assert advised(10_000, **training) == []


@pytest.mark.parametrize(
    ("steps", "asked", "taken"), [(1000, 10, 10), (60, 10, 6), (5, 10, 1), (200, 0.5, 20)]
)
def test_a_curve_has_ten_points_or_more(steps: int, asked: float, taken: int) -> None:
    assert logging_steps(steps, asked) == taken
