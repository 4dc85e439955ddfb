"""What decides nothing may change in a run that has begun; --redo names all that differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import infifusion
from infifusion.errors import ArtifactError, InfiFusionError
from infifusion.store.artifacts import State, open_stage
from infifusion.store.records import read_json
from infifusion.train.arguments import decides_nothing


def test_a_free_field_is_no_other_stage(tmp_path: Path) -> None:
    made = {"run": {"training": {"save_steps": 5, "lr": 1}}, "seed": 0}
    wanted = {"run": {"training": {"save_steps": 9, "lr": 1}}, "seed": 0}
    assert open_stage(tmp_path / "s", made) is State.FRESH
    with pytest.raises(ArtifactError, match="save_steps: the folder has 5"):
        open_stage(tmp_path / "s", wanted)
    assert open_stage(tmp_path / "s", wanted, free=["run.training.save_steps"]) is State.RESUME
    other = {"run": {"training": {"lr": 2}}, "seed": 0}
    with pytest.raises(ArtifactError, match="lr: the folder has 1"):
        open_stage(tmp_path / "s", other, free=["run.training.save_steps", "no.such"])


def test_redo_names_every_difference(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_stage(tmp_path / "s", {"a": 1, "b": 2, "c": {"d": 3}, "e": 0})
    with caplog.at_level("INFO", logger="infifusion"):
        import logging

        logging.getLogger("infifusion").propagate = True
        open_stage(tmp_path / "s", {"a": 2, "b": 3, "c": {"d": 4}, "e": 0}, redo=True)
    text = caplog.text
    for words in ("a: the folder has 1", "b: the folder has 2", "c.d: the folder has 3"):
        assert words in text


def test_where_the_best_checkpoint_is_kept_its_saving_decides() -> None:
    assert "save_steps" in decides_nothing({})
    assert "save_steps" not in decides_nothing({"load_best_model_at_end": True})
    assert "report_to" in decides_nothing({"load_best_model_at_end": True})


def test_save_steps_of_a_stopped_run_may_change(
    suite: Path, make_recipe: Callable[..., dict], tmp_path: Path, monkeypatch
) -> None:
    recipe = make_recipe(
        suite, sources={"a": {"model": str(suite / "a")}}, fuse={}, distill={"sft": {}}, merge={},
        evaluate={"models": ["sft"]},
    )  # fmt: skip
    recipe["training"] |= {"max_steps": 6, "save_steps": 2, "optim": "sgd"}
    (tmp_path / "stops.py").write_text(
        "from transformers import TrainerCallback\n"
        "class Stops(TrainerCallback):\n"
        "    def on_step_end(self, args, state, control, **_):\n"
        "        if state.global_step == 3:\n"
        "            raise RuntimeError('stopped')\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    whole = infifusion.run(recipe, tmp_path / "whole", until="distill").folder
    # The callback is part of what a run is; it is there in both.
    recipe["callbacks"] = ["stops:Stops"]
    with pytest.raises((RuntimeError, InfiFusionError)):
        infifusion.run(recipe, tmp_path / "r", until="distill")
    (tmp_path / "stops.py").write_text(
        "from transformers import TrainerCallback\nclass Stops(TrainerCallback):\n    pass\n",
        encoding="utf-8",
    )
    import importlib
    import sys

    importlib.reload(sys.modules["stops"])
    recipe["training"] |= {"save_steps": 1, "logging_steps": 2, "save_total_limit": 2}
    folder = infifusion.run(recipe, tmp_path / "r", until="distill").folder
    history = read_json(folder / "distill/sft/history.json")
    assert history["steps"] == 6
    before = read_json(whole / "distill/sft/history.json")["log"][-1]
    assert history["log"][-1]["step"] == 6
    assert history["log"][-1]["grad_norm"] == pytest.approx(before["grad_norm"], rel=1e-3)
