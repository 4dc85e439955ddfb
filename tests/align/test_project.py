from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from infifusion.align.evidence import bits_per_byte, running_evidence
from infifusion.align.project import Believed, Pair, Positions, align_sources, by_bytes
from infifusion.align.vocabulary import How, VocabularyMap, identity_map
from infifusion.types import Beliefs


def positions(starts: list[int], gold: list[int]) -> Positions:
    return Positions(
        np.asarray(starts, np.int32), np.asarray([0, len(starts)]), np.asarray(gold, np.int32)
    )


def beliefs(ids: list[list[int]], prob: list[list[float]], gold: list[float]) -> Beliefs:
    zeros = np.zeros(len(gold), np.float32)
    with np.errstate(divide="ignore"):
        return Beliefs(
            ids_UK=np.asarray(ids, np.int32),
            logprob_UK=np.log(np.asarray(prob)).astype(np.float16),
            gold_U=np.log(np.asarray(gold)).astype(np.float32),
            entropy_U=zeros,
            lse_U=zeros,
            mean_U=zeros,
            std_U=zeros + 1,
        )


def mapping(*pivot_ids: int) -> VocabularyMap:
    return VocabularyMap(
        np.asarray(pivot_ids, np.int32), np.full(len(pivot_ids), How.SAME_BYTES, np.uint8)
    )


def project(
    source: Positions,
    own: Beliefs,
    pivot: Positions,
    to: VocabularyMap,
    *,
    pair: Pair = by_bytes,
    gold_path: bool = True,
) -> SimpleNamespace:
    """One source carried over, its axis left out."""
    believed = [Believed(source, own, to, pair)]
    aligned, origins = align_sources(believed, pivot, gold_path=gold_path)
    return SimpleNamespace(
        ids_TK=aligned.ids_STK[0],
        prob_TK=aligned.prob_STK[0],
        tail_T=aligned.tail_ST[0],
        source_T=origins.source_ST[0],
        gold_path_T=origins.gold_path_ST[0],
        unmapped=origins.unmapped_S[0],
    )


def row(found, t: int) -> dict[int, float]:
    return {
        int(i): float(p)
        for i, p in zip(found.ids_TK[t], found.prob_TK[t], strict=False)
        if i >= 0 and p > 0
    }


def close(found: dict[int, float], expected: dict[int, float]) -> bool:
    return found.keys() == expected.keys() and all(
        found[i] == pytest.approx(expected[i], abs=2e-3) for i in expected
    )


def test_the_same_tokenizer_is_the_identity() -> None:
    here = positions([0, 2, 5], [1, 2, 0])
    own = beliefs([[1, 2], [2, 0], [0, 3]], [[0.7, 0.2], [0.5, 0.25], [0.9, 0.05]], [0.7, 0.5, 0.9])
    found = project(here, own, here, identity_map(4, known=4))
    assert close(row(found, 0), {1: 0.7, 2: 0.2})
    assert close(row(found, 1), {2: 0.5, 0: 0.25})
    assert found.tail_T == pytest.approx([0.1, 0.25, 0.05], abs=2e-3)
    assert not found.gold_path_T.any()


def test_probabilities_that_land_on_one_pivot_id_add_up_and_unmapped_ones_join_the_tail() -> None:
    source = positions([0, 3], [0, 9])
    own = beliefs([[0, 1, 2], [9, 0, 1]], [[0.5, 0.2, 0.1], [0.6, 0.3, 0.05]], [0.5, 0.6])
    # Ids 0 and 1 both stand for pivot id 4; id 2 is not mapped.
    found = project(source, own, positions([0, 3], [4, 8]), mapping(4, 4, -1, *[-1] * 6, 8))
    assert close(row(found, 0), {4: 0.7})
    assert found.tail_T[0] == pytest.approx(0.3, abs=2e-3)
    assert found.unmapped == pytest.approx(0.1, abs=2e-3)


def test_an_unaligned_position_is_empty() -> None:
    source = positions([0, 4], [0, 9])
    own = beliefs([[0], [9]], [[0.5], [0.6]], [0.5, 0.6])
    found = project(source, own, positions([0, 2, 4], [1, 2, 8]), mapping(1, *[-1] * 8, 8))
    assert found.source_T.tolist() == [0, -1, 1]
    assert row(found, 1) == {} and found.tail_T[1] == 0


def test_the_gold_path_follows_the_chain_rule() -> None:
    # The pivot's gold token 5 covers bytes 0..4; the source writes it as y1 = 1 (0..2), y2 = 2
    # (2..4) with p(y1) = 0.6 and p(y2 | y1) = 0.5, so P(5) = 0.3. y1 stands for pivot id 7, which
    # keeps p(y1) - P(5) = 0.3. The other kept id 3 (pivot 6) keeps its 0.2; the tail is 0.2.
    source = positions([0, 2, 4], [1, 2, 9])
    own = beliefs([[1, 3], [2, 3], [9, 3]], [[0.6, 0.2], [0.5, 0.1], [0.9, 0.05]], [0.6, 0.5, 0.9])
    found = project(source, own, positions([0, 4], [5, 8]), mapping(0, 7, 4, 6, *[-1] * 5, 8))
    assert close(row(found, 0), {5: 0.3, 7: 0.3, 6: 0.2})
    assert found.tail_T[0] == pytest.approx(0.2, abs=2e-3)
    assert found.gold_path_T.tolist() == [True, False]


def test_a_gold_path_that_starts_outside_the_top_k_comes_out_of_the_tail() -> None:
    # p(y1) = 0.1 lies outside the kept entry (0.6 on pivot 6). P(5) = 0.1 * 0.5 = 0.05.
    source = positions([0, 2, 4], [1, 2, 9])
    own = beliefs([[3], [2], [9]], [[0.6], [0.5], [0.9]], [0.1, 0.5, 0.9])
    found = project(source, own, positions([0, 4], [5, 8]), mapping(0, 7, 4, 6, *[-1] * 5, 8))
    assert close(row(found, 0), {6: 0.6, 5: 0.05})
    assert found.tail_T[0] == pytest.approx(0.35, abs=2e-3)


def test_spans_that_do_not_end_together_are_left_alone() -> None:
    # The pivot's gold token covers 0..3; the source has boundaries at 0, 2, 4.
    source = positions([0, 2, 4], [1, 2, 9])
    own = beliefs([[1], [2], [9]], [[0.6], [0.5], [0.9]], [0.6, 0.5, 0.9])
    found = project(source, own, positions([0, 3, 4], [5, 4, 8]), mapping(0, 7, 4, 6, *[-1] * 5, 8))
    assert close(row(found, 0), {7: 0.6})
    assert not found.gold_path_T.any()


def random_case() -> tuple[Positions, Beliefs, Positions, VocabularyMap]:
    """200 source positions and 300 pivot positions over the same 900 bytes, random beliefs."""
    rng = np.random.default_rng(0)
    rows = 200
    prob = rng.dirichlet(np.ones(12), rows)
    order = np.argsort(-prob, axis=1)[:, :5]
    gold = rng.integers(0, 12, rows)
    own = beliefs(
        order.tolist(),
        np.take_along_axis(prob, order, axis=1).tolist(),
        prob[np.arange(rows), gold].tolist(),
    )
    source = positions(np.sort(rng.choice(900, rows, replace=False)).tolist(), gold.tolist())
    cuts = np.sort(rng.choice(900, 300, replace=False))
    pivot = positions(cuts.tolist(), rng.integers(0, 12, 300).tolist())
    return source, own, pivot, mapping(*rng.integers(-1, 12, 12).tolist())


def test_without_the_gold_path_the_rows_it_would_change_are_as_mapped_and_no_others() -> None:
    case = random_case()
    on, off = project(*case), project(*case, gold_path=False)
    assert not off.gold_path_T.any() and on.gold_path_T.sum() > 3
    changed_T = (on.prob_TK != off.prob_TK).any(axis=1) | (on.ids_TK != off.ids_TK).any(axis=1)
    assert changed_T.tolist() == on.gold_path_T.tolist()
    assert on.source_T.tolist() == off.source_T.tolist()
    # As in the test of the chain rule: y1 = 1 stands for pivot id 7 and keeps all of its 0.6.
    source = positions([0, 2, 4], [1, 2, 9])
    own = beliefs([[1, 3], [2, 3], [9, 3]], [[0.6, 0.2], [0.5, 0.1], [0.9, 0.05]], [0.6, 0.5, 0.9])
    to = mapping(0, 7, 4, 6, *[-1] * 5, 8)
    found = project(source, own, positions([0, 4], [5, 8]), to, gold_path=False)
    assert close(row(found, 0), {7: 0.6, 6: 0.2})


def test_every_aligned_row_sums_to_one_with_its_tail() -> None:
    found = project(*random_case())
    total = found.prob_TK.sum(axis=1) + found.tail_T
    aligned = found.source_T >= 0
    assert aligned.sum() > 30 and found.gold_path_T.sum() > 3
    assert total[aligned] == pytest.approx(1, abs=1e-5) and (total[~aligned] == 0).all()
    assert (found.prob_TK >= 0).all()


def test_zscores_are_standardised_logits_and_are_left_out_where_they_are_not_asked_for() -> None:
    here = positions([0, 2, 5], [1, 2, 0])
    own = beliefs([[1, 2], [2, 0], [0, 3]], [[0.7, 0.2], [0.5, 0.25], [0.9, 0.05]], [0.7, 0.5, 0.9])
    own = replace(own, lse_U=np.full(3, 4, np.float32), mean_U=np.ones(3, np.float32))
    source = Believed(here, replace(own, std_U=own.std_U * 2), identity_map(4, known=4), by_bytes)
    # A logit is log p + 4; standardised (log p + 4 - 1) / 2. The second position is not aligned.
    found = align_sources([source], positions([0, 1, 5], [1, 2, 0]))[0].zscore_STK
    assert found is not None and (found[0, 1] == 0).all()
    assert found[0, 0] == pytest.approx((np.log([0.7, 0.2]) + 3) / 2, abs=1e-3)
    assert align_sources([source], here, zscores=False)[0].zscore_STK is None


def test_the_end_of_a_turn_is_the_product_along_the_source_s_own_way() -> None:
    """deepseek-coder's manner: a line break, then the token that stops. At a comma the line break
    is a line break; behind the response it is the begin of the end."""
    comma, line, stop, word = 0, 1, 2, 3
    source = positions([0, 1, 2, 2], [word, comma, line, stop])
    own = beliefs(
        [[word, comma], [comma, line], [line, comma], [stop, word]],
        [[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.5, 0.5]],
        [0.9, 0.6, 0.8, 0.5],
    )
    end = 9  # the pivot's only end token; the source's stop stands for it
    pivot = positions([0, 1, 2], [word, comma, end])
    found = project(source, own, pivot, mapping(comma, line, end, word))
    assert found.source_T.tolist() == [0, 1, 2]
    assert close(row(found, 1), {comma: 0.6, line: 0.4})
    # P(end) = 0.8 * 0.5; what is left of the line break is text: 0.8 - 0.4
    assert close(row(found, 2), {end: 0.4, line: 0.4, comma: 0.2})


def test_a_pivot_s_end_of_several_tokens_is_taught_at_its_first() -> None:
    word, line, stop = 3, 1, 2
    source = positions([0, 1], [word, stop])
    own = beliefs([[word], [stop]], [[0.9], [0.7]], [0.9, 0.7])
    pivot = positions([0, 1, 1], [word, line, stop])
    found = project(
        source, own, pivot, mapping(0, 1, line, word)
    )  # its stop begins the pivot's end
    assert found.source_T.tolist() == [0, 1, -1]
    assert close(row(found, 1), {line: 0.7})


def test_what_is_written_before_the_response_is_not_aligned_and_does_not_count() -> None:
    # A channel's name (-6 to -1), a token from -1 to 2, one from 2 to 3, the end.
    lead = positions([-6, -1, 2, 3], [5, 6, 7, 8])
    plain = positions([0, 2, 3], [1, 2, 3])
    assert by_bytes(plain, lead).tolist() == [-1, -1, 1, 2]
    assert by_bytes(lead, plain).tolist() == [-1, 2, 3]
    gold = np.log(np.asarray([0.5, 0.25, 0.5, 0.9], np.float32))
    # Three bits over three bytes: the token that reaches in counts, the channel's name does not.
    assert bits_per_byte(gold, lead.start_R, lead.row_N1).tolist() == pytest.approx([1.0])
    running = running_evidence(gold, lead.start_R, lead.row_N1, forgetting=1.0)
    assert running.tolist() == pytest.approx([0, 0, math.log(0.25), math.log(0.125)])


def test_of_tokens_without_width_the_one_before_the_text_is_aligned() -> None:
    """A dummy blank that SentencePiece puts behind a special token."""
    dummy = positions([0, 0, 2], [4, 5, 8])
    plain = positions([0, 2], [1, 3])
    assert by_bytes(plain, dummy).tolist() == [-1, 0, 1]
    assert by_bytes(dummy, plain).tolist() == [1, 2]
