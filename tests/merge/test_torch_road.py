"""The torch road on torch's CPU against the compiled road: every method, every kind of tensor.

Sums are taken in another order there, so that a coefficient may differ in its last bit of float32;
which positions are kept may not differ at all, nor may anything depend on the length of blocks.
"""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

from infifusion.merge.blocks import kernels, select
from infifusion.merge.blocks.arrays import HOST, Arrays, HostArrays, encode
from infifusion.merge.blocks.arrays_torch import TorchArrays
from infifusion.merge.blocks.blocks import Blocks, NotFinite, Raw
from infifusion.merge.blocks.kernels_torch import TorchKernels, in_pairs, joined_in_pairs
from infifusion.merge.blocks.result import Merged, in_memory
from infifusion.merge.methods import METHODS, NEEDS_BASE, PARAMS

TORCH = TorchArrays(device="cpu")
CASES = [
    ("rsaf", {}),
    ("rsaf", {"tau0": 0.2, "mask": "coefficients"}),
    ("rsaf", {"rule": "energy"}),
    ("rsaf", {"rule": "variation_rate"}),
    ("rsaf", {"rule": "skewness_only", "tau0": 0.3}),
    ("sce", {"select_topk": 0.1}),
    ("sce", {}),
    ("sce_fusechat", {"select_topk": 0.3}),
    ("ties", {"density": 0.3}),
    ("ties", {"density": [0.1, 0.5, 1.0], "weight": [0.5, -0.3, 1.0], "normalize": False}),
    ("ties", {"density": 0.5, "rescale": True}),
    ("ties", {"weight": [0.5, -0.5, 1.0]}),  # those that agree may sum to 0
    ("dare_ties", {"density": 0.4}),
    ("dare_linear", {"density": 0.4, "rescale": "l1"}),
    ("della", {"density": 0.4, "epsilon": 0.2}),
    ("della_linear", {"density": 0.4, "epsilon": 0.2, "rescale": "l1"}),
    ("breadcrumbs", {"density": 0.7, "gamma": 0.1}),
    ("breadcrumbs_ties", {"density": 0.7, "gamma": 0.1, "rescale": True}),
    ("task_arithmetic", {"weight": 0.3, "normalize": True}),
    ("linear", {"weight": [0.2, 0.5, 1.0]}),
    ("slerp", {"t": 0.3}),
    ("nuslerp", {"weight": [0.3, 0.6]}),
    ("nuslerp", {"nuslerp_flatten": False}),
    ("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
    ("multislerp", {"weight": [0.2, 0.5, 1.0]}),
    ("karcher", {}),
    ("model_stock", {}),
    ("model_stock", {"filter_wise": True}),
    ("nearswap", {"t": 0.001}),
    ("arcee_fusion", {}),
    ("ram", {"epsilon": 0.001}),
    ("ramplus_tl", {"epsilon": 0.001}),
    ("passthrough", {"scale": 0.3}),
]
MODELS = {"slerp": 1, "nearswap": 1, "arcee_fusion": 1, "passthrough": 1, "nuslerp": 2}
# Those of more than 65,536 positions are selected by histograms, the others sorted.
SHAPES = [(1,), (8,), (1, 1), (7, 1), (5, 7), (301, 251), (70_003,), (3, 25_001)]
KINDS = [(dtype, kind) for dtype in ("BF16", "F32") for kind in ("gaussian", "few values", "zeros")]
KINDS += [("F16", "gaussian"), ("F64", "gaussian")]
EVERY_CASE = pytest.mark.parametrize(
    ("method", "params"), CASES, ids=[f"{m}-{n}" for n, (m, _) in enumerate(CASES)]
)


def tensors(shape: tuple[int, ...], kind: str, count: int) -> list[np.ndarray]:
    """A base and `count` models. few values: many equal magnitudes, at every border; zeros: a model
    that is the base, and positions that none changed."""
    rng = np.random.default_rng(len(shape) + sum(shape))
    size = int(np.prod(shape))
    base = rng.standard_normal(size).astype(np.float32) * np.float32(0.02)
    deltas = rng.standard_normal((count, size)) * 1e-3
    deltas *= rng.random((count, size)) < 0.6
    if kind == "few values":
        base = np.round(base * 512) / 512
        deltas = np.round(deltas * 2048) / 2048
    if kind == "zeros":
        deltas[0] = 0
        deltas[:, ::3] = 0
    return [base, *(base + delta.astype(np.float32) for delta in deltas)]


def blocks_of(
    values: list[np.ndarray], shape: tuple[int, ...], method: str, dtype: str, arrays: Arrays
) -> Blocks:
    raws = [Raw(encode(value.astype(np.float32), dtype), dtype) for value in values]
    based = method in NEEDS_BASE or method in ("slerp", "multislerp", "nuslerp")
    return Blocks(raws[0] if based else None, raws[1:], shape, seed=11, arrays=arrays)


def merged(method: str, params: dict, blocks: Blocks) -> Merged | str:
    """What the method gives, or why it refuses."""
    try:
        return METHODS[method](blocks, PARAMS[method](**params))
    except ValueError as error:
        return str(error)


def test_every_method_is_compared():
    assert {method for method, _ in CASES} == set(METHODS)


@pytest.mark.parametrize(("dtype", "kind"), KINDS)
@EVERY_CASE
def test_both_roads_give_the_same_tensor(method, params, dtype, kind):
    for shape in SHAPES:
        values = tensors(shape, kind, MODELS.get(method, 3))
        left = merged(method, params, blocks_of(values, shape, method, dtype, HOST))
        right = merged(method, params, blocks_of(values, shape, method, dtype, TORCH))
        if isinstance(left, str) or isinstance(right, str):
            assert left == right
            continue
        expected, found = in_memory(left), in_memory(right)
        scale = np.abs(expected - values[0]).max()
        np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-6 * scale)
        assert left.details.keys() == right.details.keys()
        for key, value in left.details.items():
            # The number of positions kept is exact; figures made of sums are as good as float64.
            tolerance = 0 if key in ("kept", "ratio") else 1e-6
            np.testing.assert_allclose(right.details[key], value, rtol=tolerance, atol=tolerance)


@EVERY_CASE
def test_the_length_of_blocks_does_not_change_a_bit(method, params):
    for shape in ((301, 251), (70_003,), (5, 7)):
        values = tensors(shape, "gaussian", MODELS.get(method, 3))
        found = []
        for block in (1 << 24, 1 << 16, 1 << 12):
            blocks = blocks_of(values, shape, method, "BF16", replace(TORCH, block=block))
            one = merged(method, params, blocks)
            assert not isinstance(one, str)
            found.append((in_memory(one).tobytes(), one.details))
        assert found[0] == found[1] == found[2]


def test_sums_in_pairs_by_hand():
    # In float32 2^24 + 1 is 2^24, so that one by one from the left 1s are lost. In pairs:
    # ((2^24 + 1) + (1 + 1)) + 4 = (2^24 + 2) + 4.
    terms = torch.tensor([2.0**24, 1, 1, 1, 4])
    assert in_pairs(terms).item() == 2**24 + 6
    assert in_pairs(torch.stack([terms, terms.flip(0)])).tolist() == [2**24 + 6, 2**24 + 8]
    assert in_pairs(torch.zeros(3, 0)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [1, 2, 3, 8, 11, 16, 23])
@pytest.mark.parametrize("part", [1, 2, 4, 8])
def test_parts_are_joined_to_the_tree_of_the_whole(size, part):
    terms = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    sums = [in_pairs(torch.from_numpy(terms[n : n + part])).numpy() for n in range(0, size, part)]
    joined = joined_in_pairs(iter(sums), np.zeros((), np.float32))
    assert joined == in_pairs(torch.from_numpy(terms)).numpy()


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("start", [0, 5, 2**33, 2**40 + 1])
def test_the_draws_are_those_of_the_compiled_road(seed, start):
    expected, found = np.empty(5000, np.float32), torch.empty(5000)
    kernels.draw(np.uint64(seed), start, expected)
    TorchKernels().draw(np.uint64(seed), start, found)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_the_sums_of_a_histogram_are_exact():
    values = np.random.default_rng(0).random(50_000).astype(np.float32) ** 8
    values[:10] = [0, 1e-45, 1e-40, 1.1754944e-38, 1, 2, 3, 4, 5, 6]
    expected, found = np.zeros(1 << 16), np.zeros(1 << 16)
    kernels.sum_leading(values.view(np.uint32), values, expected)
    tensor = torch.from_numpy(values)
    TorchKernels().sum_leading(tensor.view(torch.int32), tensor, found)
    np.testing.assert_array_equal(found, expected)


def test_both_ends_of_a_window_belong_to_it():
    values = np.array([1, -2, 3, -4, 5, 2], np.float32)
    low, high = (int(np.float32(value).view(np.uint32)) for value in (2, 4))
    expected = np.array([2, 3, 4, 2], np.float32).view(np.uint32)
    found = TORCH.between(torch.from_numpy(values), low, high)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(HOST.between(values, low, high), expected)
    everything = TORCH.between(torch.from_numpy(values), 0, select.KEEP_NONE - 1)
    np.testing.assert_array_equal(everything, np.abs(values).view(np.uint32))


@pytest.mark.parametrize("way", ["sorted whole", "by histogram", "by two histograms"])
@pytest.mark.parametrize("kind", ["gaussian", "few values", "constant", "zeros", "tiny"])
def test_exactly_the_same_positions_are_selected(way, kind, monkeypatch):
    if way == "by two histograms":
        monkeypatch.setattr(select, "GATHERED", 0)
    rng = np.random.default_rng(0)
    values = {
        "gaussian": rng.standard_normal((2, 500)),
        "few values": rng.integers(-3, 4, (2, 500)) / 8,
        "constant": np.full((2, 500), 0.1),
        "zeros": np.where(rng.random((2, 500)) < 0.7, 0, rng.standard_normal((2, 500))),
        "tiny": rng.standard_normal((2, 500)) * 1e-38,
    }[kind].astype(np.float32)
    counts = [[0, 1, 3, 250, 499, 500, 900], [2, 499, 7, 7, 100, 0, 1]]
    found = []
    for arrays in (HostArrays(100), TorchArrays(64, device="cpu"), TORCH):
        blocks = Blocks(None, [Raw(row, "F32") for row in values], (500,), arrays=arrays)

        def score(block):
            return block.model_SP

        leading = None if way == "sorted whole" else select.histogram(blocks, score, 2)
        borders = select.borders(blocks, score, leading, counts)
        masks = [
            np.concatenate(
                [
                    arrays.get(border.mask(block, block.model_SP[r]))
                    for block in map(blocks.block, range(blocks.count))
                ]
            )
            for r, row in enumerate(borders)
            for border in row
        ]
        assert [int(mask.sum()) for mask in masks] == [min(c, 500) for row in counts for c in row]
        found.append(np.array(masks))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
def test_values_are_stored_as_by_the_compiled_road(dtype):
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint64).astype(np.uint32)
    special = [0.0, -0.0, 1e-40, 65504.0, 65520.0, 3.3895314e38, np.inf, -np.inf, np.nan]
    values = np.concatenate([bits.view(np.float32), np.array(special, np.float32)])
    (expected, bad), (found, found_bad) = HOST.encode(values, dtype), TORCH.encode(
        torch.from_numpy(values), dtype
    )  # fmt: skip
    assert found.dtype == expected.dtype and found_bad == bad > 0
    number = ~np.isnan(values)
    np.testing.assert_array_equal(found[number], expected[number])
    as_float = torch.from_numpy(found[~number])
    as_float = as_float.view(torch.bfloat16) if dtype == "BF16" else as_float
    assert as_float.isnan().all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_what_is_not_finite_is_found_in_any_dtype(bad, dtype):
    good = Raw(encode(np.array([1.0, 2.0], np.float32), dtype), dtype)
    broken = Raw(encode(np.array([1.0, bad], np.float32), dtype), dtype)
    with pytest.raises(NotFinite) as caught:
        Blocks(good, [good, broken], (2,), arrays=TORCH).block(0).delta_SP.sum()
    assert caught.value.source == 2
    with pytest.raises(NotFinite) as caught:
        Blocks(broken, [good], (2,), arrays=TORCH).block(0).delta_SP.sum()
    assert caught.value.source == 0
    allowed = Blocks(good, [broken], (2,), allow_not_finite=True, arrays=TORCH)
    assert allowed.block(0).model_SP.isfinite().tolist() == [[True, False]]


def test_a_sum_over_uneven_rows_is_the_same_in_blocks_of_any_length():
    # Magnitudes so different that float64 rounds: sums in another order are other sums.
    rng = np.random.default_rng(3)
    rows = np.exp(12 * rng.standard_normal((37, 1001))).astype(np.float32)

    def total(block: int) -> np.ndarray:
        arrays = TorchArrays(block, device="cpu")
        blocks = Blocks(None, [Raw(rows.reshape(-1), "F32")], rows.shape, arrays=arrays).by_rows()

        def add(one, sums: np.ndarray) -> None:
            sums[0] += blocks.kernels.sum_of_magnitudes(one.model_SP[0])

        return blocks.total(add, np.zeros(1))

    found = [float(total(block)[0]) for block in (1, 1001, 2500, 5100, 6100, 9000, 1 << 20)]
    assert len(set(found)) == 1
    assert found[0] == pytest.approx(np.abs(rows.astype(np.float64)).sum(), rel=1e-12)


# What only the arrays of the compiled road call: TorchArrays decodes and encodes by torch itself.
HOST_ONLY = {
    "decode_bfloat16",
    "decode_rows",
    "decode_deltas",
    "encode_bfloat16",
    "count_not_finite",
    "subtract",
    "gather_between",
    "mix",
}


def test_both_roads_have_the_same_loops_with_the_same_arguments():
    compiled = {
        name: list(inspect.signature(loop.py_func).parameters)
        for name, loop in vars(kernels).items()
        if hasattr(loop, "py_func") and not name.startswith("_")
    }
    of_torch = {
        name: list(inspect.signature(loop).parameters)[1:]
        for name, loop in inspect.getmembers(TorchKernels, inspect.isfunction)
        if not name.startswith("_")
    }
    assert of_torch == {n: names for n, names in compiled.items() if n not in HOST_ONLY}
    assert compiled.keys() >= HOST_ONLY
