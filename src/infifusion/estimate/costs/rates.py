"""Seconds per unit of work: of a calibrated CPU, or of an accelerator by its data sheet."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infifusion.estimate.costs.devices import STREAM_SHARE, UTILISATION, Device
from infifusion.estimate.costs.work import HALF, UNITS, Work

# Seconds per unit (work.UNITS) and FLOP/s by width of one core of this project's test machine (a
# 2.5 GHz AMD EPYC, torch 2.13) by `infifusion plan --calibrate`. 0.05 and 0.2 stand where it found
# nothing; merge_number is that of merge/methods/method.py, decode_logit two passes over memory.
# Used, with a note, where no calibration was done.
CPU_MATMUL = (
    (32, 9e10),
    (64, 9.8e10),
    (128, 9.9e10),
    (256, 9.1e10),
    (512, 9.6e10),
    (1024, 9.5e10),
    (2048, 9.5e10),
)
CPU_UNITS = {unit: seconds for unit, (seconds, _) in UNITS.items()}
CPU_BASE_MEMORY = 465e6

# Passes over a float32 logit in device memory, each a read or a write. teach: two for the head's
# product, then log-sum-exp, top K, moments, probabilities and entropy. gold: cross-entropy forward
# and backward. loss: the same again, the gathered entries, and the chunk done twice.
TEACH_PASSES, GOLD_PASSES, LOSS_PASSES = 14, 8, 12
# Bytes moved per trained parameter and step: AdamW reads weight, gradient and two moments and
# writes three of them; clipping reads and writes the gradient; it is written once before.
STEP_BYTES = 40
# Generation step of one layer in transformers without compilation: about 60 kernel launches of
# 10 us from Python each. Larger steps hide it; a generation step does not.
DECODE_LAYER_SECONDS = 6e-4


@dataclass(frozen=True)
class Rates:
    """units: seconds per unit of work.UNITS; matmul: kind -> ascending (width, FLOP/s)."""

    units: Mapping[str, float]
    matmul: Mapping[str, Sequence[tuple[int, float]]]

    def seconds(self, work: Work) -> float:
        """How long one process takes for this."""
        total = sum(
            flops / flops_per_second(self.matmul[kind], width)
            for (kind, width), flops in work.flops.items()
        )
        return total + sum(self.units[unit] * count for unit, count in work.units.items())


def flops_per_second(table: Sequence[tuple[int, float]], width: int) -> float:
    """The rate at a width, interpolated between the measured ones on a logarithmic scale."""
    if width <= table[0][0]:
        # Below the narrowest, the time of a product no longer shrinks with its width.
        return table[0][1] * width / table[0][0]
    for (low, slow), (high, fast) in itertools.pairwise(table):
        if width <= high:
            part = math.log(width / low) / math.log(high / low)
            return slow * (fast / slow) ** part
    return table[-1][1]


def of_cpu(values: Mapping[str, Any] | None, *, gain: float = 1.0) -> Rates:
    """From a calibration's JSON, or this project's test machine where there is none. gain: how many
    times as fast products are in bfloat16."""
    units, table = dict(CPU_UNITS), CPU_MATMUL
    if values is not None:
        units |= values["units"]
        table = tuple((int(width), float(rate)) for width, rate in values["matmul"])
    faster = tuple((width, gain * rate) for width, rate in table)
    matmul = {kind: table for kind in UTILISATION}
    return Rates(units, {**matmul, **{kind + HALF: faster for kind in UTILISATION}})


def of_device(device: Device, host: Rates) -> Rates:
    """An accelerator by its data sheet; what its host does, at the host's rates."""
    byte = 1 / (device.bandwidth * STREAM_SHARE)
    units = {
        **host.units,
        # Matrix products and the elementwise operations between them are in the utilisation.
        **dict.fromkeys(("forward_call", "train_call"), 5e-3),
        **dict.fromkeys(("forward_layer", "forward_element"), 0.0),
        **dict.fromkeys(("train_layer", "train_element"), 0.0),
        "teach_logit": 4 * TEACH_PASSES * byte,
        "gold_logit": 4 * GOLD_PASSES * byte,
        "loss_logit": 4 * LOSS_PASSES * byte,
        "parameter_step": STEP_BYTES * byte,
        "decode_call": 5e-3,
        "decode_layer": DECODE_LAYER_SECONDS,
        "decode_logit": 4 * 4 * byte,
        "decode_byte": byte,
    }
    matmul = {kind: ((1, device.flops * share),) for kind, share in UTILISATION.items()}
    return Rates(units, matmul)
