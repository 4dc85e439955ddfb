"""The border of the largest scores from one look at them: a sample says about where it is, and what
lies near is gathered. Where the sample misleads, the histograms of `select` find it.

Axes: P positions of a block; R borders that are looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from infifusion.merge.blocks.blocks import Block, Blocks, Raw
from infifusion.merge.blocks.compiled import MAGNITUDE, TILE, compiled

PIECES, PIECE = 128, 256  # of a tensor that are looked at, and their positions
FEW = 3  # blocks that are looked at where the tensor is made as it is read, or goes by rows
# Half the width of a window, in standard errors of the sample's quantile: positions of one row
# are more alike than independent ones.
ERRORS = 6.0
LEAST = 1e-3  # or this share of the positions
Score = Callable[[Block], np.ndarray]
Key = tuple[int, int]


@dataclass(frozen=True)
class Near:
    """What one block has near a border: how many magnitudes are above `high`, equal to it, equal to
    `low`; and those in between, in order."""

    above: int
    at_high: int
    at_low: int
    between: np.ndarray


@dataclass(frozen=True)
class Window:
    """Magnitudes between which a border is supposed, as float32 bits."""

    row: int
    low: int
    high: int

    def look(self, score_SP: np.ndarray) -> Near:
        """At one block."""
        bits_P = score_SP[self.row].view(np.uint32)
        out = np.empty(len(bits_P), np.uint32)
        above, at_high, at_low, found = count_near(
            bits_P, np.uint32(self.low), np.uint32(self.high), out
        )
        return Near(int(above), int(at_high), int(at_low), out[:found].copy())


def borders_near(
    blocks: Blocks, score: Score, counts: Mapping[Key, int]
) -> dict[Key, tuple[int, int, np.ndarray]]:
    """Of the borders of the largest scores (by row and another number: how many are kept), those
    that the sample found: the bits of the smallest that is kept, how many of those that equal it
    are, and how many of these each block has."""
    sample_SN = _sample(blocks, score)
    windows = {
        (row, n): _supposed(sample_SN[row], row, count / blocks.size)
        for (row, n), count in counts.items()
    }

    def look(block: Block) -> list[Near]:
        score_SP = score(block)
        return [window.look(score_SP) for window in windows.values()]

    parts = blocks.collect(look)
    found = {}
    for n, (key, window) in enumerate(windows.items()):
        border = _border([part[n] for part in parts], window, counts[key])
        if border is not None:
            found[key] = border
    return found


def border_of_share(
    blocks: Blocks, score: Score, share: float
) -> tuple[int, tuple[int, int, np.ndarray] | None]:
    """How many floor(share #{score > 0}) are, and the border of so many largest, where the sample
    found it; of scores of one row, in one look."""
    sample_N = _sample(blocks, score)[0]
    window = _supposed(sample_N, 0, share * np.count_nonzero(sample_N) / len(sample_N))

    def look(block: Block) -> tuple[int, Near]:
        score_1P = score(block)
        return int(np.count_nonzero(score_1P > 0)), window.look(score_1P)

    parts = blocks.collect(look)
    count = int(share * sum(positive for positive, _ in parts))
    inside = 0 < count < blocks.size
    return count, _border([near for _, near in parts], window, count) if inside else None


def _sample(blocks: Blocks, score: Score) -> np.ndarray:
    """Magnitudes of evenly spread pieces of the tensor: [S, positions]."""
    step = blocks.size // PIECES
    raws = [*([blocks.base] if blocks.base else []), *blocks.models]
    if blocks.unit == 1 and all(isinstance(raw.array_P, np.ndarray) for raw in raws):
        width = min(PIECE, step)
        parts = [_pieces(raw, step, width) for raw in raws]
        found = replace(
            blocks,
            base=parts.pop(0) if blocks.base else None,
            models=parts,
            shape=(PIECES * width,),
            length=PIECES * width,
        )
        return score(found.block(0)).view(np.uint32) & MAGNITUDE
    blocks_N = np.linspace(0, blocks.count - 1, min(FEW, blocks.count)).astype(int)
    found = [score(blocks.block(n)) for n in blocks_N]
    return np.concatenate(found, axis=1).view(np.uint32) & MAGNITUDE


def _pieces(raw: Raw, step: int, width: int) -> Raw:
    """`width` positions out of every `step`."""
    part = np.ascontiguousarray(raw.array_P[: step * PIECES].reshape(PIECES, step)[:, :width])
    part.flags.writeable = raw.array_P.flags.writeable  # for which loops are compiled already
    return Raw(part.reshape(-1), raw.dtype)


def _supposed(sample_N: np.ndarray, row: int, share: float) -> Window:
    """Where the border of the largest `share` is."""
    size = len(sample_N)
    spread = max(ERRORS * (share * (1 - share) / size) ** 0.5, LEAST)
    edges = (1 - share - spread) * size, (1 - share + spread) * size
    low, high = (min(max(int(edge), 0), size - 1) for edge in edges)
    ranked_N = np.partition(sample_N, (low, high))
    return Window(row, int(ranked_N[low]), int(ranked_N[high]))


def _border(parts: list[Near], window: Window, count: int) -> tuple[int, int, np.ndarray] | None:
    """None where the border is not in the window."""
    rank = count - sum(part.above for part in parts)
    if rank < 1:
        return None
    at_high = np.array([part.at_high for part in parts])
    if rank <= at_high.sum():
        return window.high, rank, at_high
    rank -= int(at_high.sum())
    between = np.concatenate([part.between for part in parts])
    if rank <= len(between):
        place = len(between) - rank
        bits = int(np.partition(between, place)[place])
        rank -= int((between > bits).sum())
        return bits, rank, np.array([int((part.between == bits).sum()) for part in parts])
    rank -= len(between)
    at_low = np.array([part.at_low for part in parts])
    if window.low < window.high and rank <= at_low.sum():
        return window.low, rank, at_low
    return None


@compiled
def count_near(bits_P, low, high, out):
    """How many magnitudes are above `high`, equal to it, equal to `low`, and strictly between; the
    latter into `out`, in order. Most words of eight positions have none of these."""
    size = len(bits_P)
    above, at_high, at_low = np.uint32(0), np.uint32(0), np.uint32(0)
    found = 0
    inside_T = np.zeros(TILE, np.uint8)
    word_W = inside_T.view(np.uint64)
    for start in range(0, size, TILE):
        width = min(TILE, size - start)
        bits_T = bits_P[start : start + width]
        for i in range(width):
            bits = bits_T[i] & MAGNITUDE
            above += np.uint32(bits > high)
            at_high += np.uint32(bits == high)
            at_low += np.uint32(bits == low)
            inside_T[i] = np.uint8((bits > low) & (bits < high))
        for i in range(width, TILE):
            inside_T[i] = 0
        for w in range(TILE // 8):
            if word_W[w] != 0:
                for i in range(w * 8, w * 8 + 8):
                    if inside_T[i] != 0:
                        out[found] = bits_T[i] & MAGNITUDE
                        found += 1
    return above, at_high, at_low, found
