"""RSAF's controls for experiments (benchmarks/evidence/rsaf_controls.py). Axes: P positions."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from infifusion.merge.blocks.blocks import Blocks, Raw
from infifusion.merge.engine.models import open_model
from infifusion.merge.engine.plan import plan_models
from infifusion.merge.engine.settings import find_method
from infifusion.merge.engine.weights import run_plan
from infifusion.merge.methods import METHODS
from infifusion.strict import read_yaml

EVIDENCE = Path(__file__).parents[2] / "benchmarks" / "evidence"
sys.path.append(str(EVIDENCE))
CONTROLS = importlib.import_module("rsaf_controls")
NAME = "rsaf_controls:rsaf_controls"


def blocks(base: np.ndarray, models: list[np.ndarray]) -> Blocks:
    first, *raws = (Raw(np.asarray(row, np.float32), "F32") for row in [base, *models])
    return Blocks(first, raws, (len(base),))


def tensors() -> dict[str, Blocks]:
    """Two tensors of 1,000 positions: even disagreement, and concentrated disagreement."""
    rng = np.random.default_rng(0)
    even = 1 + rng.random(1000)
    return {
        name: blocks(np.zeros(1000), [delta, -delta])
        for name, delta in (("even", even), ("peaked", even**8))
    }


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"rule": "rate_only"}, 2),  # floor(.5 * 4)
        ({"rule": "skewness_only", "tau0": 0.9}, 4),  # tau .8309 of all 5 positions: 4
        ({"rule": "energy", "energy": 0.9}, 2),  # as rsaf itself
    ],
)
def test_rules_keep_what_is_worked_out_by_hand(params, kept):
    half = np.array([1.0, 1.0, 0.0, 1.0, 5.0])
    found = CONTROLS.rsaf_controls(
        blocks(np.zeros(5), [2 * half, 0 * half]), CONTROLS.Params(**params)
    )
    assert found.details["kept"] == kept


def test_global_granularity_gives_all_tensors_one_tau():
    params = CONTROLS.Params(granularity="global")
    measured = {name: CONTROLS.measure(one, params) for name, one in tensors().items()}
    taus = {name: p.tau for name, p in CONTROLS.settle(measured, params).items()}
    assert taus["even"] == taus["peaked"]
    assert measured["even"].tau > measured["peaked"].tau


def test_shuffling_keeps_the_taus_and_changes_their_places():
    params = [CONTROLS.Params(control="shuffled", seed=seed) for seed in range(8)]
    measured = {name: CONTROLS.measure(one, params[0]) for name, one in tensors().items()}
    own = {name: one.tau for name, one in measured.items()}
    found = [{name: p.tau for name, p in CONTROLS.settle(measured, one).items()} for one in params]
    assert all(sorted(f.values()) == sorted(own.values()) for f in found)
    assert any(f != own for f in found) and any(f == own for f in found)


def test_a_matched_budget_keeps_as_much_as_sce():
    params = CONTROLS.Params(control="budget_matched", tau0=0.3)
    measured = {name: CONTROLS.measure(one, params) for name, one in tensors().items()}
    given = CONTROLS.settle(measured, params)
    kept = sum(
        CONTROLS.rsaf_controls(one, given[name]).details["kept"] for name, one in tensors().items()
    )
    assert kept == pytest.approx(0.3 * 2000, abs=2)
    assert given["even"].tau > given["peaked"].tau


def merged(folder: Path, method: str, out: str, **params) -> dict:
    """What merge_details.json holds of a merge of two models of two tensors."""
    rng = np.random.default_rng(1)
    for name in ("base", "x", "y"):
        (folder / name).mkdir(exist_ok=True)
        values = {t: rng.standard_normal((30, 40)).astype(np.float32) ** n for t, n in TENSORS}
        save_file(values, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps({"model_type": "llama"}))
    base, *models = (replace(open_model(str(folder / n), Path()), name=n) for n in ("base", *"xy"))
    named = {model.name: model for model in models}
    plan = plan_models(named, base, method=method, params=params, dtype=None, seed=0)
    return run_plan(plan, folder / out)


TENSORS = (("a.weight", 1), ("b.weight", 3))


def test_a_sweeps_merge_settles_tau_across_its_tensors(tmp_path):
    plain = merged(tmp_path, "rsaf", "plain")
    same = merged(tmp_path, NAME, "same")
    shared = merged(tmp_path, NAME, "shared", granularity="global")
    assert plain["tensors"] == same["tensors"]
    assert len({one["tau"] for one in plain["tensors"]}) == 2
    assert len({one["tau"] for one in shared["tensors"]}) == 1
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("plain", "same")]
    assert weights[0] == weights[1]


def test_the_merges_of_every_sweep_take_their_parameters():
    """A list under `params` of a sweep stands for one arm per value."""
    seen = 0
    for path in sorted(EVIDENCE.glob("*.yaml")):
        for merge in (read_yaml(path).get("changes") or {}).get("merge", {}).values():
            if merge is None:
                continue
            method = find_method(merge["method"])
            for key, value in (merge.get("params") or {}).items():
                for one in value if isinstance(value, list) else [value]:
                    if one != "validate":
                        method.params.from_mapping(
                            {"density": 0.5, key: one}
                            if key == "weight" and "density" in method.parameters
                            else {key: one},
                            where=path.name,
                        )
                    seen += 1
    assert seen > 40


def test_the_controls_are_no_parameters_of_rsaf():
    assert set(METHODS["rsaf"].parameters) < set(find_method(NAME).parameters)
    assert set(find_method(NAME).parameters) - set(METHODS["rsaf"].parameters) == {
        "granularity",
        "control",
        "seed",
    }
