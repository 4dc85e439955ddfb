from __future__ import annotations

import numpy as np
import pytest

from infifusion.align.evidence import bits_per_byte, running_evidence

# Two examples: tokens that start at bytes 0, 2, 5 (end of turn at 5), and 0, 1.
START = np.asarray([0, 2, 5, 0, 1], np.int32)
ROW = np.asarray([0, 3, 5])
GOLD = np.log(np.asarray([0.5, 0.25, 0.9, 0.125, 0.3])).astype(np.float32)


def test_without_forgetting_evidence_is_the_running_sum_of_log_probabilities() -> None:
    found = running_evidence(GOLD, START, ROW, forgetting=1.0)
    # 0, ln .5, ln .5 + ln .25; 0, ln .125
    assert np.exp(found) == pytest.approx([1, 0.5, 0.125, 1, 0.125], rel=1e-6)


def test_evidence_fades_by_the_factor_per_byte() -> None:
    found = running_evidence(GOLD, START, ROW, forgetting=0.5)
    # At byte 5 the token that ended at byte 2 is 3 bytes old: ln .5 * .5^3 + ln .25.
    assert found[2] == pytest.approx(np.log(0.5) / 8 + np.log(0.25), rel=1e-6)
    assert found[0] == 0 and found[3] == 0


def test_evidence_of_one_text_does_not_depend_on_how_it_is_cut() -> None:
    # The second tokenizer cuts the first token in two with the same joint probability.
    fine_start = np.asarray([0, 1, 2, 5], np.int32)
    fine_gold = np.log(np.asarray([0.5, 1.0, 0.25, 0.9])).astype(np.float32)
    fine = running_evidence(fine_gold, fine_start, np.asarray([0, 4]), forgetting=1.0)
    coarse = running_evidence(GOLD[:3], START[:3], np.asarray([0, 3]), forgetting=1.0)
    assert fine[3] == pytest.approx(coarse[2], rel=1e-6)


def test_bits_per_byte_leaves_the_end_of_the_turn_apart() -> None:
    # Example 0: (1 + 2 bits) / 5 bytes. Example 1: 3 bits / 1 byte.
    assert bits_per_byte(GOLD, START, ROW) == pytest.approx([3 / 5, 3.0], rel=1e-6)
