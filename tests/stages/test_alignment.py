"""Fused targets with each alignment and with and without the gold path, over one teacher pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from infifusion.align.byte_spans import token_table
from infifusion.align.min_ed import pair_by_edit_distance
from infifusion.commands import cli
from infifusion.data.store import load_rendered, load_target
from infifusion.data.tokenize import end_of_turn, gold_ids
from infifusion.data.tokenizers import load_tokenizer, tokenizer_json
from infifusion.errors import ArtifactError
from infifusion.recipe import load_recipe
from infifusion.stages.combine import positions
from infifusion.stages.mapping import map_between
from infifusion.stages.online import OnlineTarget
from infifusion.store.folders import RunFolder
from infifusion.store.records import read_json

TARGETS = {
    "by_bytes": {"function": "mean", "sources": ["b"], "gate": "none"},
    "no_path": {"function": "mean", "sources": ["b"], "gate": "none", "gold_path": False},
    "min_ed": {
        "function": "mean",
        "sources": ["b"],
        "gate": "none",
        "alignment": "min_ed",
        "gold_path": False,
    },
    "itself": {"sources": ["a"], "gate": "none", "alignment": "min_ed", "pivot_as_source": True},
}


@pytest.fixture(scope="module")
def fused(
    suite: Path, make_recipe: Callable[..., dict], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with recipe.yaml and, in out/, its run up to fuse."""
    folder = tmp_path_factory.mktemp("alignment")
    values = make_recipe(suite, fuse=TARGETS, distill={}, merge={})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    found = run(folder)
    assert found.exception is None, found.exception
    return folder


def run(folder: Path, *more: str):
    arguments = [str(folder / "recipe.yaml"), "--run-dir", str(folder / "out"), "--until", "fuse"]
    return CliRunner().invoke(cli.app, ["run", *arguments, *more])


def counts(folder: Path, target: str, source: str = "b") -> dict[str, Any]:
    return read_json(folder / "out/fuse" / target / "manifest.json")["counts"]["sources"][source]


def changed(folder: Path, one: str, other: str) -> np.ndarray:
    """Positions whose rows differ between two targets."""
    first, second = (load_target(folder / "out/fuse" / name) for name in (one, other))
    differs_TK = (first.prob_TK != second.prob_TK) | (first.ids_TK != second.ids_TK)
    return differs_TK.any(axis=1)


def test_a_target_by_edit_distance_is_taught_where_the_tokens_are_paired(fused: Path) -> None:
    recipe, folder = load_recipe(fused / "recipe.yaml"), RunFolder(fused / "out")
    theirs, ours = (load_rendered(folder.rendered(name, "train")) for name in ("b", "pivot"))
    mapping = map_between(
        recipe.sources["b"],
        recipe.pivot,
        end_of_turn=(end_of_turn(theirs), end_of_turn(ours)),
        alignment="min_ed",
    )
    tables = [
        token_table(tokenizer_json(load_tokenizer(model.model)))
        for model in (recipe.sources["b"], recipe.pivot)
    ]
    whole = len(ours)
    source_T = pair_by_edit_distance(
        positions(theirs, gold_ids(theirs), 0, whole),
        positions(ours, gold_ids(ours), 0, whole),
        source_table=tables[0],
        pivot_table=tables[1],
        mapping=mapping,
    )
    found = load_target(fused / "out/fuse/min_ed")
    assert found.weight_ST[0].tolist() == (source_T >= 0).astype(float).tolist()
    assert (found.prob_TK[source_T < 0] == 0).all() and (found.prob_TK[source_T >= 0, 0] > 0).all()
    assert 0.1 < (source_T >= 0).mean() < 1 and counts(fused, "min_ed")["gold_paths"] == 0
    assert counts(fused, "min_ed")["vocabulary"] == mapping.counts()
    assert mapping.counts()["nearest"] > 0


def test_edit_distance_teaches_fewer_positions_than_bytes(fused: Path) -> None:
    few, many = counts(fused, "min_ed"), counts(fused, "by_bytes")
    assert 0 < few["aligned"] < many["aligned"]
    assert "nearest" not in many["vocabulary"] and many["vocabulary"]["first_token"] > 0
    assert changed(fused, "min_ed", "no_path").any()


def test_the_pivots_own_tokenizer_is_aligned_everywhere_by_edit_distance(fused: Path) -> None:
    own = counts(fused, "itself", "pivot")
    assert own["aligned_share"] == 1 and own["unmapped_mass"] == 0


def test_without_the_gold_path_only_its_positions_change(fused: Path) -> None:
    on, off = counts(fused, "by_bytes"), counts(fused, "no_path")
    assert changed(fused, "by_bytes", "no_path").sum() == on["gold_paths"] > 0
    assert off["gold_paths"] == 0 and on["aligned"] == off["aligned"]


def test_an_online_target_is_aligned_as_the_cached_one(fused: Path, tmp_path: Path) -> None:
    recipe, folder = load_recipe(fused / "recipe.yaml"), RunFolder(fused / "out")
    row_N1 = load_rendered(folder.rendered("pivot", "train")).row_N1
    numbers = np.asarray([7, 0, 20])
    row_R = np.concatenate([np.arange(row_N1[n], row_N1[n + 1]) for n in numbers])
    for target in recipe.resolve().targets:
        made = OnlineTarget(recipe, folder, target, tmp_path)(numbers)
        kept = load_target(folder.fuse(target.name))
        np.testing.assert_allclose(made.weight_ST, kept.weight_ST[:, row_R], atol=1e-4)
        np.testing.assert_allclose(made.prob_TK, kept.prob_TK[row_R], atol=2e-3)


@pytest.mark.parametrize("change", ["alignment=min_ed", "gold_path=false"])
def test_another_alignment_under_the_same_name_is_refused(fused: Path, change: str) -> None:
    refused = run(fused, "--set", f"fuse.by_bytes.{change}")
    assert isinstance(refused.exception, ArtifactError)
    assert change.split("=")[0] in str(refused.exception)
