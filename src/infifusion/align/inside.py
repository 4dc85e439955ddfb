"""What a source believes in the middle of one of its tokens.

A pivot position that begins inside a source's token has no source position of its own, but the
source has spoken about it: at the position that predicts this token it gave a probability to every
token that begins with the bytes read since. Those tokens, with these bytes cut off and their
probabilities scaled to their sum, are its belief (Phan et al., arXiv 2410.09303; Hayase et al.,
2506.14123: the conditional distribution of bytes given the tokens before; here from the K entries
of a cache). What cannot be known from them is the tail: tokens that the cache does not hold, and
tokens that end within the bytes read, after which the source would have to be asked again. The
share that is known is the certainty of the row; below a floor the position stays untaught.

Axes: P pivot positions inside a source's token; K entries; the others as in align.project.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infifusion.align.boundaries import Positions, example_of, match
from infifusion.align.byte_spans import TokenTable
from infifusion.rows import add, compiled, keep_row
from infifusion.types import lengths

OTHER, LONGER, SHORTER = 0, 1, 2
"""A token that begins with the bytes read and goes on is LONGER; one that they begin with, or are,
is SHORTER; every other one is impossible."""
CUT = np.int64(1) << 16
"""Tokens are shorter than 64 KiB, so that a token and where it is cut fit one int64."""
ZERO = np.float32(0)


class Place(NamedTuple):
    """Where P pivot positions lie in a source's tokens.

    t_P: pivot positions. u_P: the source positions whose tokens they lie in. cut_P: bytes of these
    tokens that were read before. last_P: the source position whose token ends with the pivot's gold
    token; u where that ends within the source's token, -1 where nothing ends with it.
    """

    t_P: NDArray[np.int64]
    u_P: NDArray[np.int64]
    cut_P: NDArray[np.int64]
    last_P: NDArray[np.int64]


@dataclass
class Inside:
    """Carries the rest of a source's token to the pivot's vocabulary.

    source: the source's tokens. pivot_ids: the pivot's token at the front of each text of bytes, or
    -1. floor: the least share of a row that must be known.
    """

    source: TokenTable
    pivot_ids: Callable[[list[bytes]], list[int]]
    floor: float
    _key_J: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _pivot_J: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    def rests(self, key_PK: NDArray[np.int64]) -> NDArray[np.int32]:
        """The pivot id of what remains of each token, by `id * CUT + cut`; -1 for keys below 0."""
        wanted = np.unique(key_PK)
        new = np.setdiff1d(wanted[wanted >= 0], self._key_J, assume_unique=True)
        if len(new):
            rest = [self.source.bytes_V[key // CUT][key % CUT :] for key in new.tolist()]
            ids = np.array(self.pivot_ids(rest), np.int32)
            key_J = np.concatenate([self._key_J, new])
            order = np.argsort(key_J)
            self._key_J = key_J[order]
            self._pivot_J = np.concatenate([self._pivot_J, ids])[order]
        found_PK = np.full(key_PK.shape, -1, np.int32)
        there_PK = key_PK >= 0
        found_PK[there_PK] = self._pivot_J[np.searchsorted(self._key_J, key_PK[there_PK])]
        return found_PK


def places_inside(
    source: Positions,
    pivot: Positions,
    source_T: NDArray[np.int64],
    table: TokenTable,
    *,
    gold_path: bool,
) -> Place:
    """The pivot positions, of those aligned with nothing (source_T = -1), that begin inside of a
    source's token; text that one of the two alone writes, and the end of the turn, apart."""
    open_T = (source_T < 0) & (pivot.start_R >= 0)
    open_T &= pivot.start_R < lengths(pivot.start_R, pivot.row_N1)
    if pivot.private_R is not None:
        open_T &= ~pivot.private_R
    t_P = np.flatnonzero(open_T)
    u_P = np.maximum(np.searchsorted(source.key_R, pivot.key_R[t_P], side="right") - 1, 0)
    begins_P, ends_P = source.key_R[u_P], source.end_R[u_P]
    ends_P = np.where(
        source.start_R[u_P] == lengths(source.start_R, source.row_N1)[u_P], begins_P, ends_P
    )
    _, begin_V1 = table.flat
    gold_P = np.minimum(source.gold_R[u_P], len(table) - 1)
    size_P = begin_V1[gold_P + 1] - begin_V1[gold_P]
    here_P = pivot.key_R[t_P]
    cut_P = size_P - (ends_P - here_P)
    fits_P = (begins_P < here_P) & (here_P < ends_P) & (source.gold_R[u_P] < len(table))
    fits_P &= (cut_P > 0) & (cut_P < np.minimum(size_P, CUT))
    # A token has the width of its bytes, or one less: a dummy prefix is no part of the text.
    fits_P &= (size_P - (ends_P - begins_P) >= 0) & (size_P - (ends_P - begins_P) <= 1)
    fits_P &= example_of(source.row_N1)[u_P] == example_of(pivot.row_N1)[t_P]
    if source.private_R is not None:
        fits_P &= ~source.private_R[u_P]
    t_P, u_P, cut_P, ends_P = t_P[fits_P], u_P[fits_P], cut_P[fits_P], ends_P[fits_P]
    if not gold_path:
        return Place(t_P, u_P, cut_P, np.full(len(t_P), -1))
    beyond_P = pivot.end_R[t_P] > ends_P
    last_P = np.where(beyond_P, match(pivot.end_R[t_P], source.end_R), u_P)
    return Place(t_P, u_P, cut_P, last_P)


def fill_inside(inside: Inside, place: Place, source, gold_T: NDArray[np.int32], out) -> NDArray:
    """Write the rows of these pivot positions; source and out as in align.project. Returns [P],
    bool: whether a row's certainty reaches the floor; the other rows are left empty."""
    flat, begin_V1 = inside.source.flat
    shape = (len(place.t_P), source.ids_UK.shape[1] + 1)
    kind_PK, key_PK = np.zeros(shape, np.uint8), np.full(shape, -1, np.int64)
    prob_PK = np.zeros(shape, np.float32)
    gold_logprob_P = source.before_U1[place.u_P + 1] - source.before_U1[place.u_P]
    ids_PK = np.concatenate([source.ids_UK[place.u_P], source.gold_U[place.u_P, None]], axis=1)
    _kinds(ids_PK, place.cut_P, flat, begin_V1, kind_PK, key_PK)
    prob_PK[:, :-1] = source.prob_UK[place.u_P]
    # The token that is there is known, be it among the K or not.
    among_P = (ids_PK[:, :-1] == ids_PK[:, -1:]).any(axis=1)
    prob_PK[:, -1] = np.where(among_P, 0, np.exp(gold_logprob_P))
    known_P = np.where(kind_PK == LONGER, prob_PK, 0).sum(axis=1, dtype=np.float64)
    shorter_P = np.where(kind_PK == SHORTER, prob_PK, 0).sum(axis=1, dtype=np.float64)
    unseen_P = np.maximum(1 - prob_PK.sum(axis=1, dtype=np.float64), 0)
    whole_P = known_P + shorter_P + unseen_P
    certain_P = known_P >= inside.floor * whole_P
    there_P = place.last_P >= 0
    path_P = np.zeros(len(there_P))
    ends_P, begins_P = place.last_P[there_P] + 1, place.u_P[there_P]
    path_P[there_P] = np.exp(source.before_U1[ends_P] - source.before_U1[begins_P])
    _fill(
        np.flatnonzero(certain_P),
        place.t_P,
        inside.rests(key_PK),
        prob_PK,
        kind_PK,
        np.where(whole_P > 0, whole_P, 1),
        path_P,
        gold_T,
        out,
    )
    return certain_P


@compiled
def _kinds(ids_PK, cut_P, flat, begin_V1, kind_PK, key_PK):
    """Compare every entry with the bytes read, which are the first of the token that is there."""
    for p in range(len(cut_P)):
        there = begin_V1[ids_PK[p, -1]]
        for k in range(ids_PK.shape[1]):
            token = ids_PK[p, k]
            if token < 0 or token >= len(begin_V1) - 1:
                continue
            begin, size = begin_V1[token], begin_V1[token + 1] - begin_V1[token]
            common = min(size, cut_P[p])
            same = size > 0
            for byte in range(common):
                if flat[begin + byte] != flat[there + byte]:
                    same = False
                    break
            if same:
                kind_PK[p, k] = LONGER if size > cut_P[p] else SHORTER
                if size > cut_P[p]:
                    key_PK[p, k] = np.int64(token) * CUT + cut_P[p]


@compiled
def _fill(rows, t_P, rest_PK, prob_PK, kind_PK, whole_P, path_P, gold_T, out):
    entries = prob_PK.shape[1]
    ids_J, row_J = np.empty(entries + 2, np.int32), np.empty(entries + 2, np.float32)
    for p in rows:
        t, used = t_P[p], 0
        for k in range(entries):
            if kind_PK[p, k] == LONGER and prob_PK[p, k] > 0 and rest_PK[p, k] >= 0:
                share = np.float32(prob_PK[p, k] / whole_P[p])
                used = add(ids_J, row_J, used, rest_PK[p, k], share, used)
        stands_for = rest_PK[p, entries - 1]
        if path_P[p] > 0 and stands_for != gold_T[t]:
            path = np.float32(path_P[p] / whole_P[p])
            if stands_for >= 0:
                used = add(ids_J, row_J, used, stands_for, -path, used)
            used = add(ids_J, row_J, used, gold_T[t], path, used)
            out.gold_path[t] = True
            for j in range(used):
                row_J[j] = max(row_J[j], ZERO)
        keep_row(ids_J, row_J, used, out.ids[t], out.prob[t])
        total, used = ZERO, min(used, out.ids.shape[1])
        for k in range(used):
            total += out.prob[t, k]
        if total > 1:
            for k in range(used):
                out.prob[t, k] /= total
        tail = max(np.float32(1) - total, ZERO)
        entropy = -tail * np.log(tail) if tail > 0 else ZERO
        for k in range(used):
            if out.prob[t, k] > 0:
                entropy -= out.prob[t, k] * np.log(out.prob[t, k])
        out.tail[t], out.entropy[t], out.top[t] = tail, entropy, out.prob[t, 0]
