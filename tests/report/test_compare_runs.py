"""Several runs on one page, and figures as files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from run_folder_maker import SOURCES, TASKS, make_run_folder
from typer.testing import CliRunner

from infifusion.commands.cli import app
from infifusion.errors import ArtifactError
from infifusion.report.pages.compare import comparison_view, write_comparison
from infifusion.report.pages.export import export_figures
from infifusion.report.run_folder import read_runs

NAMED = ["unified", "pairwise", "sft", "pivot", *(f"source:{name}" for name in SOURCES)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs: in the second, unified answers the first 40 sums rightly, one item has another
    prompt, and a setting differs."""
    root = tmp_path_factory.mktemp("runs")
    one = make_run_folder(root / "one")
    two = shutil.copytree(one, root / "two")
    path = two / "evaluate" / "unified" / "demo_sums.jsonl"
    items = [json.loads(line) for line in path.read_text().splitlines()]
    for item in items[:40]:
        item["correct"] = True
    items[50]["prompt"] = "another question"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    settings = json.loads((two / "resolved.json").read_text())
    settings["recipe"]["seed"] = 1
    settings["recipe"]["fuse"]["unified"] = {"function": "mean", "keep": 8}
    settings["versions"]["torch"] = "2.14.0"
    (two / "resolved.json").write_text(json.dumps(settings))
    return one, two


def test_models_are_compared_on_the_items_that_both_answered(runs: tuple[Path, Path]) -> None:
    view = comparison_view(read_runs(runs))
    pairs = view["pairs"]
    found = {(pair["model"], pair["task"]): pair for pair in pairs}
    lines = (runs[0] / "evaluate" / "unified" / "demo_sums.jsonl").read_text().splitlines()
    wrong = sum(not json.loads(line)["correct"] for line in lines[:40])
    changed = found["unified", "demo_sums"]
    assert (changed["n"], changed["all"]) == (299, 300), "an item with another prompt is left out"
    assert (changed["gained"], changed["lost"]) == (wrong, 0)
    assert changed["difference"] == pytest.approx(wrong / 299)
    assert list(found) == [("unified", "demo_sums")], "nothing else differs"
    assert view["alike"] == {"two": [model for model in NAMED if model != "unified"]}


def test_the_settings_and_versions_that_differ_are_listed_and_no_others(
    runs: tuple[Path, Path],
) -> None:
    settings = dict(comparison_view(read_runs(runs))["settings"])
    assert settings == {
        "seed": ["0", "1"],
        "fuse.unified.function": ['"uncertainty"', '"mean"'],
        "fuse.unified.keep": ["(absent)", "8"],
        "version.torch": ['"2.13.0"', '"2.14.0"'],
    }


def test_runs_of_one_recipe_are_told_apart_by_their_folders(runs: tuple[Path, Path]) -> None:
    assert list(read_runs(runs)) == ["one", "two"]
    with pytest.raises(ArtifactError, match="named twice"):
        read_runs([runs[0], runs[0] / ".." / "one"])


def test_the_best_fused_models_are_compared_where_their_names_differ(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    other = shutil.copytree(runs[0], tmp_path / "other")
    shutil.rmtree(other / "evaluate" / "unified")
    pairs = comparison_view(read_runs([runs[0], other]))["pairs"]
    best = [pair for pair in pairs if pair["model"].startswith("best")]
    assert [pair["task"] for pair in best] == list(TASKS)
    assert {pair["model"] for pair in best} == {"best: pairwise − unified"}


def test_three_runs_stand_side_by_side_in_one_page(runs: tuple[Path, Path], tmp_path: Path) -> None:
    third = shutil.copytree(runs[1], tmp_path / "third")
    text = write_comparison([*runs, third], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "two minus one in points" in text and "third minus one in points" in text
    assert "script-src 'sha256-" in text


def test_every_figure_of_a_run_is_a_drawing_and_a_table(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    written = export_figures([runs[0]], tmp_path)
    names = {path.stem for path in written}
    assert {path.suffix for path in written} == {".svg", ".csv"}
    assert len(written) == 2 * len(names)
    expected = {
        "scores-demo_sums",
        "difference-from-pivot",
        "bits-code",
        "weights-by-domain-unified",
    }
    expected |= {
        "weights-along-data-unified",
        "training-loss",
        "timeline",
        "ratio-by-layer-pairwise",
    }
    expected |= {"moved-by-layer-pairwise", "skewness-by-layer-pairwise"}
    assert expected <= names
    scores = json.loads((runs[0] / "evaluate" / "pivot" / "scores.json").read_text())["scores"]
    lines = (tmp_path / "scores-demo_sums.csv").read_text().splitlines()
    assert lines[0] == "label,value,low,high"
    assert float(lines[1].split(",")[1]) == pytest.approx(100 * scores["demo_sums"]["accuracy"])


def test_the_command_reports_compares_and_exports(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = shutil.copytree(runs[0], tmp_path / "one")
    done = CliRunner().invoke(app, ["report", str(one), "--export", "figures"])
    assert done.exit_code == 0 and "index.html" in done.stdout
    assert (tmp_path / "figures" / "timeline.svg").is_file()
    done = CliRunner().invoke(app, ["report", *map(str, runs), "--export", "pairs"])
    assert done.exit_code == 0 and (tmp_path / "comparison.html").is_file()
    assert (tmp_path / "pairs" / "two-minus-one.csv").is_file()
    done = CliRunner().invoke(app, ["report", str(one), "--out", "page.html"])
    assert done.exit_code == 2 and "--out is for comparisons" in done.output
