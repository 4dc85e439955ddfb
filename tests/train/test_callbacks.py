"""Loggers by `report_to`, and the user's own callbacks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import byte_level_tokenizer, tiny_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import DATA, TARGET, VOCABULARY, kl

from infifusion.errors import RecipeError
from infifusion.recipe import Model, Recipe
from infifusion.stages.check import check_recipe
from infifusion.stages.combine import find_callbacks
from infifusion.train.arguments import check_arguments
from infifusion.train.callbacks import make_callbacks
from infifusion.train.job import Job
from infifusion.train.run import train

MINE = """
from transformers import TrainerCallback

class Stops(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step == 2

class Needs(TrainerCallback):
    def __init__(self, steps):
        pass

def stops():
    return Stops()

def nothing():
    return None

number = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's on the path."""
    (tmp_path / "my_callbacks.py").write_text(MINE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


def run(folder: Path, **changes: object) -> dict:
    """Train a tiny model for four steps into folder/out."""
    tiny_model("llama", VOCABULARY, seed=0).save_pretrained(folder / "start")
    training = {"max_steps": 4, "per_device_train_batch_size": 4, "logging_steps": 1}
    values: dict = {
        "title": "distill x",
        "model": Model(model=str(folder / "start")),
        "tokenizer": byte_level_tokenizer(VOCABULARY),
        "rendered": DATA,
        "target": TARGET,
        "loss": kl,
        "gold_weight": 0.1,
        "loss_rows": 64,
        "training": {**training, **changes.pop("training", {})},  # type: ignore[dict-item]
        "lora": None,
        "seed": 0,
        **changes,
    }
    return train(Job(**values), folder / "out", name_of=str)


def test_tensorboard_has_every_logged_loss_and_its_parts(tmp_path: Path) -> None:
    history = run(tmp_path, training={"report_to": "tensorboard"})
    events = EventAccumulator(str(tmp_path / "out" / "logs"))
    events.Reload()
    assert not list((tmp_path / "out" / "checkpoints").rglob("*tfevents*"))
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
    for name in ("loss", "cross_entropy", "divergence"):
        found = [(one.step, one.value) for one in events.Scalars(f"train/{name}")]
        wanted = [(line["step"], line[name]) for line in history["log"]]
        assert len(found) == 4
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in wanted]


def test_no_logger_writes_anything_by_default(tmp_path: Path) -> None:
    run(tmp_path)
    # Checkpoints stay until the stage is signed.
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["checkpoints", "model"]


@pytest.mark.parametrize("name", ["Stops", "stops"])
def test_a_callback_of_the_users_own_takes_part(name: str, mine: None, tmp_path: Path) -> None:
    assert run(tmp_path, callbacks=find_callbacks([f"my_callbacks:{name}"]))["steps"] == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Stops", "expected module:name, found 'Stops'"),
        ("no_such_module:x", "'no_such_module:x' cannot be imported: No module named"),
        ("my_callbacks:gone", "cannot be imported: .* has no attribute 'gone'"),
        ("my_callbacks:number", "is a int; expected a transformers.TrainerCallback class"),
        ("pathlib:Path", "is a type; expected a transformers.TrainerCallback class"),
    ],
)
def test_what_is_no_callback_is_refused_by_check(name: str, message: str, mine: None) -> None:
    with pytest.raises(RecipeError, match=message):
        find_callbacks([name])


@pytest.mark.parametrize(
    ("name", "message"),
    [("Needs", "cannot be called without arguments"), ("nothing", "returned a NoneType")],
)
def test_a_callback_that_cannot_be_made_is_refused(name: str, message: str, mine: None) -> None:
    with pytest.raises(RecipeError, match=message):
        make_callbacks(find_callbacks([f"my_callbacks:{name}"]))


@pytest.mark.parametrize(
    ("report_to", "message"),
    [
        ("tensorbord", "training.report_to: there is no logger 'tensorbord'. Did you mean 'tensor"),
        (["tensorboard", "dvclive"], "'dvclive' is not installed. Run `pip install dvclive`"),
    ],
)
def test_an_unknown_or_absent_logger_is_refused(report_to: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_arguments({"report_to": report_to}, where="training")


def test_loggers_that_are_there_or_none_are_accepted() -> None:
    for report_to in ("none", None, "tensorboard", ["tensorboard"], []):
        check_arguments({"report_to": report_to}, where="training")


def test_a_token_has_no_place_in_a_recipe() -> None:
    with pytest.raises(RecipeError, match="'hub_token' cannot be set here: .*HF_TOKEN"):
        check_arguments({"hub_token": "hf_secret"}, where="training")


def test_check_names_a_callback_that_cannot_be_imported(suite: Path, make_recipe) -> None:
    with pytest.raises(RecipeError, match="The callback 'gone:x' cannot be imported"):
        check_recipe(Recipe(**make_recipe(suite, callbacks=["gone:x"])))
