"""NaN, Inf and a loss that goes away: caught where they arise, named, the last good work kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import byte_level_tokenizer, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from infifusion.errors import CheckpointError, NumericsError, RunError
from infifusion.recipe import Model
from infifusion.teacher.answer import Sampling, answer
from infifusion.teacher.forward import believe, make_teacher
from infifusion.teacher.temperature import fit_temperature
from infifusion.train.job import Job
from infifusion.train.run import train
from infifusion.types import Rendered, Target

VOCABULARY, EXAMPLES, LENGTH, RESPONSE = 300, 16, 12, 8
RARE = 40
"""A token that stands in one example alone."""


def rendered() -> Rendered:
    """Examples of 12 random tokens, 8 of them the response; example 3 holds the rare token."""
    ids_NL = np.random.default_rng(0).integers(50, VOCABULARY, (EXAMPLES, LENGTH)).astype(np.int32)
    ids_NL[3, 6] = RARE
    return Rendered(
        ids_L=ids_NL.reshape(-1),
        offset_N1=np.arange(EXAMPLES + 1, dtype=np.int64) * LENGTH,
        first_N=np.full(EXAMPLES, LENGTH - RESPONSE, np.int32),
        start_R=np.tile(np.arange(RESPONSE, dtype=np.int32), EXAMPLES),
        row_N1=np.arange(EXAMPLES + 1, dtype=np.int64) * RESPONSE,
    )


DATA = rendered()
NAMES = [f"example-{n}" for n in range(EXAMPLES)]


def poisoned(value: float):
    """A real model whose hidden states are `value` where the rare token is in the text."""
    model = tiny_model("qwen2", VOCABULARY, 0).eval()

    def poison(module: object, given: object, named: dict, out) -> None:
        out.last_hidden_state[(named["input_ids"] == RARE).any(dim=1)] = value

    model.model.register_forward_hook(poison, with_kwargs=True)
    model.config.name_or_path = "models/poisoned"
    return model


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("work", ["pass", "temperature"])
def test_a_teacher_pass_names_model_example_and_token(value: float, work: str) -> None:
    teacher = make_teacher(poisoned(value), top_k=4, batch_tokens=60, head_rows=5)
    with pytest.raises(
        NumericsError, match=r"models/poisoned are NaN or Inf in example example-3, .* token 0\."
    ):
        if work == "pass":
            believe(teacher, DATA, 0, EXAMPLES, names=NAMES)
        else:
            fit_temperature(teacher, DATA, names=NAMES)


def test_a_logit_of_minus_infinity_has_no_mean_and_is_refused() -> None:
    model = tiny_model("qwen2", VOCABULARY, 0).eval()

    def mask(module: object, given: object, logits: torch.Tensor) -> None:
        logits[..., 5] = -torch.inf

    model.lm_head.register_forward_hook(mask)
    teacher = make_teacher(model, top_k=4, batch_tokens=60, head_rows=5)
    with pytest.raises(NumericsError, match="NaN or Inf in example example-0, response token 0"):
        believe(teacher, DATA, 0, EXAMPLES, names=NAMES)


def test_generation_names_the_prompt() -> None:
    prompts = [[60, 61], [60, RARE], [62]]
    settings = Sampling(max_new_tokens=3, batch_size=3, samples=2, temperature=1.0)
    names = ["p/0", "p/1", "p/2"]
    with pytest.raises(NumericsError, match=r"models/poisoned are NaN or Inf while it answers p/1"):
        list(answer(poisoned(torch.nan), prompts, ends=[0], sampling=settings, seed=0, names=names))


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A tiny pivot with its tokenizer."""
    tiny_model("qwen2", VOCABULARY, seed=0).save_pretrained(tmp_path / "start")
    byte_level_tokenizer(VOCABULARY).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def target() -> Target:
    """Every position is taught one token for certain."""
    rows = len(DATA.start_R)
    return Target(
        ids_TK=np.full((rows, 1), 7, np.int32),
        prob_TK=np.ones((rows, 1), np.float32),
        weight_ST=np.ones((1, rows), np.float32),
        zscore_TK=np.zeros((rows, 1), np.float32),
    )


PositionLoss = Callable[..., torch.Tensor]


def log_loss(log_CV, rows) -> torch.Tensor:
    """Cross-entropy of the target's token."""
    return -(log_CV.gather(1, rows.ids_RK) * rows.prob_RK).sum(dim=1)


def from_call(number: int, then: PositionLoss) -> PositionLoss:
    """log_loss, and another one from its `number`-th call on: one call is one step."""
    calls = [0]

    def loss(*given: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return (then if calls[0] >= number else log_loss)(*given)

    return loss


def run(start: Path, out: Path, *, training: dict, **changes: object) -> dict:
    settings = {
        "per_device_train_batch_size": 4,
        "optim": "sgd",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "logging_steps": 1,
        "save_steps": 1,
        "save_total_limit": 2,
    }
    job = Job(
        title="distill test",
        model=Model(model=str(start)),
        tokenizer=AutoTokenizer.from_pretrained(start),
        rendered=DATA,
        target=target(),
        loss=log_loss,
        gold_weight=0.0,
        loss_rows=1024,
        training={**settings, **training},
        lora=None,
        seed=0,
    )
    return train(replace(job, **changes), out, name_of=lambda n: NAMES[n])


def kept(out: Path) -> list[str]:
    """The checkpoints that are left; all their weights are finite."""
    found = sorted((out / "checkpoints").glob("checkpoint-*"))
    for path in found:
        weights = load_file(path / "model.safetensors")
        assert all(torch.isfinite(weight).all() for weight in weights.values())
    return [path.name for path in found]


@pytest.mark.parametrize("norm", [0.0, 1.0])
def test_a_gradient_that_is_not_a_number_never_reaches_the_weights(
    start: Path, tmp_path: Path, norm: float
) -> None:
    def steep(log_CV, *rest) -> torch.Tensor:
        # 0, whose slope is 1 / (2 sqrt(0)) * 0 = NaN.
        return log_loss(log_CV, *rest) + torch.sqrt((log_CV * 0).sum(dim=1))

    with pytest.raises(NumericsError) as caught:
        settings = {"max_steps": 6, "max_grad_norm": norm}
        run(start, tmp_path / "out", training=settings, loss=from_call(4, steep))
    text = str(caught.value)
    assert "distill test: The gradient of model.embed_tokens.weight is NaN or Inf in step 4" in text
    assert text.count("example-") == 4 and text.endswith("checkpoint-3.")
    assert kept(tmp_path / "out") == ["checkpoint-2", "checkpoint-3"]
    assert not (tmp_path / "out/model").exists()


def test_a_loss_that_is_not_a_number_says_what_is_not(start: Path, tmp_path: Path) -> None:
    bad = target()
    bad.prob_TK[DATA.row_N1[5]] = np.nan
    with pytest.raises(NumericsError, match=r"example-5\b.*; prob_RK holds NaN or Inf"):
        run(start, tmp_path / "out", training={"max_steps": 8}, target=bad)

    def broken(*given: torch.Tensor) -> torch.Tensor:
        return log_loss(*given) * torch.inf

    with pytest.raises(NumericsError, match=r"loss is inf in step 3, .*weights and targets are fi"):
        run(start, tmp_path / "b", training={"max_steps": 6}, loss=from_call(3, broken))
    assert kept(tmp_path / "b") == ["checkpoint-1", "checkpoint-2"]


@pytest.mark.parametrize(
    ("save", "when"), [("no", "after the last step"), ("steps", "after step 3")]
)
def test_weights_that_overflow_are_not_saved(
    start: Path, tmp_path: Path, save: str, when: str
) -> None:
    calls = [0]

    def loss(*given: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return log_loss(*given) * (1e10 if calls[0] == 3 else 1e-33)

    settings = {"max_steps": 3, "learning_rate": 1e30, "max_grad_norm": 0.0, "save_strategy": save}
    with pytest.raises(NumericsError, match=rf"The weight \S+ is NaN or Inf {when}"):
        run(start, tmp_path / "out", training=settings, loss=loss, stop_at_rise=None)
    assert not (tmp_path / "out/model").exists()
    assert kept(tmp_path / "out") == ([] if save == "no" else ["checkpoint-1", "checkpoint-2"])


def test_a_start_with_nan_is_refused_before_a_step(start: Path, tmp_path: Path) -> None:
    weights = load_file(start / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, start / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"the tensor model\.norm\.weight holds NaN"):
        run(start, tmp_path / "out", training={"max_steps": 2})
    assert not (tmp_path / "out/checkpoints").exists()


def times(factor: float) -> PositionLoss:
    return lambda *given: factor * log_loss(*given)


def test_a_loss_that_goes_away_stops_the_run_and_its_checkpoints_are_from_before(
    start: Path, tmp_path: Path
) -> None:
    # Ten times as much from step 31 on: means of 20 are 1.45, 1.9 and in step 33 2.35 times.
    with pytest.raises(RunError) as caught:
        settings = {"max_steps": 60, "learning_rate": 1e-6}
        run(start, tmp_path / "out", training=settings, loss=from_call(31, times(10)))
    text = str(caught.value)
    assert "steps 14 to 33" in text and "stop_at_rise" in text and "checkpoint-30" in text
    assert kept(tmp_path / "out") == ["checkpoint-29", "checkpoint-30"]


@pytest.mark.parametrize(("factor", "rise"), [(10, None), (10, 20.0), (1.5, 2.0)])
def test_a_loss_that_may_rise_so_far_does_not_stop_the_run(
    start: Path, tmp_path: Path, factor: float, rise: float | None
) -> None:
    settings = {"max_steps": 50, "learning_rate": 1e-6, "save_steps": 10}
    loss = from_call(26, times(factor))
    history = run(start, tmp_path / "out", training=settings, loss=loss, stop_at_rise=rise)
    assert history["steps"] == 50 and (tmp_path / "out/model").exists()


def test_a_checkpoint_that_fell_due_in_a_bad_step_is_saved_in_the_next_good_one(
    start: Path, tmp_path: Path
) -> None:
    calls = [0]

    def once(*given: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 35:
            raise KeyboardInterrupt
        return log_loss(*given) * (10 if calls[0] == 30 else 1)

    with pytest.raises(KeyboardInterrupt):
        settings = {"max_steps": 60, "learning_rate": 1e-6, "save_steps": 10}
        run(start, tmp_path / "out", training=settings, loss=once)
    assert kept(tmp_path / "out") == ["checkpoint-20", "checkpoint-31"]
