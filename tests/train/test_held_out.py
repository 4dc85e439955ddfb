"""Bits per byte of held-out data while a model trains, early stopping, the best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from test_training import DATA, VOCABULARY, job, rendered, run, start  # noqa: F401

import infifusion
from infifusion.errors import ArtifactError, RecipeError
from infifusion.recipe import Model, Recipe
from infifusion.report.pages.training import training_view
from infifusion.report.run_folder import read_run
from infifusion.stages.check import check_recipe
from infifusion.store.records import read_json
from infifusion.teacher.bits import bits_per_byte_by_domain
from infifusion.train.chunked import with_position_loss
from infifusion.train.held_out import HeldOut
from infifusion.types import in_response

HELD = rendered(6, seed=5)
DOMAINS = ["a", "b", "a", "a", "b", "b"]


def test_the_scores_are_those_of_evaluate(start: Path) -> None:  # noqa: F811
    model = tiny_model("llama", VOCABULARY, seed=0)
    scored = with_position_loss(model, None, gold_weight=1.0, loss_rows=7)

    def score(batch: dict[str, torch.Tensor]) -> float:
        with torch.no_grad():
            return float(scored(**batch, gold_only=True)["cross_entropy"])

    for size in (1, 4):
        found = HeldOut(HELD, DOMAINS, "held_out").scores(score, batch_size=size)
        expected = bits_per_byte_by_domain(
            Model(model=str(start)), HELD, DOMAINS, names=[""] * 6, title=""
        )
        for domain, bits in expected.items():
            assert found[f"eval_{domain}_bits_per_byte"] == pytest.approx(bits, rel=1e-4)
    # All of it is the nats of all over the bytes of all, not a mean of the domains.
    inside = in_response(HELD.start_R, HELD.row_N1)
    assert 0 < inside.sum() < len(inside), "the end of a turn is no byte of the response"
    assert min(expected.values()) < found["eval_bits_per_byte"] < max(expected.values())


def test_a_loss_that_reads_logits_does_not_keep_a_run_from_being_scored(
    start: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    def reads_zscores(log_CV: torch.Tensor, rows) -> torch.Tensor:
        return rows.zscore_RK.sum(dim=1) * 0 + log_CV.sum(dim=1) * 0

    held = HeldOut(HELD, DOMAINS, "held_out")
    training = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1}
    history, _ = run(start, tmp_path / "o", loss=reads_zscores, held_out=held, training=training)
    assert [one["step"] for one in history["held_out"]] == [1, 2]
    assert set(history["held_out"][0]["domains"]) == {"a", "b"}


def test_the_best_checkpoint_becomes_the_model(start: Path, tmp_path: Path) -> None:  # noqa: F811
    """With a learning rate that ruins the model, the first score is the best."""
    held = HeldOut(HELD, DOMAINS, "held_out")
    training = {
        "max_steps": 6, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 3.0,
        "load_best_model_at_end": True, "lr_scheduler_type": "constant", "warmup_steps": 0,
    }  # fmt: skip
    history, weights = run(
        start, tmp_path / "out", held_out=held, training=training, stop_at_rise=None
    )
    bits = [one["bits_per_byte"] for one in history["held_out"]]
    best = min(range(6), key=bits.__getitem__) + 1
    assert history["best_step"] == best < 6
    again, until_best = run(
        start, tmp_path / "again", stop_at_rise=None,
        training={**training, "load_best_model_at_end": False, "eval_strategy": "no",
                  "max_steps": best},
    )  # fmt: skip
    assert again["steps"] == best and "held_out" not in again
    for name, weight in until_best.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-5, atol=1e-6)


def test_training_ends_when_nothing_better_comes(start: Path, tmp_path: Path) -> None:  # noqa: F811
    held = HeldOut(HELD, DOMAINS, "held_out")
    training = {
        "max_steps": 40, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 3.0,
        "load_best_model_at_end": True, "lr_scheduler_type": "constant", "warmup_steps": 0,
    }  # fmt: skip
    history, _ = run(
        start, tmp_path / "out", held_out=held, patience=2, training=training, stop_at_rise=None
    )
    bits = [one["bits_per_byte"] for one in history["held_out"]]
    assert history["steps"] < 40 and len(bits) == history["steps"]
    assert min(bits[-2:]) >= min(bits), "the last two brought nothing better"


@pytest.fixture
def scored_recipe(suite: Path, make_recipe: Callable[..., dict]) -> dict:
    recipe = make_recipe(
        suite,
        sources={"a": {"model": str(suite / "a")}},
        fuse={},
        distill={"sft": {"early_stopping": 3}},
        merge={},
        evaluate={"models": ["sft"]},
    )
    recipe["training"] |= {"eval_strategy": "steps", "max_steps": 10}
    return recipe


def test_a_run_shows_the_curve_of_its_held_out_data(scored_recipe: dict, tmp_path: Path) -> None:
    folder = infifusion.run(scored_recipe, tmp_path / "r").folder
    history = read_json(folder / "distill/sft/history.json")
    # Ten times in ten steps, unless training ends before.
    assert [one["step"] for one in history["held_out"]][:3] == [1, 2, 3]
    assert history["best_step"] >= 1
    view = training_view(read_run(folder))
    assert view is not None
    chart = view["charts"]["training-held-out"]
    assert "bits per byte" in chart.title
    assert [row[1] for row in chart.rows] == [
        pytest.approx(one["bits_per_byte"]) for one in history["held_out"]
    ]
    # The validation share is scored, not data.held_out, which evaluate reports.
    assert math.isfinite(history["held_out"][-1]["bits_per_byte"])
    scored_recipe["data"]["validation_share"] = 0.2
    with pytest.raises(ArtifactError):
        infifusion.run(scored_recipe, folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {"eval_strategy": "no"}}, "early_stopping needs training.eval_strategy"),
        ({"data": {"validation_share": 0, "held_out": []}}, "give data.validation_share, or data"),
        ({"training": {"metric_for_best_model": "loss"}},
         "there is no 'loss'; known: bits_per_byte, sums_bits_per_byte"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused(scored_recipe: dict, changes: dict, said: str) -> None:
    for part, values in changes.items():
        scored_recipe[part] = {**scored_recipe[part], **values}
    with pytest.raises(ValueError, match=said):
        Recipe(**scored_recipe)


def test_options_of_evaluation_without_effect_are_refused(scored_recipe: dict) -> None:
    scored_recipe["training"]["eval_accumulation_steps"] = 4
    with pytest.raises(RecipeError, match="'eval_accumulation_steps' cannot be set here: evalu"):
        check_recipe(Recipe(**scored_recipe))


def test_evaluation_strategy_by_its_old_name_leads_to_one_that_is_taken(
    scored_recipe: dict,
) -> None:
    scored_recipe["training"]["evaluation_strategy"] = "steps"
    with pytest.raises(RecipeError, match="Did you mean 'eval_strategy'"):
        check_recipe(Recipe(**scored_recipe))
    del scored_recipe["training"]["evaluation_strategy"]
    check_recipe(Recipe(**scored_recipe))


def test_checkpoints_of_activations_are_asked_for_without_a_warning(
    start: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    import warnings

    from infifusion.estimate.costs.schedule import schedule_of

    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        run(start, tmp_path / "o", training={"max_steps": 1, "gradient_checkpointing": True})
    for name in ("gradient_checkpointing", "activation_checkpointing"):
        assert schedule_of({name: True}, examples=8, devices=1).recompute


def test_no_without_quotes_is_no_strategy(tmp_path: Path) -> None:
    from infifusion.train.arguments import make_arguments

    values = {"eval_strategy": False, "save_strategy": False}
    made = make_arguments(values, out=tmp_path, seed=0, bf16_by_default=False)
    assert (made.eval_strategy, made.save_strategy) == ("no", "no")
