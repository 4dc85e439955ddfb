from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given as over
from hypothesis import strategies as st

from infifusion.train.own_text import (
    OwnRows,
    Places,
    Steps,
    batch_of,
    given,
    in_turn,
    joined,
    nothing,
)


@over(st.floats(0, 1), st.integers(1, 12), st.integers(1, 3), st.integers(1, 3), st.integers(1, 12))
def test_every_answer_has_its_places_and_no_example_is_left_out(
    share, per_step, fresh, epochs, steps
) -> None:
    places = Places(share, per_step, fresh, epochs)
    seen, used = [], 0
    for step in range(steps):
        assert places.given_before(step) == used
        own = places.own(step)
        assert len(own) == per_step
        used += sum(n < 0 for n in own)
        seen.append([n for n in own if n >= 0])
    # As many answers as the share of all fresh places, each step's neighbours included.
    rounds = -(-steps // places.steps)
    for number in range(rounds):
        part = seen[number * places.steps : (number + 1) * places.steps]
        for time in range(1, len(part) // fresh):  # every epoch learns the same answers again
            assert part[time * fresh : (time + 1) * fresh] == part[:fresh]
    if epochs == 1:
        flat = [n for part in seen for n in part]
        assert flat == list(range(len(flat)))
        assert len(flat) == int(np.floor(steps * per_step * share))


@pytest.mark.parametrize(("share", "own"), [(0.5, 4), (0.25, 2), (1, 8), (0, 0)])
def test_a_step_has_its_share(share: float, own: int) -> None:
    for step in range(5):
        assert sum(n >= 0 for n in Places(share, 8, 1, 1).own(step)) == own


def test_things_come_in_turn_each_as_often_as_the_others() -> None:
    order = [in_turn(n, 7, seed=3, what="prompts") for n in range(21)]
    assert [sorted(order[n : n + 7]) for n in (0, 7, 14)] == [list(range(7))] * 3
    assert order[:7] != order[7:14]
    assert order == [in_turn(n, 7, seed=3, what="prompts") for n in range(21)]
    assert order != [in_turn(n, 7, seed=4, what="prompts") for n in range(21)]


def test_steps_are_whole() -> None:
    assert len(Steps(17, 8)) == 24 and len(Steps(16, 8)) == 16 and Steps(3, 2)[1] == 1


def rows() -> OwnRows:
    """Two answers: of three positions, the second of which nobody teaches, and of two."""
    return OwnRows(
        of_N=np.array([0, 2]),
        prompt_N=np.array([5, 6]),
        ids_L=np.array([9, 8, 1, 2, 3, 9, 4, 5], np.int32),
        offset_N1=np.array([0, 5, 8]),
        first_N=np.array([2, 1], np.int32),
        row_N1=np.array([0, 3, 5]),
        ids_TK=np.arange(10, dtype=np.int32).reshape(5, 2),
        prob_TK=np.linspace(0.1, 1, 10, dtype=np.float32).reshape(5, 2),
        weight_ST=np.ones((1, 5), np.float32),
        learnt_T=np.array([True, False, True, True, True]),
        before_T=-np.arange(5, dtype=np.float32),
        advantage_T=np.arange(5, dtype=np.float32),
    )


def test_only_positions_that_are_learnt_are_in_a_batch() -> None:
    batch = batch_of(rows(), [0, 1], name_from=100, gradient=True, sequence=True)
    assert batch["input_ids"].tolist() == [[9, 8, 1, 2, 3], [9, 4, 5, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    expected = [[False, True, False, True, False], [True, True, False, False, False]]
    assert batch["predicts_BL"].tolist() == expected
    assert batch["gold_R"].tolist() == [1, 3, 4, 5]
    assert batch["ids_RK"].tolist() == [[0, 1], [4, 5], [6, 7], [8, 9]]
    assert batch["advantage_R"].tolist() == [0, 2, 3, 4]
    assert batch["before_R"].tolist() == [0, -2, -3, -4]
    assert batch["scale_R"].tolist() == [0.5] * 4 and batch["own_R"].all()
    assert batch["example_B"].tolist() == [105, 106] and batch["taught_R"].all()


def test_answers_stand_behind_examples_in_one_batch() -> None:
    kinds = {"gradient": False, "sequence": True}
    own = batch_of(rows(), [1], name_from=0, **kinds)
    examples = {
        "input_ids": torch.tensor([[1, 2, 3, 4]]),
        "attention_mask": torch.ones(1, 4, dtype=torch.int64),
        "predicts_BL": torch.tensor([[False, True, True, False]]),
        "example_B": torch.tensor([7]),
        "gold_R": torch.tensor([3, 4]),
        "taught_R": torch.tensor([True, False]),
        "ids_RK": torch.tensor([[1, 2, 3], [4, 5, 6]]),
        "prob_RK": torch.full((2, 3), 0.2),
    }
    batch = joined(given(examples, [2], **kinds), own)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [9, 4, 5, 0]]
    assert batch["own_R"].tolist() == [False, False, True, True]
    assert batch["scale_R"].tolist() == [0.5, 0.5, 0.5, 0.5]
    assert batch["ids_RK"].tolist() == [[1, 2, 3], [4, 5, 6], [6, 7, -1], [8, 9, -1]]
    assert batch["prob_RK"][2:, 2].tolist() == [0, 0]
    empty = joined(batch, nothing([3, 4, 5], 2, **kinds))
    assert empty["input_ids"].shape == (3, 4) and len(empty["gold_R"]) == 4


def test_rows_come_back_as_they_were_kept(tmp_path: Path) -> None:
    for kept in (rows(), OwnRows.none(2, 4)):
        kept.save(tmp_path / "rows.safetensors")
        found = OwnRows.load(tmp_path / "rows.safetensors")
        for name, value in vars(kept).items():
            back = getattr(found, name)
            assert back.dtype == value.dtype and back.shape == value.shape
            assert (back == value).all()
