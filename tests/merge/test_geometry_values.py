"""Methods of angles, ranks and overlaps: values worked out by hand. Axes: S models, P positions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from infifusion.merge.blocks.blocks import Blocks, Raw
from infifusion.merge.blocks.result import in_memory
from infifusion.merge.methods import METHODS

E1, E2 = [1.0, 0.0], [0.0, 1.0]


def blocks(base, models, *, seed: int = 0) -> Blocks:
    rows = [np.array(model, np.float32) for model in models]
    raws = [Raw(np.ascontiguousarray(row.reshape(-1)), "F32") for row in rows]
    start = None if base is None else Raw(np.array(base, np.float32).reshape(-1), "F32")
    return Blocks(start, raws, rows[0].shape, seed=seed)


def merged(method, base, models, *, seed: int = 0, **params):
    record = METHODS[method]
    found = record.function(blocks(base, models, seed=seed), record.params(**params))
    return in_memory(found).reshape(np.array(models[0]).shape)


def test_nuslerp_goes_a_share_of_the_right_angle():
    # t = 3 / (1 + 3) of 90 degrees: cos 67.5 e1 + sin 67.5 e2
    found = merged("nuslerp", None, [E1, E2], weight=[1.0, 3.0])
    angle = math.radians(67.5)
    np.testing.assert_allclose(found, [math.cos(angle), math.sin(angle)], rtol=1e-6)


def test_nuslerp_of_deltas_starts_from_the_base():
    found = merged("nuslerp", [5.0, 5.0], [[6.0, 5.0], [5.0, 6.0]])
    half = math.sqrt(0.5)
    np.testing.assert_allclose(found, [5 + half, 5 + half], rtol=1e-6)


def test_nuslerp_by_rows_and_by_columns_takes_an_angle_each():
    # Row 0 turns by 90 degrees (half: sqrt .5), row 1 is parallel (half: the mean).
    first, second = [[1.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [4.0, 0.0]]
    half = math.sqrt(0.5)
    rows = merged("nuslerp", None, [first, second], nuslerp_flatten=False)
    np.testing.assert_allclose(rows, [[half, half], [3, 0]], rtol=1e-6)
    turned = [np.array(first).T.tolist(), np.array(second).T.tolist()]
    columns = merged("nuslerp", None, turned, nuslerp_flatten=False, nuslerp_row_wise=True)
    np.testing.assert_allclose(columns.T, rows, rtol=1e-6)


def test_multislerp_keeps_the_mean_length():
    # Directions e1, e2 at lengths 1 and 3: mean direction at 45 degrees, mean length 2.
    found = merged("multislerp", None, [E1, [0.0, 3.0]])
    np.testing.assert_allclose(found, [math.sqrt(2), math.sqrt(2)], rtol=1e-6)


def test_multislerp_refuses_directions_that_cancel():
    three = [[1.0, 0.0], [-0.5, math.sqrt(0.75)], [-0.5, -math.sqrt(0.75)]]
    with pytest.raises(ValueError, match="add up to zero"):
        merged("multislerp", None, three)


def test_karcher_of_three_points_on_a_circle_is_their_mean_angle():
    # Angles 0, 30 and 90 degrees on one great circle: the mean is 40 degrees; lengths 1, 1, 4: 2.
    angles = np.radians([0, 30, 90])
    lengths = [1, 1, 4]
    models = [[n * math.cos(a), n * math.sin(a)] for a, n in zip(angles, lengths, strict=True)]
    found = merged("karcher", None, models, max_iter=50, tol=1e-9)
    at = math.radians(40)
    np.testing.assert_allclose(found, [2 * math.cos(at), 2 * math.sin(at)], rtol=1e-5)


def test_model_stock_by_hand():
    # Deltas (3, 0) and (3, 3) * sqrt .5: cosine sqrt .5, t = 2 c / (1 + c).
    c = math.sqrt(0.5)
    t = 2 * c / (1 + c)
    second = [1 + 3 * c, 1 + 3 * c]
    found = merged("model_stock", [1.0, 1.0], [[4.0, 1.0], second])
    mean = [(4 + second[0]) / 2, (1 + second[1]) / 2]
    np.testing.assert_allclose(found, [1 + t * (m - 1) for m in mean], rtol=1e-5)


def test_model_stock_by_rows_treats_each_row_alone():
    base = [[0.0, 0.0], [0.0, 0.0]]
    models = [[[2.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [0.0, 1.0]]]
    # Row 0: cosine 1, t 1, the mean (2, 0). Row 1: cosine 0, t 0, the base.
    found = merged("model_stock", base, models, filter_wise=True)
    np.testing.assert_allclose(found, [[2, 0], [0, 0]], atol=1e-6)


def test_nearswap_steps_at_most_t():
    found = merged("nearswap", [0.0, 0.0, 0.0], [[0.05, 2.0, -2.0]], t=0.1)
    np.testing.assert_allclose(found, [0.05, 0.1, -0.1], rtol=1e-6)


def test_arcee_fusion_takes_over_outliers_alone():
    # One row: importance is proportional to |delta|. Deltas 1 to 8 and 40: ranks int(q * 8) are
    # 2, 4, 6: quartiles 3, 5, 7 of the ordered deltas; 5 + 1.5 * 4 = 11: only 40 is above.
    delta = np.array([1, 2, 3, 4, 5, 6, 7, 8, 40], np.float32) * 1e-3
    base = np.zeros(9, np.float32)
    found = merged("arcee_fusion", base, [base + delta])
    np.testing.assert_allclose(found, [0] * 8 + [0.04], rtol=1e-6)


def test_ram_averages_what_is_shared_and_keeps_what_is_alone():
    models = [[0.5, 0.2, 0.0], [0.3, 0.0, 1e-6]]
    found = merged("ram", [0.0, 0.0, 0.0], models)
    np.testing.assert_allclose(found, [0.4, 0.2, 0.0], rtol=1e-6)


def test_ramplus_raises_lone_entries_by_the_overlap():
    # Model 0: one shared, one alone: ratio 1, clipped to .2; lambda 1 + .5 * .2 = 1.1.
    models = [[0.5, 0.2, 0.0], [0.3, 0.0, 0.0]]
    found = merged("ramplus_tl", [0.0, 0.0, 0.0], models, r=0.5)
    np.testing.assert_allclose(found, [0.4, 0.22, 0.0], rtol=1e-6)


def test_breadcrumbs_leaves_out_the_largest_and_the_smallest():
    # 10 entries, density .5 keeps 5, gamma .2 leaves out 2 of the largest: 4 to 8 stay.
    delta = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0, 9.0, -10.0]
    found = merged("breadcrumbs", [0.0] * 10, [delta], density=0.5, gamma=0.2)
    np.testing.assert_allclose(found, [0, 0, 0, -4, 5, -6, 7, -8, 0, 0])


def test_breadcrumbs_leaves_out_fewer_outliers_where_density_needs_them():
    # density .9 keeps 9; gamma .3 would leave out 3, but only 1 may go: the largest.
    delta = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0, 9.0, -10.0]
    found = merged("breadcrumbs", [0.0] * 10, [delta], density=0.9, gamma=0.3)
    np.testing.assert_allclose(found, [*delta[:9], 0])


def test_della_keeps_large_entries_more_often_and_the_expectation():
    # 4,000 rows of magnitudes 1, 2, 3, 4: chances .3, .433, .567, .7.
    rows = np.tile(np.array([[1.0, -2.0, 3.0, -4.0]], np.float32), (4000, 1))
    params = {"density": 0.5, "epsilon": 0.2}
    found = merged("della_linear", np.zeros_like(rows), [rows], **params)
    chance = np.array([0.3, 0.3 + 0.4 / 3, 0.3 + 0.8 / 3, 0.7])
    # Standard error of a share of 4,000: at most .008; of a mean: up to 2.4 %.
    assert np.abs((found != 0).mean(axis=0) - chance).max() < 0.03
    np.testing.assert_allclose(found.mean(axis=0), rows[0], rtol=0.1)
    kept = found[0][found[0] != 0]
    np.testing.assert_allclose(kept, (rows[0] / chance)[found[0] != 0], rtol=1e-5)


def test_della_refuses_chances_outside_0_and_1():
    with pytest.raises(ValueError, match="Choose a smaller epsilon"):
        merged("della", [0.0, 0.0], [[1.0, 2.0]], density=0.9, epsilon=0.15)


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_l1_rescaling_restores_the_sum_of_magnitudes(method):
    rng = np.random.default_rng(0)
    delta = rng.standard_normal((50, 60)).astype(np.float32)
    found = merged(method, np.zeros_like(delta), [delta], density=0.3, rescale="l1")
    assert np.abs(found).sum() == pytest.approx(np.abs(delta).sum(), rel=1e-5)


def test_passthrough_scales():
    np.testing.assert_allclose(merged("passthrough", None, [[1.0, -3.0]], scale=0.5), [0.5, -1.5])


@pytest.mark.parametrize("method", ["passthrough", "nearswap", "arcee_fusion"])
def test_methods_of_one_model_refuse_two(method):
    params = {"t": 1.0} if method == "nearswap" else {}
    base = None if method == "passthrough" else E1
    with pytest.raises(ValueError, match="found 2"):
        merged(method, base, [E1, E2], **params)
