"""Whether this machine's processor multiplies faster in bfloat16 than in float32.

Asked of the processor's flags and of torch, then measured once and kept, so that every process of
this machine decides alike. Elsewhere (no such instructions, no Linux) the answer is no.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16"})
"""Flags of /proc/cpuinfo: dot products, or tiles, of bfloat16 added up in float32."""
LEAST_GAIN = 1.3
"""Below this a pass gains less than its rounding costs: the rest of it is not faster."""
LEAST_WIDTH = 512
"""Hidden units of a model below which float32 stays: layers so narrow gain less
(docs/performance.md), and models so small are compared by their last digits."""
FILE = "bfloat16.json"
ROWS, WIDTH = 512, 1024  # of the product that is timed: a batch of tokens, a layer of a small model
CPUINFO = Path("/proc/cpuinfo")


def bfloat16_pays(folder: Path) -> bool:
    """Whether products are LEAST_GAIN times as fast in bfloat16. folder: where what was measured is
    kept."""
    return has_instructions() and gain_of_bfloat16(folder) >= LEAST_GAIN


def bfloat16_seems_to_pay(folder: Path) -> bool:
    """The same without torch: by the flags, and by what was measured if anything was."""
    kept = kept_gain(folder)
    return has_instructions() and (kept is None or kept >= LEAST_GAIN)


def has_instructions() -> bool:
    """Whether the processor has instructions for products of bfloat16."""
    return not INSTRUCTIONS.isdisjoint(_described()[1])


def gain_of_bfloat16(folder: Path, *, anew: bool = False) -> float:
    """Seconds of a product in float32 over those in bfloat16: kept, or measured (0.1 s) and kept.

    1.0 where torch has no product in bfloat16 of its own. What was measured on another processor,
    or by another torch, is measured again; so it is with `anew`.
    """
    import torch

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return 1.0
    found = None if anew else kept_gain(folder)
    if found is None:
        found = round(_measure(), 2)
        with contextlib.suppress(OSError):  # a cache: without it every process measures
            _keep(folder, found)
            found = kept_gain(folder) or found  # of several processes that measure, the last one's
    return found


def kept_gain(folder: Path) -> float | None:
    """What was measured on this processor by this torch; None where nothing was."""
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return float(values["gain"]) if values["of"] == _of() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def processor_name() -> str:
    """What /proc/cpuinfo calls it; empty where that is not there."""
    return _described()[0]


def _of() -> list[str]:
    """What the measurement belongs to."""
    from importlib.metadata import version

    return [processor_name(), version("torch")]


@cache
def _described() -> tuple[str, frozenset[str]]:
    """The name of the first processor, and its flags."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", frozenset()
    first: dict[str, str] = {}
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        first[key.strip()] = value.strip()
    return first.get("model name", ""), frozenset(first.get("flags", "").split())


def _measure() -> float:
    """The best of several products of each kind, in turn: what others do meanwhile only makes them
    slower."""
    import torch

    left, right = torch.rand(ROWS, WIDTH), torch.rand(WIDTH, WIDTH)
    narrow_left, narrow_right = left.bfloat16(), right.bfloat16()

    def seconds(work: Callable[[], object]) -> float:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    with torch.inference_mode():
        pairs = [
            (seconds(lambda: left @ right), seconds(lambda: narrow_left @ narrow_right))
            for _ in range(12)
        ]
    wide, narrow = (min(times) for times in zip(*pairs, strict=True))
    return wide / narrow


def _keep(folder: Path, gain: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
        json.dump({"of": _of(), "gain": gain}, file)
    os.replace(file.name, folder / FILE)
