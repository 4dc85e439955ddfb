"""Edit distance between byte strings, and the token with the smallest one.

Levenshtein distance: the fewest bytes to insert, delete or replace. Compiled; a pattern of up to 64
bytes is one machine word (Myers, "A fast bit-vector algorithm for approximate string matching based
on dynamic programming", J. ACM 46, 1999, in Hyyro's form for whole strings, 2003).

Axes: W byte strings that a token is wanted for, V vocabulary.
"""

from __future__ import annotations

import numpy as np

from infifusion.align.byte_spans import TokenTable
from infifusion.rows import compiled

WORD = 64
"""Bytes of a pattern that fit the word; longer ones take the table of all prefixes."""
NONE = np.uint64(0)
ONE = np.uint64(1)
ALL = np.uint64(2**64 - 1)
FAR = np.int64(1) << 40
"""Further apart than any two byte strings."""


def nearest_tokens(table: TokenTable, data: list[bytes]) -> list[int]:
    """Per byte string the id of the ordinary token at the smallest edit distance, or -1 where the
    table has none; of equally near ones the lowest id.

    A token whose length differs by d is at least d away, as is one with d kinds of bytes that the
    other lacks: most are passed over without being compared.
    """
    ordinary = [i for i, piece in enumerate(table.bytes_V) if piece and not table.special_V[i]]
    order = np.asarray(sorted(ordinary, key=lambda i: (len(table.bytes_V[i]), i)), np.int64)
    if not len(order):
        return [-1] * len(data)
    flat, begin_V1 = table.flat
    lengths = np.diff(begin_V1)[order]
    of_length = np.searchsorted(lengths, np.arange(int(lengths.max()) + 2))
    wanted = np.frombuffer(b"".join(data) or b"\0", np.uint8)
    begin_W1 = np.concatenate([[0], np.cumsum([len(piece) for piece in data])]).astype(np.int64)
    nearest_W = np.full(len(data), -1, np.int64)
    _nearest(flat, begin_V1, order, of_length, wanted, begin_W1, nearest_W)
    return nearest_W.tolist()


@compiled
def _nearest(flat, begin_V1, order, of_length, wanted, begin_W1, nearest_W):
    """order: token ids by length, then id; of_length[n]: where those of n bytes begin in it."""
    kinds = np.empty(len(order), np.uint64)
    for place in range(len(order)):
        token = order[place]
        kinds[place] = _kinds(flat, begin_V1[token], begin_V1[token + 1])
    longest = len(of_length) - 2
    pattern = np.zeros(256, np.uint64)
    for n in range(len(nearest_W)):
        begin, end = begin_W1[n], begin_W1[n + 1]
        length, own = end - begin, _kinds(wanted, begin, end)
        mark(pattern, wanted, begin, end)
        best, best_token = FAR, np.int64(-1)
        for apart in range(max(length, longest) + 1):
            if apart > best:
                break
            for side in range(1 if apart == 0 else 2):
                other = length - apart if side == 0 else length + apart
                if other < 1 or other > longest:
                    continue
                for place in range(of_length[other], of_length[other + 1]):
                    token = order[place]
                    least = max(apart, _ones(own & ~kinds[place]), _ones(kinds[place] & ~own))
                    if least > best or (least == best and token > best_token):
                        continue
                    first, last = begin_V1[token], begin_V1[token + 1]
                    away = distance(pattern, wanted, begin, end, flat, first, last, best)
                    if away < best or (away == best and token < best_token):
                        best, best_token = away, token
        clear(pattern, wanted, begin, end)
        nearest_W[n] = best_token


@compiled
def mark(pattern, flat, begin, end):
    """Make flat[begin:end] the pattern: pattern[byte] has a bit for each place of that byte."""
    if end - begin <= WORD:
        for place in range(begin, end):
            pattern[flat[place]] |= ONE << np.uint64(place - begin)


@compiled
def clear(pattern, flat, begin, end):
    """Undo `mark`."""
    for place in range(begin, end):
        pattern[flat[place]] = NONE


@compiled
def distance(pattern, flat, begin, end, other, first, last, limit):
    """Edit distance of flat[begin:end], which `pattern` was marked with, and other[first:last].
    Above `limit` it may stop early and return any number above it."""
    length = end - begin
    if length == 0 or length > WORD:
        return _by_table(flat, begin, end, other, first, last)
    top = ONE << np.uint64(length - 1)
    # Bit i: the distance grows (plus) or falls (minus) from prefix i to i + 1 of the pattern.
    plus, minus, total = ALL, NONE, np.int64(length)
    for place in range(first, last):
        equal = pattern[other[place]]
        vertical = equal | minus
        horizontal = (((equal & plus) + plus) ^ plus) | equal
        up = minus | ~(horizontal | plus)
        down = plus & horizontal
        if up & top:
            total += 1
        elif down & top:
            total -= 1
        if total - (last - place - 1) > limit:
            return total
        up, down = (up << ONE) | ONE, down << ONE
        plus, minus = down | ~(vertical | up), up & vertical
    return total


@compiled
def _by_table(flat, begin, end, other, first, last):
    """The textbook recursion over prefixes, one row at a time."""
    row = np.arange(last - first + 1)
    for i in range(begin, end):
        corner = row[0]
        row[0] += 1
        for j in range(first, last):
            here = j - first + 1
            replaced = corner + (0 if flat[i] == other[j] else 1)
            corner = row[here]
            row[here] = min(replaced, row[here] + 1, row[here - 1] + 1)
    return row[last - first]


@compiled
def _kinds(flat, begin, end):
    """Which bytes occur, modulo 64: one bit each."""
    kinds = NONE
    for place in range(begin, end):
        kinds |= ONE << np.uint64(flat[place] & 63)
    return kinds


@compiled
def _ones(word):
    """How many bits are set."""
    count = np.int64(0)
    while word:
        word &= word - ONE
        count += 1
    return count
