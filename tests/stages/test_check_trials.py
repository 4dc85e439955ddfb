"""`check` makes what `run` will make: what a machine or a library cannot do is refused, with the
setting that is to blame."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import write_jsonl

import infifusion
from infifusion.errors import RecipeError
from infifusion.recipe import Recipe
from infifusion.stages.check import check_recipe
from infifusion.train import trial

ON_CPU = not torch.cuda.is_available()


def without(name: str) -> bool:
    """Whether a package is lacking here."""
    from importlib.util import find_spec

    return find_spec(name) is None


WRONG = {
    "optimiser": (
        {"training": {"optim": "adamw_8bit"}},
        r"distill.sft.training.optim: 'adamw_8bit' does not work here: .*bitsandbytes",
        without("bitsandbytes"),
    ),
    "optimiser that needs layers": (
        {"training": {"optim": "galore_adamw"}},
        r"distill.sft.training.optim: 'galore_adamw' does not work here",
        True,
    ),
    "kernel": (
        {"training": {"use_liger_kernel": True}},
        r"distill.sft.training.use_liger_kernel: True does not work here: .*liger",
        without("liger_kernel"),
    ),
    "attention of the pivot": (
        {"pivot": {"attn_implementation": "flash_attention_2"}},
        r"pivot.attn_implementation: 'flash_attention_2' does not work here: .*[Ff]lash",
        without("flash_attn"),
    ),
    "attention of a source": (
        {"source": {"attn_implementation": "sdpaa"}},
        r"sources.a.attn_implementation: 'sdpaa' does not work here: .*sdpaa",
        True,
    ),
    "dtype": ({"training": {"bf16": True, "fp16": True}}, r"training.*fp16", True),
    "device": (
        {"source": {"device_map": "cuda:7"}},
        r"sources.a.device_map: 'cuda:7' does not work here",
        ON_CPU,
    ),
    "quantisation": (
        {"source": {"quantization": "4bit"}},
        r"sources.a: .*bitsandbytes",
        without("bitsandbytes"),
    ),
    "deepspeed": (
        {"sft": {"parallel": "deepspeed"}},
        r"parallel: deepspeed needs the package deepspeed",
        without("deepspeed"),
    ),
    "deepspeed's settings": (
        {"training": {"deepspeed": "gone.json"}, "sft": {"parallel": "deepspeed"}},
        r"training.deepspeed: 'gone.json' is no mapping, and no JSON file that can be read",
        True,
    ),
    "saving": (
        {"training": {"save_strategy": "sometimes"}},
        r"training: .*sometimes",
        True,
    ),
    "evaluation": (
        {
            "training": {
                "eval_strategy": "steps",
                "load_best_model_at_end": True,
                "save_strategy": "epoch",
            }
        },
        r"training: .*save and eval strategy to match",
        True,
    ),
    "schedule": (
        {"training": {"lr_scheduler_type": "warmup_stable_decay"}},
        r"sft.training.lr_scheduler_type: 'warmup_stable_decay' does not work here: .*decay",
        True,
    ),
    "LoRA targets": (
        {"sft": {"lora": {"target_modules": ["query"]}}},
        r"lora: no layer of the model is called 'query'",
        True,
    ),
    "data columns": (
        {"train": {"response": "answer"}},
        r"data.train.0: .*there is no field 'answer'.*Fields: prompt, response",
        True,
    ),
}


@pytest.fixture
def recipe_of(suite: Path, make_recipe: Callable[..., dict]) -> Callable[..., dict]:
    """A recipe of one source and plain fine-tuning, with these keys in its parts."""

    def make(
        training: dict | None = None,
        pivot: dict | None = None,
        source: dict | None = None,
        sft: dict | None = None,
        train: dict | None = None,
        distill: dict | None = None,
    ) -> dict:
        recipe = make_recipe(
            suite,
            pivot={"model": str(suite / "pivot"), **(pivot or {})},
            sources={"a": {"model": str(suite / "a"), **(source or {})}},
            fuse={"unified": {"function": "mean", "gate": "none"}},
            distill={"sft": sft or {}, **(distill or {})},
            merge={},
        )
        recipe["training"] = {**recipe["training"], **(training or {})}
        recipe["data"]["train"] = [{**recipe["data"]["train"][0], **(train or {})}]
        return recipe

    return make


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_recipe_is_refused_by_its_right_cause(
    kind: str, recipe_of: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And soon: on copies of a layer and a few tokens, once for every setting that is left out."""
    parts, cause, wrong_here = WRONG[kind]
    if not wrong_here:
        pytest.skip("right on this machine")
    tried: list[int] = []
    monkeypatch.setattr(trial, "train", counted(trial.train, tried, lambda job: job.model.model))
    monkeypatch.setattr(trial, "load_model", counted(trial.load_model, tried, lambda m: m.model))
    recipe = Recipe(**recipe_of(**parts))
    with pytest.raises(RecipeError, match=cause):
        check_recipe(recipe)
    settings = len(recipe.training) + 8  # and those of the models, and the loss
    assert len(tried) <= 2 * settings and all(size < 1_000_000 for size in tried)


def counted(function: Callable, tried: list[int], folder_of: Callable) -> Callable:
    """The function, which notes the bytes of every model that it is given."""

    def called(first, *rest, **keywords):
        folder = Path(folder_of(first))
        tried.append(sum(file.stat().st_size for file in folder.glob("*.safetensors")))
        return function(first, *rest, **keywords)

    return called


def test_every_fault_is_named_at_once(recipe_of: Callable[..., dict]) -> None:
    if not (without("bitsandbytes") and without("liger_kernel")):
        pytest.skip("the packages are here")
    recipe = recipe_of(
        training={"optim": "adamw_8bit", "use_liger_kernel": True, "weight_decay": 0.1},
        source={"attn_implementation": "nothing"},
    )
    with pytest.raises(RecipeError) as caught:
        check_recipe(Recipe(**recipe))
    for key in ("sft.training.optim", "sft.training.use_liger_kernel", "a.attn_implementation"):
        assert str(caught.value).count(key) == 1
    assert "weight_decay" not in str(caught.value)


def test_run_refuses_the_same_before_it_writes_anything(
    recipe_of: Callable[..., dict], tmp_path: Path
) -> None:
    recipe = recipe_of(training={"optim": "galore_adamw"})
    with pytest.raises(RecipeError, match="training.optim"):
        infifusion.run(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_loss_of_ones_own_is_tried(recipe_of, tmp_path, monkeypatch) -> None:
    code = (
        "from infifusion.strict import Strict\n"
        "class Params(Strict):\n    pass\n"
        "def broken(logits, rows, params):\n    raise ValueError('no such thing')\n"
    )
    (tmp_path / "own_loss.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = recipe_of(distill={"unified": {"target": "unified", "loss": "own_loss:broken"}})
    with pytest.raises(RecipeError, match="distill.unified.loss: .* ValueError: no such thing"):
        check_recipe(Recipe(**recipe))


def test_what_was_tried_is_said(recipe_of: Callable[..., dict]) -> None:
    said = check_recipe(Recipe(**recipe_of(sft={"lora": {"r": 2}})))
    assert "tried     pivot, a step of distill.sft, sources.a, on small copies" in said


def test_hub_data_that_cannot_be_looked_at_is_an_error_unless_one_says_offline(
    recipe_of: Callable[..., dict],
) -> None:
    recipe = Recipe(**recipe_of(train={"path": "no-such-org/no-data"}))
    with pytest.raises(RecipeError, match=r"data.train.0: .*`infifusion check --offline`"):
        check_recipe(recipe)
    said = check_recipe(recipe, offline=True)
    assert "no-such-org/no-data, not looked at" in said


def test_few_steps_are_said_in_check_and_in_plan(
    recipe_of: Callable[..., dict], tmp_path: Path
) -> None:
    from infifusion.estimate.plan import plan_recipe

    recipe = recipe_of(training={"max_steps": 4, "warmup_steps": 3})
    said = check_recipe(Recipe(**recipe))
    assert "WARNING   distill.sft: only 4 optimizer steps on" in said
    assert "WARNING   distill.sft: warmup_steps: 3 is 75 % of 4 steps" in said
    planned = plan_recipe(
        Recipe(**recipe), run_dir=tmp_path, device="cpu", count=1, nodes=1, given=None, shapes=[]
    )
    assert len(planned["advice"]) == 2 and json.dumps(planned["advice"])


def test_two_runs_that_take_the_same_step_are_tried_once(
    recipe_of: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    from infifusion.stages import check

    tried = []
    monkeypatch.setattr(check, "FINE", set())
    monkeypatch.setattr(check, "faults_of_run", lambda run, *_: tried.append(run.name) or [])
    check_recipe(Recipe(**recipe_of(distill={"again": {}, "other": {"lora": {"r": 2}}})))
    assert sorted(tried) == ["other", "sft"]


def test_data_of_the_wrong_columns_names_those_there_are(
    recipe_of: Callable[..., dict], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "x.jsonl", [{"question": "q", "answer": "a"}])
    recipe = recipe_of(train={"path": str(tmp_path / "x.jsonl"), "prompt": "prompt"})
    with pytest.raises(RecipeError, match="there is no field 'prompt'.*Fields: question, answer"):
        check_recipe(Recipe(**recipe))


@pytest.mark.parametrize("form", ["distribution", "policy_gradient"])
def test_a_run_on_its_own_text_is_tried_on_its_own_text(
    recipe_of: Callable[..., dict], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Answers are written, corrected and learnt; and what forbids that is named by its key."""
    from infifusion.stages import check
    from infifusion.train import rounds

    monkeypatch.setattr(check, "FINE", set())
    asked = []
    answers = rounds.answers
    monkeypatch.setattr(
        rounds, "answers", lambda model, rows, **k: asked.append(rows) or answers(model, rows, **k)
    )
    own = {"share": 0.5, "form": form, "max_new_tokens": 16}
    runs = {"own": {"target": "unified", "loss": "reverse_kl", "on_policy": own}}
    said = check_recipe(Recipe(**recipe_of(distill=runs)))
    assert "a step of distill.own" in said and "not tried" not in said
    assert asked and all(row.room == 2 for rows in asked for row in rows)

    def refused(*_: object, **__: object) -> None:
        raise ValueError("this model writes nothing")

    monkeypatch.setattr(check, "FINE", set())
    monkeypatch.setattr(rounds, "answers", refused)
    with pytest.raises(RecipeError, match="distill.own.on_policy: .*this model writes nothing"):
        check_recipe(Recipe(**recipe_of(distill=runs)))
