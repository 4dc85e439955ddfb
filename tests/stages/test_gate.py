"""Gates over a whole run's data: which source teaches which example."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_whole_run import command

from infifusion.align.evidence import bits_per_byte
from infifusion.data.store import load_examples, load_rendered, load_target
from infifusion.errors import RecipeError
from infifusion.recipe import Recipe
from infifusion.stages.teaching import who_may_teach
from infifusion.store.folders import RunFolder
from infifusion.teacher.cache import BeliefReader
from infifusion.teacher.load import vocabulary_size


@pytest.fixture(scope="module")
def fused(
    suite: Path, make_recipe: Callable[..., dict], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run folder up to fuse: two domains, a target with each gate."""
    folder = tmp_path_factory.mktemp("gate")
    lines = (suite / "train.jsonl").read_text(encoding="utf-8").splitlines()
    # Sums of large numbers apart from small ones: the sources do not rank alike in both.
    data = []
    for name, part in (("low", lines[:15]), ("high", lines[15:])):
        (folder / f"{name}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
        data.append({"path": str(folder / f"{name}.jsonl"), "domain": name})
    values = make_recipe(suite, distill={}, merge={})
    values["data"] = {"train": data, "max_length": 128}
    values["fuse"] = {
        gate: {"function": "mean", "gate": gate} for gate in ("none", "bits_per_byte", "domain")
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    found = command("run", folder / "recipe.yaml", "--run-dir", folder / "out", "--until", "fuse")
    assert found.exit_code == 0
    return folder


def bits_of(folder: Path, name: str) -> np.ndarray:
    """Bits per byte of each response, read from the cache."""
    run = RunFolder(folder / "out")
    recipe = Recipe.model_validate(yaml.safe_load((folder / "recipe.yaml").read_text("utf-8")))
    rendered = load_rendered(run.rendered(name, "train"))
    model = recipe.pivot if name == "pivot" else recipe.sources[name]
    reader = BeliefReader(run.teach(name), rendered.row_N1, 16, vocabulary=vocabulary_size(model))
    beliefs = reader.examples(0, len(rendered))
    return bits_per_byte(beliefs.gold_U, rendered.start_R, rendered.row_N1)


def test_a_source_teaches_where_its_gate_is_open_and_only_there(fused: Path) -> None:
    run = RunFolder(fused / "out")
    domains = np.array([e.domain for e in load_examples(run.examples("train"))])
    row_N1 = load_rendered(run.rendered("pivot", "train")).row_N1
    targets = {gate: load_target(run.fuse(gate)) for gate in ("none", "bits_per_byte", "domain")}
    pivot = bits_of(fused, "pivot")
    opened = []
    for place, name in enumerate("abc"):
        wins = bits_of(fused, name) < pivot
        for number in range(len(domains)):
            rows = slice(row_N1[number], row_N1[number + 1])
            free, by_bits, by_domain = (t.weight_ST[place, rows] > 0 for t in targets.values())
            same_domain = wins[domains == domains[number]]
            open_here = 2 * same_domain.sum() > len(same_domain)
            assert (by_bits == (free & wins[number])).all()
            assert (by_domain == (free & open_here)).all()
        opened += [bool(wins[domains == d].mean() > 0.5) for d in ("low", "high")]
    assert any(opened) and not all(opened), "both kinds of domains were seen"


def test_the_gate_of_domains_needs_a_cache(fused: Path) -> None:
    values = yaml.safe_load((fused / "recipe.yaml").read_text("utf-8"))
    values["fuse"]["domain"]["teacher"] = "online"
    with pytest.raises(RecipeError, match="fuse.domain.gate: domain looks at all responses"):
        Recipe.from_mapping(json.loads(json.dumps(values)), where="recipe.yaml")


def test_what_a_gate_decided_is_said_by_source_and_domain() -> None:
    open_SN = np.array([[1, 1, 0, 0, 0], [1, 0, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    told = who_may_teach(["maths", "both", "lost"], open_SN, ["m", "m", "c", "c", "c"])
    assert told.startswith("maths teaches m; both teaches m (50%), c; lost teaches NOTHING")
    assert "chat template" in told and "pivot teaches" not in told


def test_a_run_says_what_its_gates_decided(fused: Path) -> None:
    log = (fused / "out" / "log.txt").read_text(encoding="utf-8")
    for gate in ("bits_per_byte", "domain"):
        (line,) = [line for line in log.splitlines() if f"fuse {gate}: a teaches" in line]
        assert all(f"{name} teaches" in line for name in "abc")
    assert "fuse none: a teaches" not in log
