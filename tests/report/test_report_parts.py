"""Names of tensors, axes, thinning and places in the charts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infifusion.report.charts import Dot, Line, axis, dot_chart, line_chart, number, stacked_chart
from infifusion.report.tensors import Place, _mean_coefficients, grid_of, place_of
from infifusion.report.training import POINTS, _thinned
from infifusion.report.words import duration, joined


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.3.mlp.up_proj.weight", Place(3, "mlp.up_proj")),
        ("transformer.h.11.attn.c_attn.bias", Place(11, "attn.c_attn.bias")),
        ("model.layers.0.mlp.experts.7.w1.weight", Place(0, "mlp.experts.*.w1")),
        ("gpt_neox.layers.2.attention.dense.weight", Place(2, "attention.dense")),
        ("model.embed_tokens.weight", Place(None, "embed_tokens")),
        ("transformer.ln_f.bias", Place(None, "ln_f.bias")),
        ("lm_head.weight", Place(None, "lm_head")),
        ("weight", Place(None, "weight")),
    ],
)
def test_layer_and_kind_come_from_the_name_of_any_architecture(name: str, place: Place) -> None:
    assert place_of(name) == place


def test_tensors_of_one_place_are_averaged_by_their_elements() -> None:
    tensors = [
        {"name": "l.0.experts.0.w", "numel": 100, "ratio": 0.2, "coefficients": [1.0, 0.0]},
        {"name": "l.0.experts.1.w", "numel": 300, "ratio": 0.6, "coefficients": [0.0, 1.0]},
        {"name": "l.1.norm", "numel": 8, "ratio": None, "coefficients": []},
    ]
    grid = grid_of(tensors, "ratio")
    # (0.2 * 100 + 0.6 * 300) / 400 = 0.5
    assert grid["kinds"] == ["experts.*.w"]
    assert grid["rows"][0][1][0]["value"] == pytest.approx(0.5)
    assert _mean_coefficients(tensors) == [0.25, 0.75]


def test_thinning_keeps_short_logs_and_averages_long_ones() -> None:
    short = [{"step": n, "loss": float(n)} for n in range(POINTS)]
    assert _thinned(short, "loss") == [(n, float(n)) for n in range(POINTS)]
    long = [{"step": n, "loss": float(n)} for n in range(2 * POINTS)]
    thin = _thinned(long, "loss")
    assert len(thin) == POINTS
    assert thin[0] == (0.5, 0.5)
    gaps = [{"step": 1, "loss": float("nan")}, {"step": 2}, {"step": 3, "loss": 4.0}]
    assert _thinned(gaps, "loss") == [(3, 4.0)]


def test_a_dot_and_its_error_bar_stand_where_their_values_are() -> None:
    chart = dot_chart(
        "t",
        [
            Dot("a", 10, "10", "fused", 0, 20),
            Dot("b", 20, "20", "fused"),
            Dot("c", 0, "0", "pivot"),
        ],
    )
    middle, right, left = (float(x) for x in re.findall(r'<circle cx="([\d.]+)"', chart))
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    bar = re.search(r'd="M([\d.]+) [\d.]+v8m0-4H([\d.]+)', chart)
    assert bar and [float(edge) for edge in bar.groups()] == [left, right]


def test_curves_break_where_a_value_is_missing() -> None:
    chart = line_chart("t", [Line("a", [(0, 1.0), (1, None), (2, 3.0), (3, 4.0)], 0)], x_label="x")
    path = re.search(r'class="line c0" d="([^"]+)"', chart)
    assert path and path[1].count("M") == 2 and path[1].count("L") == 1


def test_labels_in_charts_are_escaped() -> None:
    bad = "<b>&\"'"
    charts = [
        dot_chart(bad, [Dot(bad, 1, bad, bad)]),
        line_chart(bad, [Line(bad, [(0, 1.0), (1, 2.0)], 0)], x_label=bad),
        stacked_chart(bad, [0, 1], [[1.0], [0.5]], x_label=bad),
    ]
    for chart in charts:
        assert "<b>" not in chart and "&lt;b&gt;" in chart and '&"' not in chart


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_an_axis_holds_all_values_and_its_ticks(values: list[float]) -> None:
    low, high, ticks = axis(values)
    assert low < high
    assert low <= min(values) and max(values) <= high
    assert 1 <= len(ticks) <= 6
    slack = 1e-9 * (abs(low) + abs(high))
    assert all(low - slack <= tick <= high + slack for tick in ticks)


def test_numbers_and_durations_in_words() -> None:
    assert [number(v) for v in (0.0, 0.25, -20.0, 3.0000001)] == ["0", "0.25", "−20", "3"]
    assert [duration(s) for s in (1.25, 65, 3725, None)] == [
        "1.2 s",
        "1 min 05 s",
        "1 h 02 min",
        "–",
    ]
    assert [joined(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]
