"""The table of a terminal: footnotes as wide as it, intervals of few items."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from infifusion.evals.statistics import wilson_interval
from infifusion.report.table import console_table, metrics_table, per_cent


def said(renderable: object, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue().splitlines()


def test_a_footnote_is_as_wide_as_the_terminal_and_not_as_the_table() -> None:
    summary = {"models": {"p": {"scores": {}, "bits_per_byte": {"d": 1.0}}}}
    lines = said(console_table(summary), 100)
    assert any(len(line) > 60 for line in lines), lines
    result = {"models": {"p": {"scores": {"t": {"n": 4, "accuracy": 0.0, "ci95": [0.0, 0.49],
                                                "truncated": 0}}}}}  # fmt: skip
    assert any("lm-evaluation-harness prints" in line for line in said(metrics_table(result), 100))


def test_models_that_nothing_was_asked_of_are_no_table() -> None:
    summary = {"models": {"p": {"scores": {}, "bits_per_byte": {}}}}
    (line,) = said(console_table(summary), 100)
    assert line == "No model was scored: the recipe has neither data.held_out nor evaluate.tasks."


@pytest.mark.parametrize(
    ("correct", "n", "text"),
    [
        (0, 4, "0.0 (0.0 to 49.0)"),  # Wilson: 3.84 / (4 + 3.84)
        (4, 4, "100.0 (51.0 to 100.0)"),
        (150, 300, "50.0 ± 5.6"),
        (300, 300, "100.0 ± 0.6"),
    ],
)
def test_an_interval_that_half_its_width_would_lead_out_of_a_share_shows_its_ends(
    correct: int, n: int, text: str
) -> None:
    assert per_cent(correct / n, *wilson_interval(correct, n)) == text
