from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import byte_level_tokenizer, tiny_model
from peft import PeftModel
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.data.tokenize import take
from infifusion.errors import CheckpointError, NumericsError, RecipeError
from infifusion.losses import LOSSES
from infifusion.losses.gate import FollowingGate
from infifusion.losses.kl import Params
from infifusion.losses.sparse import SparseTarget
from infifusion.recipe import Lora, Model
from infifusion.train.arguments import check_arguments
from infifusion.train.batches import Collator, Conversations
from infifusion.train.chunked import with_position_loss
from infifusion.train.job import Job
from infifusion.train.run import train
from infifusion.types import Rendered, Target

VOCABULARY = 300


def rendered(examples: int, seed: int = 0) -> Rendered:
    """Random examples of different lengths."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 14, examples)
    first = rng.integers(1, 4, examples)
    rows = lengths - first
    return Rendered(
        ids_L=rng.integers(1, VOCABULARY, lengths.sum()).astype(np.int32),
        offset_N1=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        first_N=first.astype(np.int32),
        start_R=np.concatenate([np.arange(n) for n in rows]).astype(np.int32),
        row_N1=np.concatenate([[0], np.cumsum(rows)]).astype(np.int64),
    )


def random_target(rows: int, seed: int = 1) -> Target:
    """Three entries a row; every fourth row is taught by nobody."""
    rng = np.random.default_rng(seed)
    weight = np.ones((1, rows), np.float32)
    weight[:, ::4] = 0
    prob = rng.dirichlet(np.ones(4), rows)[:, :3].astype(np.float32)
    ids = np.stack([rng.choice(VOCABULARY, 3, replace=False) for _ in range(rows)])
    return Target(
        ids_TK=np.where(weight.T > 0, ids, -1).astype(np.int32),
        prob_TK=np.where(weight.T > 0, prob, 0).astype(np.float32),
        weight_ST=weight,
        zscore_TK=np.zeros((rows, 3), np.float32),
    )


def kl(logits, rows):
    return LOSSES["kl"](logits, replace(rows, normalised=False), Params())


DATA = rendered(16)
TARGET = random_target(len(DATA.start_R))


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A tiny pivot with its tokenizer."""
    tiny_model("llama", VOCABULARY, seed=0).save_pretrained(tmp_path / "start")
    byte_level_tokenizer(VOCABULARY).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def job(start: Path, **changes: object) -> Job:
    training = {
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.5,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
    }
    values = {
        "title": "test",
        "model": Model(model=str(start)),
        "tokenizer": AutoTokenizer.from_pretrained(start),
        "rendered": DATA,
        "target": TARGET,
        "loss": kl,
        "gold_weight": 0.3,
        "loss_rows": 1024,
        "training": {**training, **changes.pop("training", {})},
        "lora": None,
        "seed": 0,
    }
    return Job(**{**values, **changes})


def run(start: Path, out: Path, **changes: object) -> tuple[dict, dict[str, torch.Tensor]]:
    """History and weights after training."""
    history = train(job(start, **changes), out, name_of=lambda n: f"example-{n}")
    return history, AutoModelForCausalLM.from_pretrained(out / "model").state_dict()


def following() -> dict[str, object]:
    """A gate that follows the pivot, over examples of two domains."""
    return {
        "gate": FollowingGate(domains=2, doubt=0.1),
        "domains": ["even", "odd"] * (len(DATA) // 2),
    }


def objective(model, target: Target | None, gold_weight: float) -> torch.Tensor:
    """The sum over all positions, written out from the model's own logits."""
    total = torch.zeros(())
    for n in range(len(DATA)):
        begin, end = DATA.offset_N1[n : n + 2]
        ids = torch.from_numpy(DATA.ids_L[begin:end]).long()
        logits = model(ids[None]).logits[0].float()
        first = int(DATA.first_N[n])
        for place in range(first, len(ids)):
            row = int(DATA.row_N1[n]) + place - first
            ce = functional.cross_entropy(logits[place - 1], ids[place])
            if target is None or target.weight_ST[:, row].sum() == 0:
                total = total + ce
            else:
                sparse = SparseTarget(
                    torch.from_numpy(target.ids_TK[row : row + 1]).long(),
                    torch.from_numpy(target.prob_TK[row : row + 1]),
                    torch.zeros(1, 1),
                    ids[place : place + 1],
                )
                divergence = LOSSES["kl"](logits[place - 1 : place], sparse, Params())[0]
                total = total + gold_weight * ce + (1 - gold_weight) * divergence
    return total


@pytest.mark.parametrize("loss_rows", [1024, 7])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_the_chunked_loss_and_its_gradients_equal_the_loss_written_out(kind, loss_rows) -> None:
    batch = Collator(DATA, TARGET)(
        [
            {"input_ids": DATA.ids_L[DATA.offset_N1[n] : DATA.offset_N1[n + 1]], "example": n}
            for n in range(len(DATA))
        ]
    )
    ours, plain = tiny_model(kind, VOCABULARY, 1).eval(), tiny_model(kind, VOCABULARY, 1).eval()
    ours = with_position_loss(ours, kl, gold_weight=0.3, loss_rows=loss_rows)
    found = ours(**batch)
    expected = objective(plain, TARGET, 0.3)
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(found["taught_D"].sum()) == int((TARGET.weight_ST > 0).sum())
    found["loss"].backward()
    expected.backward()
    for (name, mine), theirs in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_one_step_is_the_gradient_of_the_mean_over_all_positions(start, tmp_path) -> None:
    settings = {"max_steps": 1, "per_device_train_batch_size": 16}
    history, found = run(start, tmp_path / "out", training=settings)
    model = AutoModelForCausalLM.from_pretrained(start)
    mean = objective(model, TARGET, 0.3) / len(DATA.start_R)
    mean.backward()
    assert history["log"][0]["loss"] == pytest.approx(mean.item(), rel=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            found[name], (parameter - 0.5 * parameter.grad).detach(), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("gated", [False, True])
def test_micro_batches_take_the_same_step_as_one_batch(
    gated: bool, start: Path, tmp_path: Path
) -> None:
    weights = [
        run(
            start,
            tmp_path / str(size),
            **(following() if gated else {}),
            training={
                "per_device_train_batch_size": size,
                "gradient_accumulation_steps": 8 // size,
            },
        )[1]
        for size in (8, 4, 1)
    ]
    before = AutoModelForCausalLM.from_pretrained(start).state_dict()
    for name, whole in weights[0].items():
        torch.testing.assert_close(weights[1][name], whole, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(weights[2][name], whole, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(before[n], w) for n, w in weights[0].items())


def test_plain_fine_tuning_needs_no_target(start: Path, tmp_path: Path) -> None:
    history, _ = run(start, tmp_path / "out", target=None, loss=None, gold_weight=1.0)
    first = history["log"][0]
    assert first["loss"] == pytest.approx(first["cross_entropy"], rel=1e-4)
    assert "divergence" not in first and history["taught_positions"] == 0


@pytest.mark.parametrize("gated", [False, True])
def test_an_interrupted_run_goes_on_and_ends_where_an_undisturbed_one_does(
    gated: bool, start: Path, tmp_path: Path
) -> None:
    settings = {"max_steps": 6, "save_steps": 2, "optim": "adamw_torch", "learning_rate": 0.01}
    more = following if gated else dict  # a gate learns, so every run has its own
    _, expected = run(start, tmp_path / "whole", training=settings, **more())
    calls = 0

    def stops(*arguments):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return kl(*arguments)

    with pytest.raises(KeyboardInterrupt):
        run(start, tmp_path / "cut", training=settings, loss=stops, **more())
    left = tmp_path / "cut" / "checkpoints"
    assert [p.name for p in left.iterdir()] == ["checkpoint-2"]
    # A checkpoint that was being written when the power went has no whole.json.
    (left / "checkpoint-4").mkdir()
    history, found = run(start, tmp_path / "cut", training=settings, **more())
    assert history["steps"] == 6
    assert [p.name for p in left.iterdir()] == ["checkpoint-6"]  # until the stage is signed
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-7)


def test_a_bf16_checkpoint_is_saved_as_bf16_with_its_tokenizer(start, tmp_path) -> None:
    AutoModelForCausalLM.from_pretrained(start, dtype=torch.bfloat16).save_pretrained(start)
    before = load_file(start / "model.safetensors").keys()
    _, found = run(start, tmp_path / "out")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    # The embeddings are tied: a second copy in the file would be half of this model again.
    assert load_file(tmp_path / "out/model/model.safetensors").keys() == before
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    assert tokenizer("a b").input_ids == AutoTokenizer.from_pretrained(start)("a b").input_ids


def test_bf16_on_a_cpu_rounds_products_alone(start: Path, tmp_path: Path) -> None:
    """Autocast around the model; weights, optimizer and the loss it is given stay float32."""
    seen: set[tuple[bool, torch.dtype]] = set()

    def watched(log_CV, rows):
        seen.add((torch.is_autocast_enabled("cpu"), log_CV.dtype))
        return kl(log_CV, rows)

    full, expected = run(start, tmp_path / "full")
    half, found = run(start, tmp_path / "half", loss=watched, training={"bf16": True})
    assert seen == {(True, torch.float32)}
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    losses = [line["loss"] for line in full["log"]], [line["loss"] for line in half["log"]]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-2)
    before = AutoModelForCausalLM.from_pretrained(start).state_dict()
    for name, tensor in expected.items():
        step, other = tensor - before[name], found[name] - before[name]
        assert (other - step).norm() <= 0.05 * step.norm() + 1e-6


def test_lora_trains_adapters_and_saves_a_whole_model(start: Path, tmp_path: Path) -> None:
    history, found = run(start, tmp_path / "out", lora=Lora(r=2, alpha=8))
    before = AutoModelForCausalLM.from_pretrained(start).state_dict()
    assert found.keys() == before.keys()
    assert 0 < history["trainable_parameters"] < 0.5 * history["parameters"]
    changed = {name for name in found if not torch.equal(found[name], before[name])}
    assert changed and all("proj" in name for name in changed)


def test_a_loss_that_is_not_a_number_names_step_and_examples(start: Path, tmp_path: Path) -> None:
    def broken(*arguments):
        return kl(*arguments) * float("nan")

    with pytest.raises(NumericsError, match=r"nan in step 1, in one of the examples example-\d+"):
        run(start, tmp_path / "out", loss=broken)
    assert not (tmp_path / "out" / "model").exists()


def test_a_token_outside_the_head_is_refused(start: Path, tmp_path: Path) -> None:
    far = replace(DATA, ids_L=np.where(DATA.ids_L == DATA.ids_L[0], 999, DATA.ids_L))
    with pytest.raises(CheckpointError, match="token id 999.*300 entries"):
        run(start, tmp_path / "out", rendered=far)


def test_training_arguments_are_checked_by_name() -> None:
    check_arguments({"learning_rate": 1e-4, "report_to": "none"}, where="training")
    with pytest.raises(RecipeError) as caught:
        values = {"learning_rte": 1, "output_dir": "x", "fsdp": "full_shard"}
        check_arguments(values, where="distill.sft.training")
    assert "Did you mean 'learning_rate'" in str(caught.value)
    assert "'output_dir' cannot be set here" in str(caught.value)
    assert "'fsdp' cannot be set here: write `parallel: fsdp`" in str(caught.value)


def test_what_transformers_refuses_is_the_users_error(start: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="transformers does not accept this"):
        run(start, tmp_path / "out", training={"lr_scheduler_type": "wobbly"})


def test_the_adapters_lie_beside_the_model_and_give_it_back(start: Path, tmp_path: Path) -> None:
    _, found = run(start, tmp_path / "out", lora=Lora(r=2, alpha=8))
    base = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    again = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter").merge_and_unload()
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor.to(found[name].dtype), found[name])
    # And so does a merge that reads pivot+adapter, block by block.
    recipe = {
        "merge_method": "linear",
        "models": [{"model": f"{start}+{tmp_path}/out/adapter", "parameters": {"weight": 1.0}}],
    }
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    paths = [str(tmp_path / "merge.yaml"), str(tmp_path / "merged")]
    result = CliRunner().invoke(cli.app, ["merge", *paths])
    assert result.exit_code == 0, result.exception
    for name, tensor in load_file(tmp_path / "merged" / "model.safetensors").items():
        torch.testing.assert_close(tensor, found[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("pack_tokens", [None, 20])
def test_training_on_chosen_examples_is_training_on_data_that_holds_no_others(
    start: Path, tmp_path: Path, pack_tokens: int | None
) -> None:
    chosen = np.asarray([1, 2, 5, 6, 8, 9, 11, 13, 15])
    drawn = [item["example"] for item in Conversations(DATA, chosen)]
    assert drawn == chosen.tolist()
    rows = np.concatenate([np.arange(DATA.row_N1[n], DATA.row_N1[n + 1]) for n in chosen])
    target = Target(
        TARGET.ids_TK[rows], TARGET.prob_TK[rows], TARGET.weight_ST[:, rows], TARGET.zscore_TK[rows]
    )
    settings = {"training": {"per_device_train_batch_size": 2}, "pack_tokens": pack_tokens}
    history, weights = run(start, tmp_path / "chosen", chosen=chosen, **settings)
    alone = {"rendered": take(DATA, chosen), "target": target}
    expected, expected_weights = run(start, tmp_path / "alone", **alone, **settings)
    assert history["positions"] == expected["positions"] == len(rows) < len(DATA.start_R)
    assert history["taught_positions"] == expected["taught_positions"] > 0
    assert [line["loss"] for line in history["log"]] == [line["loss"] for line in expected["log"]]
    for name, tensor in expected_weights.items():
        assert torch.equal(weights[name], tensor), name


def test_a_run_that_was_cut_after_its_last_checkpoint_takes_no_step_more(
    start: Path, tmp_path: Path
) -> None:
    settings = {"max_steps": 3, "save_steps": 1, "lr_scheduler_type": "constant"}
    expected, weights = run(start, tmp_path / "out", training=settings)
    history, found = run(start, tmp_path / "out", training=settings)  # it was not signed
    assert history["steps"] == expected["steps"] == 3 and history["log"] == expected["log"]
    for name, tensor in weights.items():
        assert torch.equal(found[name], tensor)


def test_the_newest_checkpoint_is_kept_when_the_clock_is_set_back(
    start: Path, tmp_path: Path
) -> None:
    settings = {"max_steps": 4, "save_steps": 2}
    calls = 0

    def stops(*arguments):
        nonlocal calls
        calls += 1
        if calls == 3:
            for path in (tmp_path / "out" / "checkpoints").iterdir():
                os.utime(path, (4e9, 4e9))  # in the year 2096
        return kl(*arguments)

    run(start, tmp_path / "out", training=settings, loss=stops)
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["checkpoint-4"]
