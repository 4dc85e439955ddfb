"""The parts of a run in transformers' Trainer and in TRL's SFTTrainer: docs/trainers.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import infifusion
from infifusion.errors import RecipeError
from infifusion.store.records import read_json

PAGE = Path(__file__).parents[2] / "docs" / "trainers.md"
SETTINGS = {
    "learning_rate": 1e-3, "max_steps": 3, "per_device_train_batch_size": 4, "logging_steps": 1,
    "lr_scheduler_type": "constant", "warmup_steps": 0, "optim": "sgd", "seed": 0,
    "max_grad_norm": 1.0,
}  # fmt: skip


@pytest.fixture
def recipe(suite: Path, make_recipe: Callable[..., dict]) -> Callable[..., dict]:
    """A recipe of one fused run; more: keys of its target."""

    def make(**more: object) -> dict:
        values = make_recipe(
            suite,
            sources={"a": {"model": str(suite / "a")}, "c": {"model": str(suite / "c")}},
            fuse={"unified": {"function": "uncertainty", "gate": "none", **more}},
            distill={"unified": {"target": "unified", "gold_weight": 0.3}},
            merge={},
            evaluate={"models": ["unified"]},
        )
        values["training"] = {key: v for key, v in SETTINGS.items() if key != "seed"}
        return values

    return make


def losses(trainer: Trainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def plain(parts, out: Path, **more: object) -> Trainer:
    model = parts.prepare(AutoModelForCausalLM.from_pretrained(parts.pivot, dtype=torch.float32))
    settings = {**SETTINGS, "use_cpu": True, "report_to": "none", "disable_tqdm": True, **more}
    arguments = TrainingArguments(str(out), remove_unused_columns=False, **settings)
    return Trainer(model, arguments, train_dataset=parts.dataset, data_collator=parts.collator)


@pytest.mark.parametrize("teacher", ["cached", "online"])
def test_trainer_takes_the_steps_of_the_run(
    teacher: str, recipe: Callable[..., dict], tmp_path: Path
) -> None:
    values = recipe(teacher=teacher)
    parts = infifusion.training_parts(values, "unified", tmp_path / "r")
    trainer = plain(parts, tmp_path / "out")
    trainer.train()
    folder = infifusion.run(values, tmp_path / "r", until="distill").folder
    history = read_json(folder / "distill/unified/history.json")
    assert losses(trainer) == pytest.approx([line["loss"] for line in history["log"]], rel=1e-4)
    made = AutoModelForCausalLM.from_pretrained(
        folder / "distill/unified/model", dtype=torch.float32
    )
    for (name, ours), theirs in zip(
        made.named_parameters(), trainer.model.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


def test_micro_batches_in_trainer_take_the_step_of_one_batch(
    recipe: Callable[..., dict], tmp_path: Path
) -> None:
    parts = infifusion.training_parts(recipe(), "unified", tmp_path / "r")
    whole = plain(parts, tmp_path / "a")
    small = plain(
        parts, tmp_path / "b", per_device_train_batch_size=1, gradient_accumulation_steps=4
    )
    whole.train()
    small.train()
    assert losses(small) == pytest.approx(losses(whole), rel=1e-4)


def test_trl_takes_the_same_steps(recipe: Callable[..., dict], tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")

    class FusedSFTTrainer(trl.SFTTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)

    parts = infifusion.training_parts(recipe(), "unified", tmp_path / "r")
    settings = {**SETTINGS, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    trainer = FusedSFTTrainer(
        AutoModelForCausalLM.from_pretrained(parts.pivot, dtype=torch.float32),
        trl.SFTConfig(
            str(tmp_path / "out"),
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            bf16=False,
            gradient_checkpointing=False,
            **settings,
        ),
        train_dataset=parts.dataset,
        data_collator=parts.collator,
        processing_class=parts.tokenizer,
    )
    parts.prepare(trainer.model)
    trainer.train()
    expected = plain(parts, tmp_path / "plain")
    expected.train()
    assert losses(trainer) == pytest.approx(losses(expected), rel=1e-3)


def test_the_labels_are_the_tokens_that_are_learnt(
    recipe: Callable[..., dict], tmp_path: Path
) -> None:
    parts = infifusion.training_parts(recipe(), "unified", tmp_path / "r")
    batch = parts.collator([parts.dataset[0], parts.dataset[1]])
    learnt = batch["labels"] != -100
    assert torch.equal(batch["labels"][learnt], batch["input_ids"][learnt])
    assert torch.equal(batch["labels"][learnt], batch["gold_R"])


def test_a_run_that_there_is_not_is_named(recipe: Callable[..., dict], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no training run 'unifed'. Did you mean 'unified'"):
        infifusion.training_parts(recipe(), "unifed", tmp_path / "r")


def test_the_page_says_what_is_tried_here() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "return Trainer.compute_loss(self, model, inputs, return_outputs" in text
    assert re.search(r"parts.prepare\(trainer.model\)", text)
