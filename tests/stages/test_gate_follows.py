"""A run whose gate follows the pivot, from the recipe to the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.report.pages.training import SHARE_TITLE
from infifusion.store.records import read_json


@pytest.fixture(scope="module")
def out(suite: Path, make_recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a recipe with two domains: no gate, the gate, and one that stays where it
    begins, at one half, because its doubt drowns what it compares."""
    folder = tmp_path_factory.mktemp("follows")
    lines = (suite / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for name, some in (("sums", lines[::2]), ("other", lines[1::2])):
        (folder / f"{name}.jsonl").write_text("".join(some), encoding="utf-8")
    values = make_recipe(
        suite,
        distill={
            "plain": {"target": "unified"},
            "gated": {"target": "unified", "gate": "pivot"},
            "blind": {"target": "unified", "gate": "pivot", "doubt": 1e9, "gold_weight": 0.0},
        },
        merge={},
    )
    values["data"]["train"] = [
        {"path": str(folder / f"{name}.jsonl"), "domain": name} for name in ("sums", "other")
    ]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    arguments = ["run", str(folder / "recipe.yaml"), "--run-dir", str(folder / "out")]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exception is None, result.exception
    return folder / "out"


def weights(out: Path, run: str) -> torch.Tensor:
    return load_file(out / "distill" / run / "model" / "model.safetensors")[
        "model.layers.0.mlp.up_proj.weight"
    ].float()


def test_a_share_of_one_half_is_a_gold_weight_of_one_half(out: Path) -> None:
    plain, gated, blind = (weights(out, run) for run in ("plain", "gated", "blind"))
    assert not torch.allclose(gated, plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(blind, plain, rtol=0, atol=1e-5)


def test_the_history_says_by_domain_how_far_the_sources_counted(out: Path) -> None:
    log = read_json(out / "distill" / "gated" / "history.json")["log"]
    shares = [line[f"share/{name}"] for line in log for name in ("sums", "other")]
    assert len(shares) == 8 and all(0 < share < 1 for share in shares)
    blind = read_json(out / "distill" / "blind" / "history.json")["log"]
    assert all(line["share/sums"] == pytest.approx(0.5) for line in blind)
    assert "share" not in read_json(out / "distill" / "plain" / "history.json")["log"][0]


def test_check_and_the_report_show_it(out: Path) -> None:
    page = next((out / "report").glob("*.html")).read_text(encoding="utf-8")
    assert SHARE_TITLE in page and "gated other" in page
    resolved = json.loads((out / "resolved.json").read_text(encoding="utf-8"))
    runs = {run["name"]: run for run in resolved["plan"]["runs"]}
    assert runs["gated"]["gate"] == "pivot"
    assert "gate" not in runs["plain"], "a default is not written: old run folders go on"
    said = CliRunner().invoke(cli.app, ["check", str(out.parent / "recipe.yaml")])
    assert (
        "gated: kl, gold weight 0.5, target unified, a gate that follows the pivot" in said.output
    )
