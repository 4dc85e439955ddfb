"""Tables and page of a sweep, from results made by hand."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from evidence_tables import summary_table, write_sweep_plots

from infifusion.report.pages.sweep import csv_table, markdown_of, markdown_table, page_of


def results() -> dict:
    """Two settings, three arms; in b=2 the arm `new` was not scored."""

    def row(setting: str, arm: str, mean: float, against: dict) -> dict:
        return {
            "setting": setting,
            "arm": arm,
            "seeds": [0, 1],
            "accuracy": {"sums": [mean, 1.0]},
            "mean_accuracy": [mean, 1.0],
            "bits": {"sums": [0.5, 0.01]},
            "mean_bits": [0.5, 0.01],
            "seconds": 9.0,
            "training_seconds": 4.0,
            "flops": 1e9,
            "against": against,
        }

    def test(difference: float, low: float, high: float, p_holm: float) -> dict:
        one = {
            "difference": difference,
            "error": 0.5,
            "ci95": [low, high],
            "p_value": p_holm / 2,
            "p_holm": p_holm,
        }
        return {**one, "tasks": {"sums": one}, "bits": [-0.02, 0.005],
                "bits_by_domain": {"sums": [-0.02, 0.005]}}  # fmt: skip

    rows = [
        row("b=1", "<old>", 50, {}),
        row("b=1", "new", 54, {"<old>": test(4, 2, 6, 0.001)}),
        row("b=1", "other", 53, {"<old>": test(3, 1, 5, 0.2)}),
        row("b=2", "<old>", 60, {}),
        row("b=2", "other", 58, {"<old>": test(-2, -3, -1, 0.01)}),
    ]
    return {
        "name": "tiny",
        "seeds": [0, 1],
        "settings": {"b=1": {"b": 1}, "b=2": {"b": 2}},
        "arms": ["<old>", "new", "other"],
        "against": ["<old>"],
        "tasks": ["sums"],
        "cells": [],
        "rows": rows,
        "missing": [{"setting": "b=2", "seed": 0, "arm": "new"}],
        "items": [],
    }


def test_the_summary_is_bold_only_where_interval_and_test_agree() -> None:
    lines = summary_table(results(), "<old>").splitlines()
    assert lines[0] == "| setting | <old> | new minus <old> | other minus <old> |"
    assert lines[2] == "| b=1 | 50.0 ± 1.0 | **+4.0 ± 0.5** | +3.0 ± 0.5 |"
    assert lines[3] == "| b=2 | 60.0 ± 1.0 | – | **-2.0 ± 0.5** |"


def test_without_tasks_the_bits_of_each_domain_have_columns() -> None:
    untasked = {**results(), "tasks": []}
    untasked["rows"] = [{**row, "accuracy": {}} for row in untasked["rows"]]
    for row in untasked["rows"]:
        del row["mean_accuracy"]
    lines = markdown_table(untasked, "b=1").splitlines()
    shown = ["arm", "sums bits", "sums minus <old>", "bits minus <old>", "bits"]
    shown += ["training s", "GFLOP"]
    assert lines[0] == f"| {' | '.join(shown)} |"
    assert lines[2] == "| <old> | 0.500 ± 0.010 | – | – | 0.500 ± 0.010 | 4 | 1 |"
    new = "| new | 0.500 ± 0.010 | -0.020 ± 0.005 | -0.020 ± 0.005 | 0.500 ± 0.010 | 4 | 1 |"
    assert lines[3] == new


def test_every_figure_stands_in_the_csv_with_its_comparison() -> None:
    lines = list(csv.DictReader(io.StringIO(csv_table(results()))))
    found = {(line["setting"], line["arm"], line["figure"]): line for line in lines}
    mean = found["b=1", "new", "accuracy mean"]
    assert (mean["value"], mean["difference"], mean["low"], mean["p_holm"]) == (
        "54", "4", "2", "0.001",
    )  # fmt: skip
    bits = found["b=2", "other", "bits sums"]
    assert (bits["value"], bits["difference"], bits["difference_error"]) == (
        "0.5",
        "-0.02",
        "0.005",
    )
    assert found["b=1", "new", "flops"]["value"] == "1000000000.0"


def test_what_was_not_scored_is_said() -> None:
    assert "* not scored: new, seed 0, b=2" in markdown_of(results())
    assert "new, seed 0, b=2" in page_of(results())


def test_names_are_escaped_in_the_page_and_its_plots(tmp_path) -> None:
    assert "<old>" not in page_of(results()) and "&lt;old&gt;" in page_of(results())
    written = write_sweep_plots(results(), tmp_path)
    assert [path.name for path in written] == [
        "tiny-0-old-accuracy.svg", "tiny-0-old-bits.svg",
        "tiny-1-old-accuracy.svg", "tiny-1-old-bits.svg",
    ]  # fmt: skip
    import xml.etree.ElementTree as tree

    for path in written:
        svg = tree.fromstring(path.read_text(encoding="utf-8"))
        assert svg.tag.endswith("svg") and "<old>" not in path.read_text(encoding="utf-8")
    first = tree.fromstring(written[0].read_text(encoding="utf-8"))
    dots = [node.get("class") for node in first.iter() if node.tag.endswith("}g")]
    assert dots == ["row better", "row better"]
