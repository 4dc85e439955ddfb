"""Merges and tables of run outputs carry the runs' own names; things are counted in words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.commands.evaluate_models import _distinct_names
from infifusion.errors import RecipeError
from infifusion.report.card import RECIPE, public_values


@pytest.fixture
def outputs(suite: Path, tmp_path: Path) -> list[str]:
    """Two runs' models, each in a folder called model."""
    paths = [tmp_path / f"runs/first/distill/{name}/model" for name in ("math", "code")]
    for path in paths:
        shutil.copytree(suite / "pivot", path)
    return [str(path) for path in paths]


@pytest.mark.parametrize(
    ("method", "base", "said"),
    [
        ("slerp", True, "Merged 2 models (math, code) by slerp"),
        ("linear", False, "Merged 2 models (math, code) by linear"),
    ],
)
def test_a_merge_of_run_outputs_names_them(
    method: str, base: bool, said: str, outputs: list[str], tmp_path: Path
) -> None:
    values = {
        "merge_method": method,
        "models": [{"model": path} for path in outputs],
        "parameters": {"t": 0.5} if method == "slerp" else {"weight": 0.5},
        **({"base_model": outputs[0]} if base else {}),
    }
    file = tmp_path / "merge.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    done = CliRunner().invoke(cli.app, ["merge", str(file), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert said in done.output
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "* code" in card and "* model" not in card
    kept = yaml.safe_load((tmp_path / "out" / RECIPE).read_text(encoding="utf-8"))
    assert [one["model"] for one in kept["models"]] == ["math/model", "code/model"]
    assert str(tmp_path) not in card


def test_a_merge_over_a_base_names_it_apart(
    outputs: list[str], suite: Path, tmp_path: Path
) -> None:
    values = {
        "merge_method": "task_arithmetic",
        "base_model": str(suite / "pivot"),
        "models": [{"model": outputs[0], "parameters": {"weight": 1.0}}],
    }
    file = tmp_path / "merge.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    done = CliRunner().invoke(cli.app, ["merge", str(file), str(tmp_path / "out")])
    assert "Merged 1 model (math) over the base pivot by task_arithmetic" in done.output


def test_models_that_are_evaluated_have_their_runs_names(outputs: list[str]) -> None:
    assert _distinct_names(outputs) == {"math": outputs[0], "code": outputs[1]}
    with pytest.raises(RecipeError, match="named twice"):
        _distinct_names([outputs[0], f"{outputs[0]}/"])


def test_paths_in_a_published_recipe_are_told_apart() -> None:
    values = {"a": "/h/me/runs/x/distill/u/model", "b": ["/h/me/runs/y/distill/u/model"], "c": "t"}
    found = public_values(values)
    assert found == {"a": "x/distill/u/model", "b": ["y/distill/u/model"], "c": "t"}


def test_a_mixtures_file_given_to_merge_says_which_command_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "moe.yaml"
    file.write_text("base_model: a\nexperts: [{source_model: b}, {source_model: c}]\n")
    done = CliRunner().invoke(cli.app, ["merge", str(file), str(tmp_path / "out")])
    assert (
        "is a mixture of experts (it has the key 'experts'), not a merge file: infifusion moe"
        in (str(done.exception))
    )
