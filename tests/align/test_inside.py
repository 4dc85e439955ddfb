"""What a source believes inside of one of its tokens, against all ways to go on."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from infifusion.align.boundaries import Positions
from infifusion.align.byte_spans import TokenTable
from infifusion.align.inside import Inside
from infifusion.align.project import Believed, align_sources, by_bytes
from infifusion.align.vocabulary import How, VocabularyMap
from infifusion.types import Beliefs

PIECES = [b"", b"a", b"b", b"c", b"ab", b"abc", b"bc", b"cab", b"ca", b"abab"]
"""The source's tokens; 0 ends the turn. The pivot's are the bytes: 0, a = 1, b = 2, c = 3."""
BYTES = {b"a": 1, b"b": 2, b"c": 3}


def table(pieces: list[bytes]) -> TokenTable:
    none = np.zeros(len(pieces), bool)
    return TokenTable(pieces, none, none, none, "plain")


def pivot_ids(rests: list[bytes]) -> list[int]:
    return [BYTES[rest[:1]] for rest in rests]


def model(seed: int) -> np.ndarray:
    """A source that looks at the last token alone: [V, V] probabilities."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(len(PIECES), 0.5), size=len(PIECES))


def exact(source: np.ndarray, before: int, read: bytes, depth: int = 6) -> dict[bytes, float]:
    """By brute force over all tokenizations behind the token `before`: the distribution of the
    byte after `read` (b"" where the turn ends), given that the text goes on with it."""
    found: dict[bytes, float] = defaultdict(float)

    def walk(last: int, rest: bytes, mass: float, left: int) -> None:
        for token, piece in enumerate(PIECES):
            p = mass * source[last, token]
            if p < 1e-15 or (token == 0 and rest):
                continue
            if len(piece) > len(rest) and piece.startswith(rest):
                found[piece[len(rest) : len(rest) + 1]] += p
            elif token == 0:
                found[b""] += p
            elif rest.startswith(piece) and left:
                walk(token, rest[len(piece) :], p, left - 1)

    walk(before, read, 1.0, depth)
    total = sum(found.values())
    return {byte: mass / total for byte, mass in found.items()}


def align(source: np.ndarray, gold: list[int], *, keep: int, floor: float, gold_path: bool = True):
    """The source's rows on the text of these tokens, at a pivot of single bytes. The first token
    stands before the response."""
    text = b"".join(PIECES[token] for token in gold)
    starts = np.cumsum([0, *(len(PIECES[token]) for token in gold[1:])]).astype(np.int32)
    own = [*gold[1:], 0]
    prob = np.stack([source[last] for last in gold])
    ids = np.argsort(-prob, axis=1, kind="stable")[:, :keep].astype(np.int32)
    zeros = np.zeros(len(own), np.float32)
    with np.errstate(divide="ignore"):
        beliefs = Beliefs(
            ids_UK=ids,
            logprob_UK=np.log(np.take_along_axis(prob, ids, axis=1)).astype(np.float32),
            gold_U=np.log([prob[u, token] for u, token in enumerate(own)]).astype(np.float32),
            entropy_U=zeros,
            lse_U=zeros,
            mean_U=zeros,
            std_U=zeros + 1,
        )
    response = text[len(PIECES[gold[0]]) :]
    here = Positions(starts, np.array([0, len(own)]), np.array(own, np.int32))
    pivot_gold = [*(BYTES[bytes([byte])] for byte in response), 0]
    there = Positions(
        np.arange(len(pivot_gold), dtype=np.int32),
        np.array([0, len(pivot_gold)]),
        np.array(pivot_gold, np.int32),
    )
    first = [0, *(BYTES[piece[:1]] for piece in PIECES[1:])]
    mapping = VocabularyMap(
        np.array(first, np.int32), np.full(len(PIECES), How.FIRST_TOKEN, np.uint8)
    )
    inside = Inside(table(PIECES), pivot_ids, floor)
    aligned, origins = align_sources(
        [Believed(here, beliefs, mapping, by_bytes, inside)],
        there,
        gold_path=gold_path,
        zscores=False,
    )
    return aligned, origins, response, starts


TEXTS = [[1, 5, 7, 4], [2, 9, 6, 3, 7], [3, 7, 7, 9, 1]]


@pytest.mark.parametrize("gold", TEXTS)
@pytest.mark.parametrize("keep", [len(PIECES), 4])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_said_is_sure_and_the_rest_is_the_tail(
    gold: list[int], keep: int, seed: int
) -> None:
    source = model(seed)
    aligned, origins, response, starts = align(source, gold, keep=keep, floor=1e-6)
    assert origins.inside_ST[0].sum() == len(response) - (len(starts) - 1)
    for t in np.flatnonzero(origins.inside_ST[0]).tolist():
        u = int(origins.source_ST[0, t])
        read = response[int(starts[u]) : t]
        assert read and PIECES[[*gold[1:], 0][u]].startswith(read)
        truth = exact(source, gold[u], read)
        ids, prob = aligned.ids_STK[0, t], aligned.prob_STK[0, t]
        row = {int(i): float(p) for i, p in zip(ids, prob, strict=True) if i >= 0}
        tail = float(aligned.tail_ST[0, t])
        assert sum(row.values()) + tail == pytest.approx(1, abs=1e-5)
        # What is said of a byte is never more than the truth, and short of it by the tail at most.
        for byte, id in BYTES.items():
            assert row.get(id, 0) <= truth.get(byte, 0) + 1e-4
            assert truth.get(byte, 0) <= row.get(id, 0) + tail + 1e-4


def test_where_nothing_is_shorter_than_what_was_read_the_row_is_exact() -> None:
    source = model(1)
    source[:, 1] = source[:, 4] = 0  # no token that begins "abab" ends within it
    source /= source.sum(axis=1, keepdims=True)
    aligned, _, response, _ = align(source, [2, 9], keep=len(PIECES), floor=1e-6)
    for t in (1, 2, 3):
        truth = exact(source, 2, response[:t])
        row = dict(zip(aligned.ids_STK[0, t].tolist(), aligned.prob_STK[0, t], strict=True))
        for byte, id in BYTES.items():
            assert row.get(id, 0) == pytest.approx(truth.get(byte, 0), abs=1e-5)
        assert aligned.tail_ST[0, t] == pytest.approx(0, abs=1e-5)
        entropy = -sum(p * np.log(p) for p in truth.values() if p > 0)
        assert aligned.entropy_ST[0, t] == pytest.approx(entropy, abs=1e-4)


def test_a_row_of_which_too_little_is_known_is_left_empty() -> None:
    source = model(0)
    source[2] = 0.02
    source[2, 1] = 1 - 0.02 * (len(PIECES) - 1)  # nearly surely the token ends where "ab" is read
    everything, counted, *_ = align(source, [2, 4], keep=len(PIECES), floor=1e-6)
    assert counted.inside_ST[0].tolist() == [False, True, False]
    assert everything.tail_ST[0, 1] == pytest.approx(0.82 / 0.88, abs=1e-3)
    nothing, origins, *_ = align(source, [2, 4], keep=len(PIECES), floor=0.5)
    assert not origins.inside_ST.any() and not nothing.aligned_ST[0, 1]
    assert (nothing.ids_STK[0, 1] == -1).all() and nothing.tail_ST[0, 1] == 0


def test_the_token_that_is_there_counts_though_the_cache_does_not_hold_it() -> None:
    source = np.full((len(PIECES), len(PIECES)), 0.001)
    source[:, 2] = 1 - 0.001 * (len(PIECES) - 1)
    aligned, origins, *_ = align(source, [1, 5], keep=1, floor=1e-6)
    row = dict(zip(aligned.ids_STK[0, 1].tolist(), aligned.prob_STK[0, 1], strict=True))
    assert row[BYTES[b"b"]] == pytest.approx(0.001 / 0.009, abs=1e-4)
    assert origins.inside_ST[0].tolist() == [False, True, True, False]


def test_a_pivot_token_that_goes_on_beyond_the_source_s_has_the_product() -> None:
    """The pivot reads "b" and "ca" of "abc|ab": "ca" begins inside of the source's first token."""
    source, gold = model(2), [1, 5, 4]
    own = [5, 4, 0]
    prob = np.stack([source[last] for last in gold])
    ids = np.argsort(-prob, axis=1, kind="stable").astype(np.int32)
    zeros = np.zeros(3, np.float32)
    beliefs = Beliefs(
        ids_UK=ids,
        logprob_UK=np.log(np.take_along_axis(prob, ids, axis=1)).astype(np.float32),
        gold_U=np.log([prob[u, token] for u, token in enumerate(own)]).astype(np.float32),
        entropy_U=zeros, lse_U=zeros, mean_U=zeros, std_U=zeros + 1,
    )  # fmt: skip
    here = Positions(np.array([0, 3, 5], np.int32), np.array([0, 3]), np.array(own, np.int32))
    # Its tokens: ab, cab (3 + 2 bytes of the source's), end; ids 4 and 7 of the same table.
    gold_R = np.array([4, 7, 0], np.int32)
    there = Positions(np.array([0, 2, 5], np.int32), np.array([0, 3]), gold_R)
    known = {piece: token for token, piece in enumerate(PIECES) if piece}
    inside = Inside(table(PIECES), lambda rests: [known.get(rest, -1) for rest in rests], 1e-6)
    mapping = VocabularyMap(np.arange(len(PIECES), dtype=np.int32), np.ones(len(PIECES), np.uint8))
    believed = [Believed(here, beliefs, mapping, by_bytes, inside)]
    aligned, origins = align_sources(believed, there, zscores=False)
    assert origins.gold_path_ST[0, 1] and origins.inside_ST[0, 1]
    longer = sum(source[1, t] for t in (5, 9))  # begin with "ab" and go on
    shorter = sum(source[1, t] for t in (1, 4))
    row = dict(zip(aligned.ids_STK[0, 1].tolist(), aligned.prob_STK[0, 1], strict=True))
    path = source[1, 5] * source[5, 4] / (longer + shorter)
    assert row[7] == pytest.approx(path, abs=1e-5)
    assert row[3] == pytest.approx(source[1, 5] / (longer + shorter) - path, abs=1e-5)


def test_a_dummy_prefix_is_no_byte_of_the_text() -> None:
    pieces = [b"", b" ab", b"a", b" ax", b"b"]
    prob = np.array([[0.0, 0.6, 0.1, 0.3, 0.0], [1.0, 0, 0, 0, 0]])
    zeros = np.zeros(2, np.float32)
    with np.errstate(divide="ignore"):
        beliefs = Beliefs(
            ids_UK=np.array([[1, 3, 2], [0, 1, 2]], np.int32),
            logprob_UK=np.log(np.array([[0.6, 0.3, 0.1], [1.0, 0, 0]])).astype(np.float32),
            gold_U=np.log(np.array([prob[0, 1], 1.0])).astype(np.float32),
            entropy_U=zeros, lse_U=zeros, mean_U=zeros, std_U=zeros + 1,
        )  # fmt: skip
    here = Positions(np.array([0, 2], np.int32), np.array([0, 2]), np.array([1, 0], np.int32))
    there = Positions(
        np.array([0, 1, 2], np.int32), np.array([0, 3]), np.array([1, 2, 0], np.int32)
    )
    names = {b"a": 1, b"b": 2, b"x": 3}
    inside = Inside(table(pieces), lambda rests: [names.get(rest, -1) for rest in rests], 0.5)
    mapping = VocabularyMap(np.array([0, 1, 1, 1, 2], np.int32), np.ones(5, np.uint8))
    believed = [Believed(here, beliefs, mapping, by_bytes, inside)]
    aligned, origins = align_sources(believed, there, zscores=False)
    row = dict(zip(aligned.ids_STK[0, 1].tolist(), aligned.prob_STK[0, 1], strict=True))
    assert row[2] == pytest.approx(2 / 3, abs=1e-5) and row[3] == pytest.approx(1 / 3, abs=1e-5)
    assert origins.inside_ST[0].tolist() == [False, True, False]
