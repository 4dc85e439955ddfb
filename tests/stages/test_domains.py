"""Runs that train on some domains alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import arithmetic, write_jsonl
from test_whole_run import command

from infifusion.data.store import load_examples, load_rendered
from infifusion.errors import DataError
from infifusion.estimate.plan import plan_recipe
from infifusion.recipe import load_recipe
from infifusion.store.folders import RunFolder
from infifusion.store.records import read_json


@pytest.fixture
def recipe_file(suite: Path, make_recipe: Callable[..., dict], tmp_path: Path):
    """A recipe with the domains a (30 examples) and b (10), and the sources a and b."""

    def write(*, b: range = range(30, 40), **changes: object) -> Path:
        values = make_recipe(suite)
        write_jsonl(tmp_path / "a.jsonl", [arithmetic(n) for n in range(30)])
        write_jsonl(tmp_path / "b.jsonl", [arithmetic(n) for n in b])
        train = [{"path": str(tmp_path / f"{d}.jsonl"), "domain": d} for d in "ab"]
        values["data"] = {"train": train, "max_length": 128}
        values["sources"] = {name: {"model": str(suite / name)} for name in "ab"}
        values["fuse"] = {"pair": {"function": "mean", "each": True, "gate": "none"}}
        values["training"] = {"num_train_epochs": 1, "per_device_train_batch_size": 4}
        values["distill"] = {"own": {"target": "pair", "each": True, "domains": "own"}}
        values["merge"] = {"m": {"method": "linear", "models": ["own"]}}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**values, **changes}), encoding="utf-8")
        return path

    return write


def test_own_trains_every_copy_on_the_domain_of_its_source(recipe_file, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command("run", recipe_file(), "--run-dir", out).exit_code == 0
    folder = RunFolder(out)
    rows_N = np.diff(load_rendered(folder.rendered("pivot", "train")).row_N1)
    domains = np.asarray([example.domain for example in load_examples(folder.examples("train"))])
    # One epoch in batches of 4: 30 examples make 8 steps, 10 make 3.
    for domain, steps in (("a", 8), ("b", 3)):
        history = read_json(out / f"distill/own-{domain}/history.json")
        assert history["steps"] == steps
        assert history["positions"] == rows_N[domains == domain].sum()
        assert 0 < history["taught_positions"] <= history["positions"]
    assert (out / "report/index.html").exists() and (out / "merge/m/model/README.md").exists()


def test_a_domain_without_examples_left_is_refused_before_training(
    recipe_file, tmp_path: Path
) -> None:
    recipe = recipe_file(b=range(5))  # all of them are in a already, so prepare leaves them out
    refused = command("run", recipe, "--run-dir", tmp_path / "out")
    assert isinstance(refused.exception, DataError)
    found = str(refused.exception)
    assert "distill.own-b.domains: no training example of the domain 'b' is left" in found
    assert "it has a (30)" in found
    assert not (tmp_path / "out/distill/own-b").exists()


@pytest.mark.parametrize("prepared", [True, False])
def test_a_plan_counts_the_chosen_domains_alone(
    recipe_file, tmp_path: Path, prepared: bool
) -> None:
    recipe, out = recipe_file(), tmp_path / "out"
    if prepared:
        assert command("run", recipe, "--run-dir", out, "--until", "prepare").exit_code == 0
    found = plan_recipe(
        load_recipe(recipe), run_dir=out, device="cpu", count=1, nodes=1, given=None, shapes=[]
    )
    rows = {row["name"]: row for row in found["rows"] if row["stage"] == "distill"}
    assert rows["own-a"]["tokens"] == pytest.approx(3 * rows["own-b"]["tokens"])
    whole = next(
        r["tokens"] for r in found["rows"] if (r["stage"], r["name"]) == ("fuse", "pair-a")
    )
    assert rows["own-a"]["tokens"] == pytest.approx(0.75 * whole)
