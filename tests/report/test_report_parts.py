"""Names of tensors, thinning, figures in words, texts made fit to be shown."""

from __future__ import annotations

import pytest

from infifusion.process.meter import duration
from infifusion.report.pages.merges import _mean_coefficients
from infifusion.report.pages.training import POINTS, _thinned
from infifusion.report.svg import number
from infifusion.report.tensors import Place, grid_of, place_of
from infifusion.report.visible import cut, visible
from infifusion.report.words import data_size, headline, joined


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


def test_sizes_are_in_the_largest_unit_that_keeps_a_whole_number() -> None:
    sizes = (0, 999, 1000, 56_000_000, 16.1e9, 2.5e12)
    shown = ["0 B", "999 B", "1.0 kB", "56.0 MB", "16.1 GB", "2.5 TB"]
    assert [data_size(size) for size in sizes] == shown


def test_the_headline_counts_better_worse_and_unclear_tasks_of_each_comparison() -> None:
    def pair(a: str, difference: float, p: float) -> dict[str, object]:
        return {"a": a, "b": "unified", "difference": difference, "p_value": p}

    pairs = [
        *(pair("pivot", 0.5, 0.001) for _ in range(3)),
        pair("sft", 0.2, 0.001),
        pair("sft", -0.1, 0.01),
        pair("sft", 0.01, 0.6),
        pair("other", 0.01, 0.6),
    ]
    assert headline(pairs, "unified") == (
        "unified is better than the pivot on all 3 tasks; better than sft on 1 of 3 tasks, worse "
        "on 1, not clearly different on 1; not clearly different from other on the only task."
    )
    assert headline(pairs, "pairwise") == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\n", "a\tb\n"),
        ("\u202eevil\u202c", "⟨U+202E⟩evil⟨U+202C⟩"),
        ("a\u2028b\u0000\x1b[31m", "a⟨U+2028⟩b⟨U+0000⟩⟨U+001B⟩[31m"),
        ("\ud800 \U000e0041", "⟨U+D800⟩ ⟨U+E0041⟩"),
        ("日本語 é 👩\u200d💻 \u05d0", "日本語 é 👩\u200d💻 \u05d0"),
    ],
)
def test_characters_that_hide_are_named_and_others_left_alone(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_long_text_loses_its_middle_and_says_how_much() -> None:
    assert cut("a" * 10, 10) == "a" * 10
    # 11 characters, 5 kept at each end
    assert cut("a" * 5 + "x" + "b" * 5, 10) == "aaaaa\n[… 1 characters left out …]\nbbbbb"
