"""Which positions of a tensor are kept: exactly the largest, however large the tensor is.

Axes: S rows of scores (one per model, or one for all), P positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from infifusion.merge.blocks.blocks import Block, Blocks
from infifusion.merge.blocks.counts import (
    FIRST_COUNT,
    LEADING,
    SECOND_COUNT,
    TRAILING,
    TURNS,
    between,
    count_equal,
    count_leading_twice,
    count_trailing,
)
from infifusion.merge.blocks.masks import clear, clear_below, clear_outside, keep_from, keep_some
from infifusion.merge.blocks.window import border_of_share, borders_near

# Share of a tensor that is worth sorting to find the border; beyond it a second histogram is
# cheaper.
GATHERED = 1 / 64
KEEP_NONE = 1 << 32
ALL = -1
NONE_KNOWN: Mapping[tuple[int, int], Border] = {}
Score = Callable[[Block], np.ndarray]  # [S, P of the block], float32; compared by magnitude


@dataclass(frozen=True)
class Border:
    """The smallest magnitude that is kept, as float32 bits, and how many of those that equal it are
    kept in each block, ALL or a number; all of all blocks where `ties` is None."""

    bits: int
    ties: np.ndarray | None

    @property
    def value(self) -> float:
        """The smallest kept score; infinite where nothing is kept."""
        if self.bits >= KEEP_NONE:
            return float("inf")
        return float(_as_float(self.bits))

    def mask(self, block: Block, score_P: np.ndarray) -> np.ndarray:
        """Which positions of the block are kept: bool."""
        mask_P = np.zeros(block.size, np.bool_)
        if self.bits >= KEEP_NONE:
            return mask_P
        bits_P = score_P.view(np.uint32)
        ties = ALL if self.ties is None else int(self.ties[block.index])
        if ties == ALL:
            keep_from(bits_P, np.uint32(self.bits), mask_P)
        elif ties == 0:
            keep_from(bits_P, np.uint32(self.bits + 1), mask_P)
        else:
            keep_some(bits_P, np.uint32(self.bits), ties, mask_P)
        return mask_P

    def lowest(self, block: Block) -> np.uint32 | None:
        """The lowest bits that are kept in the block, more than any magnitude's where none are;
        None where only some of those that equal the border are."""
        if self.bits >= KEEP_NONE:
            return np.uint32(KEEP_NONE - 1)
        ties = ALL if self.ties is None else int(self.ties[block.index])
        return np.uint32(self.bits + (ties == 0)) if ties in (ALL, 0) else None

    def trim(self, block: Block, row_P: np.ndarray) -> None:
        """Set what is not kept to 0, in place."""
        smallest = self.smallest(block)
        if smallest is None:
            clear(row_P, self.mask(block, row_P))
        else:
            clear_below(row_P, smallest)

    def trim_but(self, inner: Border, block: Block, row_P: np.ndarray) -> None:
        """Set what is not kept, and what `inner` keeps, to 0, in place."""
        smallest, above = self.smallest(block), inner.smallest(block)
        if smallest is None or above is None:
            clear(row_P, self.mask(block, row_P) & ~inner.mask(block, row_P))
        else:
            clear_outside(row_P, smallest, above)

    def smallest(self, block: Block) -> np.float32 | None:
        """Smallest magnitude that is kept in the block, Inf where none is; None where only some of
        those that equal it are."""
        if self.bits >= KEEP_NONE:
            return np.float32(np.inf)
        ties = ALL if self.ties is None else int(self.ties[block.index])
        return _as_float(self.bits + (ties == 0)) if ties in (ALL, 0) else None


def _as_float(bits: int) -> np.float32:
    return np.array([bits], np.uint32).view(np.float32)[0]


def largest(blocks: Blocks, score: Score, counts: list[list[int]]) -> list[list[Border]]:
    """Borders of the counts[s][m] largest scores of row s, in the same order.

    Of equal scores at the border the earlier positions are kept, so that exactly the count is. A
    sample mostly finds it with one look at all scores (`window`). Else one pass counts the leading
    16 bits of the scores, a second one sorts what shares them with the border, or counts what
    equals it. A count of 0 keeps nothing, one of P or more everything.
    """
    found: dict[tuple[int, int], Border] = {}
    asked = {(r, m): count for r, row in enumerate(counts) for m, count in enumerate(row)}
    open_ = {key: count for key, count in asked.items() if 0 < count < blocks.size}
    if blocks.size > LEADING and open_:
        near = borders_near(blocks, score, open_)
        found = {key: _border(*border) for key, border in near.items()}
    if open_.keys() <= found.keys() or blocks.size <= LEADING:
        leading = None
    else:
        leading = histogram(blocks, score, len(counts))
    return borders(blocks, score, leading, counts, found)


def largest_share(blocks: Blocks, score: Score, share: float) -> Border:
    """The border of the floor(share #{score > 0}) largest scores of one row."""
    found = None
    if blocks.size > LEADING:
        count, found = border_of_share(blocks, score, share)
    else:
        positive = blocks.collect(lambda block: np.count_nonzero(score(block) > 0))
        count = int(share * int(sum(positive)))
    if found is not None:
        return _border(*found)
    ((border,),) = largest(blocks, score, [[count]])
    return border


def histogram(blocks: Blocks, score: Score, rows: int) -> np.ndarray:
    """How often each leading part of a score occurs, and how often with trailing bits that are not
    all 0: [2, S, LEADING]."""

    def add(block: Block, found: np.ndarray) -> None:
        for row_P, counts in zip(score(block), found, strict=True):
            count_leading_twice(row_P.view(np.uint32), counts)

    zeros = np.zeros((rows, TURNS, LEADING), np.int64)
    both = blocks.total(add, zeros)
    parts = [both & FIRST_COUNT, both >> SECOND_COUNT]
    return np.stack([part.sum(axis=1) for part in parts])


def borders(
    blocks: Blocks,
    score: Score,
    leading: np.ndarray | None,
    counts: list[list[int]],
    known: Mapping[tuple[int, int], Border] = NONE_KNOWN,
) -> list[list[Border]]:
    """`largest`, where the histogram is at hand; None: a small tensor that is sorted whole. known:
    borders that were found already."""
    found = dict(known)
    open_: dict[tuple[int, int], Window] = {}
    for r, row in enumerate(counts):
        for m, count in enumerate(row):
            if (r, m) in found:
                continue
            if count <= 0:
                found[r, m] = Border(KEEP_NONE, None)
            elif count >= blocks.size:
                found[r, m] = Border(0, None)
            elif leading is None:
                open_[r, m] = Window(r, 0, KEEP_NONE - 1, count, blocks.size)
            else:
                open_[r, m] = _window(r, leading[:, r], count)
    found |= _borders(blocks, score, open_)
    return [[found[r, m] for m in range(len(row))] for r, row in enumerate(counts)]


@dataclass(frozen=True)
class Window:
    """The border of row `row` lies among the `population` scores with bits in [low, high]; it is
    the `rank`-th largest of them."""

    row: int
    low: int
    high: int
    rank: int
    population: int


def _window(row: int, leading: np.ndarray, count: int) -> Window:
    """Where the border lies, by the histogram: [2, LEADING].

    Deltas of bfloat16 weights mostly have trailing bits of 0. Where it is known how many have not,
    the border is either that one value or among those few.
    """
    from_top = np.cumsum(leading[0][::-1])
    place = int(np.searchsorted(from_top, count))  # the first with from_top >= count
    bin_ = LEADING - 1 - place
    population = int(leading[0][bin_])
    rank = count - int(from_top[place]) + population
    low, high = bin_ << 15, (bin_ << 15) + TRAILING - 1
    uneven = int(leading[1][bin_])
    if rank > uneven:
        return Window(row, low, low, rank - uneven, population - uneven)
    return Window(row, low + 1, high, rank, uneven)


def _borders(
    blocks: Blocks, score: Score, windows: dict[tuple[int, int], Window]
) -> dict[tuple[int, int], Border]:
    dense = {
        key: window
        for key, window in windows.items()
        if 0 < window.high - window.low < TRAILING and window.population > GATHERED * blocks.size
    }
    if dense:
        windows = windows | _narrowed(blocks, score, dense)
    # A window of one value, all of it kept, needs no look at where it stands.
    done = {
        k: Border(w.low, None)
        for k, w in windows.items()
        if w.low == w.high and w.rank == w.population
    }
    rest = {key: window for key, window in windows.items() if key not in done}
    single = {key: window for key, window in rest.items() if window.low == window.high}
    wide = {key: window for key, window in rest.items() if key not in single}
    if single:
        ties = blocks.collect(lambda block: _equal(score(block), list(single.values())))
        for n, (key, window) in enumerate(single.items()):
            done[key] = _border(window.low, window.rank, np.array([t[n] for t in ties]))
    if wide:
        parts = blocks.collect(lambda block: _gather(score(block), list(wide.values())))
        for n, (key, window) in enumerate(wide.items()):
            values = np.concatenate([part[n] for part in parts])
            place = len(values) - window.rank
            bits = int(np.partition(values, place)[place])
            rank = window.rank - int((values > bits).sum())
            done[key] = _border(bits, rank, np.array([int((p[n] == bits).sum()) for p in parts]))
    return done


def _border(bits: int, kept: int, ties: np.ndarray) -> Border:
    """The first `kept` of the ties, which stand in the blocks as `ties` says."""
    if kept == int(ties.sum()):
        return Border(bits, None)
    before = np.cumsum(ties) - ties
    taken = np.clip(kept - before, 0, ties)
    return Border(bits, np.where(taken == ties, ALL, taken))


def _narrowed(
    blocks: Blocks, score: Score, windows: dict[tuple[int, int], Window]
) -> dict[tuple[int, int], Window]:
    """Each window shrunk to the one value of its border, by a histogram of the trailing bits."""
    places = sorted({(window.row, window.low >> 15) for window in windows.values()})

    def add(block: Block, found: np.ndarray) -> None:
        score_SP = score(block)
        for (row, bin_), counts in zip(places, found, strict=True):
            count_trailing(score_SP[row].view(np.uint32), np.uint32(bin_), counts)

    zeros = np.zeros((len(places), TURNS, TRAILING + 256), np.int64)
    trailing = blocks.total(add, zeros).sum(axis=1)[:, :TRAILING]
    narrowed = {}
    for key, window in windows.items():
        bin_ = window.low >> 15
        counts = trailing[places.index((window.row, bin_))]
        from_top = np.cumsum(counts[::-1])
        place = int(np.searchsorted(from_top, window.rank))
        value = (bin_ << 15) + TRAILING - 1 - place
        population = int(counts[TRAILING - 1 - place])
        rank = window.rank - int(from_top[place]) + population
        narrowed[key] = Window(window.row, value, value, rank, population)
    return narrowed


def _equal(score_SP: np.ndarray, windows: list[Window]) -> list[int]:
    return [int(count_equal(score_SP[w.row].view(np.uint32), np.uint32(w.low))) for w in windows]


def _gather(score_SP: np.ndarray, windows: list[Window]) -> list[np.ndarray]:
    return [between(score_SP[w.row], w.low, w.high) for w in windows]
