"""Loops that read stored bfloat16 at once give the bits of those that go by float32 arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from infifusion.merge.blocks.blocks import Blocks, NotFinite, Raw
from infifusion.merge.blocks.stored import encode, encode_checked, not_finite
from infifusion.merge.methods.linear import Params as Linear
from infifusion.merge.methods.linear import linear
from infifusion.merge.methods.rsaf import Params as Rsaf
from infifusion.merge.methods.rsaf import rsaf
from infifusion.merge.methods.sce import Params as Sce
from infifusion.merge.methods.sce import sce, sce_fusechat
from infifusion.merge.methods.task_arithmetic import Params as Arithmetic
from infifusion.merge.methods.task_arithmetic import task_arithmetic
from infifusion.merge.methods.ties import Params as Ties
from infifusion.merge.methods.ties import ties

METHODS = {
    "sce": (sce, Sce(select_topk=0.1)),
    "sce, all": (sce, Sce()),
    "sce_fusechat": (sce_fusechat, Sce(select_topk=0.3)),
    "rsaf": (rsaf, Rsaf()),
    "ties": (ties, Ties.model_validate({"density": 0.5, "lambda": 0.7})),
    "ties, sums": (ties, Ties(density=0.2, normalize=False, weight=0.4)),
    "linear": (linear, Linear()),
    "task_arithmetic": (task_arithmetic, Arithmetic(weight=0.4)),
}


def tensor(models: int, size: int, *, seed: int = 0) -> Blocks:
    """Fine-tuned copies of a base, in blocks that do not end where vectors do."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(size) * 0.02
    raws = []
    for _ in range(models):
        change = rng.standard_normal(size) * 1e-3 * (rng.random(size) < 0.6)
        raws.append(Raw(encode((base + change).astype(np.float32), "BF16"), "BF16"))
    return Blocks(Raw(encode(base.astype(np.float32), "BF16"), "BF16"), raws, (size,), length=3001)


def result(blocks: Blocks, method: str) -> tuple[bytes, dict]:
    function, params = METHODS[method]
    merged = function(blocks, params)
    parts = [merged.apply(merged.blocks.block(n)) for n in range(merged.blocks.count)]
    return np.concatenate(parts).tobytes(), dict(merged.details)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("models", "size"), [(1, 5), (2, 7001), (3, 70_000), (9, 4000)])
def test_both_ways_give_the_same_bits(method, models, size):
    """The same values in float32 go the other way."""
    blocks = tensor(models, size)
    assert blocks.plain == (models < 9)
    wide = [Raw((r.array_P.astype(np.uint32) << 16).view(np.float32), "F32")
            for r in [blocks.base, *blocks.models] if r]  # fmt: skip
    other = replace(blocks, base=wide[0], models=wide[1:])
    assert not other.plain
    assert result(blocks, method) == result(other, method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("source", [0, 2])
@pytest.mark.parametrize("bits", [0x7F80, 0xFFC1], ids=["Inf", "NaN"])
def test_what_is_not_finite_is_found_and_its_source_named(method, source, bits):
    blocks = tensor(3, 7001)
    if source == 0 and method == "linear":
        blocks = replace(blocks, base=None)
        source = 1
    raw = blocks.base if source == 0 else blocks.models[source - 1]
    assert raw is not None
    raw.array_P[6999] = bits
    with pytest.raises(NotFinite) as found:
        result(blocks, method)
    assert found.value.source == source


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_what_overflows_is_counted_as_it_is_stored(dtype):
    values = np.array([1, -3.4e38, np.inf, np.nan, 7e4, 0], np.float32)
    stored, bad = encode_checked(values, dtype)
    assert np.array_equal(stored, encode(values, dtype), equal_nan=dtype != "BF16")
    assert bad == not_finite(stored, dtype) == {"BF16": 3, "F16": 4, "F32": 2}[dtype]


@pytest.mark.parametrize("method", METHODS)
def test_an_array_that_begins_between_two_numbers_is_taken(method):
    """As in a file whose header has an odd length."""
    blocks = tensor(3, 7001)
    content = np.zeros(2 * 7001 + 1, np.uint8)
    content[1:] = blocks.models[1].array_P.view(np.uint8)
    odd = np.frombuffer(content, np.uint16, 7001, 1)
    assert not odd.flags.aligned
    other = replace(blocks, models=[blocks.models[0], Raw(odd, "BF16"), blocks.models[2]])
    assert not other.plain
    assert result(other, method) == result(blocks, method)
