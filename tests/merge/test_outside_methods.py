"""Merge methods of one's own: a record, or a function beside its Params."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from infifusion.errors import RecipeError
from infifusion.merge.blocks.blocks import BLOCK
from infifusion.merge.engine.file import read_merge_file
from infifusion.merge.engine.plan import MergePlan, plan_file
from infifusion.merge.engine.planner import fit_threads, memory_needed
from infifusion.merge.engine.settings import find_method
from infifusion.merge.engine.weights import run_plan
from infifusion.merge.methods import METHODS

ROW = 3 * BLOCK
PLAIN = """
from infifusion.merge.blocks.result import Merged
from infifusion.strict import Strict

class Params(Strict):
    factor: float | list[float] = 1.0

def half(blocks, params):
    rows = blocks.by_rows()
    return Merged(rows, lambda block: block.base_P + 0.5 * block.delta_SP.mean(axis=0))

def bare(blocks, params):
    return 1
"""
RECORD = """
from infifusion.merge.methods.method import Method
METHOD = Method(half, Params, base="needed", by_rows=True, working_arrays=20, nanoseconds=1.0)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module of that name; it can then be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


def plan(folder: Path, method: str, *, base: bool = True) -> MergePlan:
    for n, name in enumerate(("base", "x", "y")):
        if not (folder / name).exists():
            (folder / name).mkdir()
            rows = np.full((2, ROW), n, np.float32)
            save_file({"a.weight": rows}, folder / name / "model.safetensors")
            (folder / name / "config.json").write_text(json.dumps({"model_type": "llama"}))
    path = folder / "merge.yaml"
    values = {"merge_method": method, "models": [{"model": "x"}, {"model": "y"}]}
    path.write_text(json.dumps(values | ({"base_model": "base"} if base else {})))
    return plan_file(read_merge_file(path, base_override=None), path)


@pytest.mark.parametrize("name", ["own_record:half", "own_record:METHOD"])
def test_a_record_from_outside_is_taken_by_all(tmp_path, module, name):
    module("own_record", PLAIN + RECORD)
    method = find_method(name)
    assert (method.by_rows, method.working_arrays, method.base) == (True, 20, "needed")
    assert method.per_model == {"factor"}
    found = plan(tmp_path, name)
    # A thread and one that helps it: rows of 2 models, the base and 20 more, and 3 histograms.
    each = 2 * (4 * ROW * (3 + 20) + 3 * 16 * 65_536)
    assert memory_needed(found, 1) == 150_000_000 + each
    assert fit_threads(found, threads=9, memory=150_000_000 + 2 * each) == 2
    with pytest.raises(RecipeError, match="this merge needs .* MB with one thread"):
        fit_threads(found, threads=None, memory=150_000_000 + each - 1)
    run_plan(found, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")["a.weight"]
    assert (merged == 0.75).all()  # 0 + 0.5 * (1 + 2) / 2
    with pytest.raises(RecipeError, match="Give base_model"):
        plan(tmp_path, name, base=False)


def test_a_plain_function_is_counted_as_one_that_merges_whole_rows(tmp_path, module):
    module("own_plain", PLAIN)
    method = find_method("own_plain:half")
    assert method.base == "optional" and method.params.__name__ == "Params"
    # As della, which merges whole rows and takes as many arrays.
    found = plan(tmp_path, "own_plain:half")
    della = replace(found, method=METHODS["della"])
    assert memory_needed(found, 2) == memory_needed(della, 2)
    assert memory_needed(found, 2) > memory_needed(replace(found, method=METHODS["sce"]), 2)


def test_a_function_that_returns_no_merged_is_named(tmp_path, module):
    module("own_plain", PLAIN)
    with pytest.raises(RecipeError, match="own_plain:bare did not return a Merged"):
        run_plan(plan(tmp_path, "own_plain:bare"), tmp_path / "out")


def test_a_function_without_params_is_refused(module):
    module("own_bare", "def half(blocks, params):\n    return 1\n")
    with pytest.raises(RecipeError, match="own_bare:half has no class Params"):
        find_method("own_bare:half", where="merge.x")


def test_every_record_says_what_others_ask_of_it():
    for name, method in METHODS.items():
        assert method.line.endswith(".") and method.params.__doc__, name
        assert method.paper or name == "passthrough"
        assert method.function.__name__ == name and method.function.__doc__
    rows = {name for name, method in METHODS.items() if method.by_rows}
    assert rows == {"della", "della_linear", "nuslerp", "model_stock", "arcee_fusion"}
    unused = {name for name, method in METHODS.items() if method.base == "unused"}
    optional = {name for name, method in METHODS.items() if method.base == "optional"}
    assert unused == {"linear", "karcher", "passthrough"}
    assert optional == {"slerp", "multislerp", "nuslerp"}


def test_a_merge_imports_no_torch(tmp_path):
    plan(tmp_path, "ties")
    code = (
        "import sys; from typer.testing import CliRunner; from infifusion.commands.cli import app; "
        f"found = CliRunner().invoke(app, ['merge', {str(tmp_path / 'merge.yaml')!r}, "
        f"{str(tmp_path / 'out')!r}]); print(found.exit_code, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.split() == ["0", "False"], found.stdout + found.stderr
    merged = load_file(tmp_path / "out" / "model.safetensors")["a.weight"]
    assert (merged == 1.5).all()  # (1 + 2) / 2
