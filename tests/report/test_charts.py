"""Charts: things stand where their values are, labels are text, figures are kept."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infifusion.report.bars import Span, bar_chart, timeline
from infifusion.report.chart import Chart, as_csv, standalone
from infifusion.report.curves import Line, line_chart, stacked_chart
from infifusion.report.dots import Dot, dot_chart
from infifusion.report.heat import heat_chart
from infifusion.report.svg import axis, whole_ticks


def every_kind(label: str) -> list[Chart]:
    """One chart of each kind, with this label wherever there is a label."""
    found = [
        dot_chart(label, [Dot(label, 1, label, "better", 0, 2, group=label)]),
        line_chart(label, [Line(label, [(0, 1.0), (1, 2.0)], 0)], x_label=label),
        stacked_chart(label, [0, 1], [[1.0], [0.5]], names=[label], x_label=label),
        bar_chart(label, [(label, [0.5])], names=[label], rest=label),
        timeline(label, [Span(label, 2.0, label, 0)]),
        heat_chart(label, [label], [(label, [1.0])]),
    ]
    return [chart for chart in found if chart is not None]


def test_a_dot_and_its_error_bar_stand_where_their_values_are() -> None:
    chart = dot_chart(
        "t",
        [
            Dot("a", 10, "10", "fused", 0, 20),
            Dot("b", 20, "20", "fused"),
            Dot("c", 0, "0", "pivot"),
        ],
    )
    middle, right, left = (float(x) for x in re.findall(r'cx="([\d.]+)"', chart.svg))
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    bar = re.search(r'd="M([\d.]+) [\d.]+v8m0-4H([\d.]+)', chart.svg)
    assert bar and [float(edge) for edge in bar.groups()] == [left, right]
    assert chart.rows == [["a", 10, 0, 20], ["b", 20, None, None], ["c", 0, None, None]]


def test_better_worse_and_unclear_differ_in_shape_not_in_colour_alone() -> None:
    svg = dot_chart("t", [Dot(k, 1, "1", k) for k in ("better", "worse", "unclear")]).svg
    up, down = re.findall(r'class="dot" d="M[\d.]+ [\d.]+l5 (-?[\d.]+)', svg)
    assert float(up) > 0 > float(down)
    assert svg.count('class="hollow"') == 1


def test_curves_break_where_a_value_is_missing() -> None:
    points = [(0, 1.0), (1, None), (2, 3.0), (3, 4.0)]
    chart = line_chart("t", [Line("a", points, 0)], x_label="x")
    assert chart is not None
    path = re.search(r'class="line c0" d="([^"]+)"', chart.svg)
    assert path and path[1].count("M") == 2 and path[1].count("L") == 1
    assert chart.rows == [[0, 1.0], [1, None], [2, 3.0], [3, 4.0]]
    assert chart.values and chart.values["lines"][0]["points"] == [[0, 1.0], [2, 3.0], [3, 4.0]]


def test_nothing_to_draw_is_no_chart() -> None:
    assert line_chart("t", [Line("a", [(0, None), (1, float("nan"))], 0)], x_label="x") is None
    assert stacked_chart("t", [0], [[1.0]], names=["a"], x_label="x") is None
    assert timeline("t", [Span("a", 0.0, "0 s", 0)]) is None


def test_a_bar_is_as_wide_as_its_share_and_the_rest_is_a_figure() -> None:
    chart = bar_chart("t", [("sums", [0.25, 0.5])], names=["a", "b"], rest="none")
    whole, quarter, half = (float(w) for w in re.findall(r'width="([\d.]+)"', chart.svg))
    assert (quarter, half) == (pytest.approx(whole / 4, abs=0.1), pytest.approx(whole / 2, abs=0.1))
    assert chart.rows == [["sums", 0.25, 0.5, 0.25]]


def test_stages_follow_one_another_in_the_timeline() -> None:
    spans = [Span("a", 30.0, "30 s", 0), Span("b", 90.0, "90 s", 1)]
    chart = timeline("t", spans)
    assert chart is not None
    assert chart.rows == [["a", 0.0, 30.0], ["b", 30.0, 90.0]]
    bars = re.findall(r'class="area" x="([\d.]+)" y="\d+" width="([\d.]+)"', chart.svg)
    (x_a, width_a), (x_b, width_b) = ((float(x), float(w)) for x, w in bars)
    assert x_b == pytest.approx(x_a + width_a, abs=0.2)
    assert width_b == pytest.approx(3 * width_a, abs=0.3)


def test_labels_in_charts_are_escaped_and_hide_nothing() -> None:
    charts = every_kind("<b>&\"'\u202e")
    assert len(charts) == 6
    for chart in charts:
        for drawn in (chart.svg, standalone(chart)):
            assert "<b>" not in drawn and "&lt;b&gt;" in drawn and '&"' not in drawn
            assert "\u202e" not in drawn


def test_a_chart_alone_is_well_formed_and_says_its_title() -> None:
    for chart in every_kind("five < six"):
        root = ET.fromstring(standalone(chart))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert "five < six" in texts


def test_the_csv_of_a_chart_has_its_figures() -> None:
    chart = dot_chart("t", [Dot('a, "b"', 0.1 + 0.2, "0.3", "fused", 0.25, None)])
    rows = list(csv.reader(io.StringIO(as_csv(chart))))
    assert rows == [
        ["label", "value", "low", "high"],
        ['a, "b"', "0.30000000000000004", "0.25", ""],
    ]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_an_axis_holds_all_values_and_its_ticks(values: list[float]) -> None:
    low, high, ticks = axis(values)
    assert low < high
    assert low <= min(values) and max(values) <= high
    assert 1 <= len(ticks) <= 6
    slack = 1e-9 * (abs(low) + abs(high))
    assert all(low - slack <= tick <= high + slack for tick in ticks)


def test_whole_values_have_whole_ticks() -> None:
    assert whole_ticks([0, 1, 2], [0.0, 0.5, 1.0, 1.5, 2.0]) == [0.0, 1.0, 2.0]
    assert whole_ticks([0, 0.3], [0.0, 0.5]) == [0.0, 0.5]
