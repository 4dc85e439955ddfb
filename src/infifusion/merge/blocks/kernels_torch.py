"""The loops of `kernels` as operations on whole blocks of torch tensors, on any device.

Axes: S models, P positions of a block, R rows of N positions.

Every function has the name, the arguments and the result of its compiled twin. The same bits come
out on every device and in blocks of any length:

* additions and multiplications stand alone: `alpha=`, `addcmul` and the like may round once where
  two roundings are meant, on some devices;
* a tensor is divided by a tensor: some devices multiply by the inverse of a number;
* what is summed is added in pairs of neighbours, in float64 (`in_pairs`), never by torch's sums,
  whose order depends on device, threads and shape. Against the compiled loops, which sum in another
  order, a sum may differ in the last bits of float64; all else is equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MAGNITUDE = 0x7FFFFFFF
LEADING_SHIFT = 15
LEADING = 1 << 16
TRAILING = 1 << 15
SECOND_COUNT = 32
STREAM = 0x9E3779B97F4A7C15 - 2**64  # the constants of `kernels.draw` and `mix`, as signed numbers
MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
MIX_2 = 0x94D049BB133111EB - 2**64


def in_pairs(terms: Tensor) -> Tensor:
    """Sum over the last axis: neighbours are added, then neighbouring sums, to the end. So the sum
    of a block that is a power of two long is one node of the tree of any larger one."""
    while terms.shape[-1] > 1:
        size = terms.shape[-1]
        sums = terms[..., 0 : size - 1 : 2] + terms[..., 1:size:2]
        terms = torch.cat([sums, terms[..., -1:]], -1) if size % 2 else sums
    return terms.sum(-1)  # of one term, or none


def joined_in_pairs(parts: Iterable[np.ndarray], zeros: np.ndarray) -> np.ndarray:
    """The same tree over sums of equally many terms, the last perhaps of fewer; `zeros` where
    there are none. Only as many are held as the tree is high."""
    waiting: list[tuple[int, np.ndarray]] = []  # (height, sum) of trees that lack their right half
    for part in parts:
        height = 0
        while waiting and waiting[-1][0] == height:
            part = waiting.pop()[1] + part
            height += 1
        waiting.append((height, part))
    total = waiting.pop()[1] if waiting else np.zeros_like(zeros)
    while waiting:
        total = waiting.pop()[1] + total
    return total


@dataclass(frozen=True)
class TorchKernels:
    """unit: positions that no block parts. Sums are taken over each unit, then over units."""

    unit: int = 1
    TURNS = 1  # one counter per value: torch.bincount finds its own way

    def add_scaled(self, total_P: Tensor, row_P: Tensor, factor: float) -> None:
        total_P += row_P * float(factor)

    def variance(self, row_SP: Tensor, out_P: Tensor) -> None:
        share = float(np.float32(1) / np.float32(len(row_SP)))
        first_P, mean_P = row_SP[0], torch.zeros_like(out_P)
        for row_P in row_SP[1:]:
            mean_P += row_P - first_P
        mean_P *= share
        torch.mul(mean_P, mean_P, out=out_P)
        for row_P in row_SP[1:]:
            distance_P = (row_P - first_P).sub_(mean_P)
            out_P += distance_P.mul_(distance_P)
        out_P *= share

    def count_leading(self, bits_P: Tensor, histogram_T: np.ndarray) -> None:
        histogram_T[0] += _counts((bits_P & MAGNITUDE) >> LEADING_SHIFT, LEADING)

    def count_leading_twice(self, bits_P: Tensor, histogram_T: np.ndarray) -> None:
        leading_P = (bits_P & MAGNITUDE) >> LEADING_SHIFT
        histogram_T[0] += _counts(leading_P, LEADING)
        uneven_P = leading_P[(bits_P & (TRAILING - 1)) != 0]
        histogram_T[0] += _counts(uneven_P, LEADING) << SECOND_COUNT

    def sum_leading(self, bits_P: Tensor, value_P: Tensor, total: np.ndarray) -> None:
        """Exact, for fewer than 2^29 values of one leading part: they are whole multiples of one
        power of two, and their numerators are added up as whole numbers."""
        leading_P = (bits_P & MAGNITUDE) >> LEADING_SHIFT
        trailing = torch.zeros(LEADING, dtype=torch.int64, device=bits_P.device)
        trailing.index_add_(0, leading_P, (bits_P & (TRAILING - 1)).long())
        counts = _counts(leading_P, LEADING)
        low = (np.arange(LEADING, dtype=np.uint32) << np.uint32(LEADING_SHIFT)).view(np.float32)
        step = (np.arange(LEADING, dtype=np.uint32) << np.uint32(LEADING_SHIFT)) + np.uint32(1)
        used = counts > 0
        low, step = low[used].astype(np.float64), step[used].view(np.float32).astype(np.float64)
        total[used] += counts[used] * low + trailing.cpu().numpy()[used] * (step - low)

    def count_trailing(self, bits_P: Tensor, leading: int, histogram_T: np.ndarray) -> None:
        inside_P = (bits_P & MAGNITUDE) >> LEADING_SHIFT == int(leading)
        histogram_T[0, :TRAILING] += _counts(bits_P[inside_P] & (TRAILING - 1), TRAILING)

    def count_equal(self, bits_P: Tensor, wanted: int) -> int:
        return int(((bits_P & MAGNITUDE) == int(wanted)).sum())

    def keep_from(self, bits_P: Tensor, lowest: int, mask_P: Tensor) -> None:
        torch.ge(bits_P & MAGNITUDE, int(lowest), out=mask_P)

    def keep_some(self, bits_P: Tensor, border: int, ties: int, mask_P: Tensor) -> None:
        magnitude_P = bits_P & MAGNITUDE
        tie_P = magnitude_P == int(border)
        first_P = tie_P.cumsum(0) <= int(ties)
        torch.logical_or(magnitude_P > int(border), tie_P & first_P, out=mask_P)

    def clear(self, row_P: Tensor, mask_P: Tensor) -> None:
        row_P.masked_fill_(~mask_P, 0)

    def clear_outside(self, row_P: Tensor, smallest: float, above: float) -> None:
        size_P = row_P.abs()
        row_P.masked_fill_(~((size_P >= float(smallest)) & (size_P < float(above))), 0)

    def clear_below(self, row_P: Tensor, smallest: float) -> None:
        row_P.masked_fill_(~(row_P.abs() >= float(smallest)), 0)

    def sum_of_products(self, a_P: Tensor, b_P: Tensor) -> float:
        return self._sum(a_P.double() * b_P.double())

    def sum_of_magnitudes(self, row_P: Tensor) -> float:
        return self._sum(row_P.abs().double())

    def gram(self, row_SP: Tensor, out_SS: np.ndarray) -> None:
        for s in range(len(row_SP)):
            for r in range(s + 1):
                product = self.sum_of_products(row_SP[s], row_SP[r])
                out_SS[s, r] += product
                if r != s:
                    out_SS[r, s] += product

    def root_moments(self, variance_P: Tensor, centre: float, total: np.ndarray) -> None:
        positive_P = variance_P > 0
        x_P = (variance_P.sqrt().double() - centre).masked_fill_(~positive_P, 0)
        power_P = x_P * x_P
        total[0] += int(positive_P.sum())
        total[1] += self._sum(x_P)
        total[2] += self._sum(power_P)
        total[3] += self._sum(power_P.mul_(x_P))

    def add_weighted(
        self,
        base_P: Tensor,
        row_SP: Tensor,
        weight_S: np.ndarray,
        normalize: bool,
        scale: float,
        out_P: Tensor,
    ) -> None:
        divisor = np.float32(0)
        for weight in weight_S:
            divisor += weight
        out_P.zero_()
        for row_P, weight in zip(row_SP, weight_S, strict=True):
            out_P += row_P * float(weight)
        if normalize:
            out_P /= torch.full_like(out_P[:1], float(divisor))
        out_P *= float(scale)
        out_P += base_P

    def add_agreeing(
        self,
        base_P: Tensor,
        row_SP: Tensor,
        vote_S: np.ndarray,
        weight_S: np.ndarray,
        normalize: bool,
        scale: float,
        out_P: Tensor,
    ) -> None:
        elected_P, divisor_P = torch.zeros_like(out_P), torch.zeros_like(out_P)
        for row_P, vote in zip(row_SP, vote_S, strict=True):
            elected_P += row_P * float(vote)
        plus_P = elected_P >= 0
        out_P.zero_()
        for row_P, vote, weight in zip(row_SP, vote_S, weight_S, strict=True):
            vote_P = row_P * float(vote)
            other_P = torch.where(plus_P, vote_P <= 0, vote_P >= 0) | vote_P.isnan()
            out_P += (row_P * float(weight)).masked_fill_(other_P, 0)
            divisor_P += torch.full_like(out_P, float(weight)).masked_fill_(other_P, 0)
        if normalize:
            out_P /= divisor_P.masked_fill_(divisor_P == 0, 1)
        out_P *= float(scale)
        out_P += base_P

    def count_overlaps(self, row_SP: Tensor, epsilon: float, found_2S: np.ndarray) -> None:
        changed_SP = row_SP.abs() > float(epsilon)
        several_P = changed_SP.sum(0) > 1
        for s, changed_P in enumerate(changed_SP):
            shared = int((changed_P & several_P).sum())
            found_2S[0, s] += shared
            found_2S[1, s] += int(changed_P.sum()) - shared

    def add_overlapping(
        self,
        base_P: Tensor,
        row_SP: Tensor,
        epsilon: float,
        alone_S: np.ndarray,
        out_P: Tensor,
    ) -> None:
        changed_SP = row_SP.abs() > float(epsilon)
        count_P = changed_SP.sum(0).float()
        lone_P = count_P == 1
        out_P.zero_()
        for row_P, changed_P, alone in zip(row_SP, changed_SP, alone_S, strict=True):
            raised_P = torch.where(lone_P, row_P * float(alone), row_P)
            out_P += raised_P.masked_fill_(~changed_P, 0)
        out_P /= count_P.clamp_(min=1)
        out_P += base_P

    def draw(self, seed: np.uint64, start: int, out_P: Tensor) -> None:
        """Signed numbers of 64 bits wrap around in torch as unsigned ones do. The last step of
        `mix` is left out: it changes the low 33 bits, of which a draw keeps none."""
        number_P = torch.arange(start, start + len(out_P), device=out_P.device)
        number_P = number_P.mul_(STREAM).add_(_signed(int(seed)))
        number_P = number_P.bitwise_xor_(_shifted(number_P, 30)).mul_(MIX_1)
        number_P = number_P.bitwise_xor_(_shifted(number_P, 27)).mul_(MIX_2)
        out_P.copy_(_shifted(number_P, 40)).mul_(2.0**-24)

    def keep_drawn(self, row_P: Tensor, draw_P: Tensor, chance: float, factor: float) -> None:
        row_P.mul_(float(factor)).masked_fill_(~(draw_P < float(chance)), 0)

    def rank_keys(self, row_RN: Tensor, key_RN: Tensor) -> None:
        key_RN.copy_(row_RN.view(torch.int32) & MAGNITUDE)
        key_RN.bitwise_left_shift_(32)
        key_RN += torch.arange(row_RN.shape[1], device=row_RN.device)

    def keep_by_rank(
        self,
        key_RN: Tensor,
        draw_RN: Tensor,
        row_RN: Tensor,
        lowest: np.float32,
        highest: np.float32,
        rescale: bool,
    ) -> None:
        size = row_RN.shape[1]
        step = (highest - lowest) / np.float32(max(size - 1, 1))
        by_rank_N = torch.arange(size, device=row_RN.device).float()
        by_rank_N = by_rank_N.mul_(float(step)).add_(float(lowest))
        chance_RN = torch.empty_like(row_RN)
        chance_RN.scatter_(1, key_RN & 0xFFFFFFFF, by_rank_N.expand_as(row_RN))
        if rescale:
            row_RN /= chance_RN
        row_RN.masked_fill_(~(draw_RN < chance_RN), 0)

    def _sum(self, terms_P: Tensor) -> float:
        return float(in_pairs(in_pairs(terms_P.reshape(-1, self.unit))))


def _counts(number_P: Tensor, most: int) -> np.ndarray:
    """How often each of 0 .. most - 1 occurs: int64 on the host."""
    return torch.bincount(number_P, minlength=most).cpu().numpy()


def _shifted(number_P: Tensor, places: int) -> Tensor:
    """Shifted to the right, zeros coming in."""
    return (number_P >> places) & ((1 << (64 - places)) - 1)


def _signed(number: int) -> int:
    """64 unsigned bits as a signed number."""
    return number - 2**64 if number >= 2**63 else number
