"""A batch that does not fit: halved once and said, or the setting named. The error is torch's own:
the models ask for more memory than any machine has when a batch is too large."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from conftest import write_jsonl

from infifusion.errors import RunError
from infifusion.process.memory import BatchSize, ran_out
from infifusion.recipe import Recipe, load_recipe
from infifusion.stages import teach as teaching
from infifusion.stages.distill import distill
from infifusion.stages.evaluate import evaluate
from infifusion.stages.prepare import prepare
from infifusion.stages.respond import respond
from infifusion.stages.teach import teach
from infifusion.store.folders import RunFolder
from infifusion.store.records import read_json
from infifusion.teacher import answer, load
from infifusion.train import run as training

MORE_THAN_THERE_IS = 1 << 55  # bytes


def refuse(*_: object) -> None:
    torch.empty(MORE_THAN_THERE_IS, dtype=torch.uint8)


def limited(real: Callable, most: int, size: Callable[[torch.Tensor], int]) -> Callable:
    """The function that loads a model, whose models take batches of at most `most`."""

    def loads(*given: object, **named: object):
        model = real(*given, **named)

        def look(module: object, args: tuple, kwargs: dict) -> None:
            ids = kwargs.get("input_ids", args[0] if args else None)
            if ids is not None and size(ids) > most:
                refuse()

        model.base_model.register_forward_pre_hook(look, with_kwargs=True)
        return model

    return loads


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged."""
    logger = logging.getLogger("infifusion")
    before, logger.propagate = logger.propagate, True
    yield caplog
    logger.propagate = before


@pytest.fixture
def small(suite: Path, make_recipe: Callable[..., dict], tmp_path: Path) -> Callable[..., Recipe]:
    """Makes a recipe in a file; keywords replace whole keys."""

    def made(**changes: object) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(make_recipe(suite, **changes)), encoding="utf-8")
        return load_recipe(path)

    return made


def prepared(recipe: Recipe, place: Path) -> RunFolder:
    folder = RunFolder(place)
    prepare(recipe, folder)
    return folder


def files(place: Path, pattern: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.glob(pattern))}


def test_torchs_own_errors_are_known_and_others_are_not() -> None:
    with pytest.raises(RuntimeError) as caught:
        refuse()
    assert ran_out(caught.value)
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert ran_out(MemoryError())
    assert not ran_out(RuntimeError("shapes do not fit")) and not ran_out(ValueError("memory"))


def test_a_batch_size_is_halved_once(said: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []

    def work(size: int) -> str:
        tried.append(size)
        if size > 8:
            refuse()
        return f"done with {size}"

    batch = BatchSize(16, setting="teach.batch_tokens", less="x")
    assert [batch.fit(work), batch.fit(work)] == ["done with 8"] * 2
    assert tried == [16, 8, 8] and batch.halved
    assert "teach.batch_tokens: 16 does not fit into memory; going on with 8" in said.text
    with pytest.raises(RunError, match=r"teach\.batch_tokens 40 and 20 did not fit\. Set a smal"):
        BatchSize(40, setting="teach.batch_tokens", less="x").fit(work)
    with pytest.raises(ValueError, match="other"):
        BatchSize(8, setting="x", less="x").fit(lambda _: int("other"))


def test_a_teacher_pass_halves_its_tokens_and_says_so(
    small: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: pytest.LogCaptureFixture,
) -> None:
    whole, half = (
        small(teach={"top_k": 5, "shard_examples": 16, "batch_tokens": tokens})
        for tokens in (400, 200)
    )
    folder = prepared(half, tmp_path / "half")
    shutil.copytree(folder.root, tmp_path / "whole")
    teach(half, folder, "a")
    limit = limited(teaching.load_model, 250, torch.Tensor.numel)
    monkeypatch.setattr(teaching, "load_model", limit)
    other = RunFolder(tmp_path / "whole")
    teach(whole, other, "a")
    # The very cache that the recipe with half as many tokens makes.
    made = files(other.teach("a"), "*.safetensors")
    assert len(made) == 3 and made == files(folder.teach("a"), "*.safetensors")
    assert said.text.count("teach.batch_tokens: 400 does not fit") == 1
    # Half is too much as well: refused by name, and the pass goes on with a smaller setting.
    huge = small(teach={"top_k": 5, "shard_examples": 16, "batch_tokens": 1600})
    with pytest.raises(RunError, match=r"teach\.batch_tokens 1600 and 800 did not fit"):
        teach(huge, other, "b")
    teach(half, other, "b")


def test_answers_are_those_of_a_recipe_with_half_the_batch_size(
    suite: Path,
    small: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: pytest.LogCaptureFixture,
) -> None:
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"Ben has {n}"} for n in range(9)])
    asked = {
        "prompts": [{"path": str(tmp_path / "prompts.jsonl"), "domain": "sums"}],
        "max_new_tokens": 5,
        "samples": 2,
        "temperature": 1.0,
        "shard_prompts": 5,
    }
    six, three = (
        small(
            write_responses={**asked, "batch_size": size},
            data=plain(suite),
            teach={"batch_tokens": 60},
        )
        for size in (6, 3)
    )
    respond(three, RunFolder(tmp_path / "three"), "a")
    most = limited(answer.load_model, 6, len)  # three prompts, two samples each
    monkeypatch.setattr(answer, "load_model", most)
    respond(six, RunFolder(tmp_path / "six"), "a")
    assert "write_responses.batch_size: 6 does not fit" in said.text
    pairs = [files(tmp_path / name / "respond/a", "*.jsonl") for name in ("six", "three")]
    assert len(pairs[0]) == 2 and pairs[0] == pairs[1]


def plain(suite: Path) -> dict:
    return {
        "train": [{"path": str(suite / "train.jsonl"), "domain": "sums"}],
        "plain_template": "{prompt}{response}",
        "max_length": 128,
    }


def test_an_evaluation_halves_its_batches_and_gives_the_same_answers(
    small: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "tasks").mkdir()
    items = [
        {"id": f"i{n}", "prompt": "Ben " * (1 + n % 3) + str(n), "response": "1", "answer": "1"}
        for n in range(7)
    ]
    write_jsonl(tmp_path / "tasks/demo_word.jsonl", items)
    recipe = small(
        evaluate={
            "tasks": ["demo_word"],
            "tasks_from": "infifusion.demo.tasks:TASKS",
            "data": str(tmp_path / "tasks"),
            "max_new_tokens": 4,
            "batch_size": 6,
        }
    )
    folder = prepared(recipe, tmp_path / "run")
    shutil.copytree(folder.root, tmp_path / "limited")
    evaluate(recipe, folder, "source:a", recipe.resolve())
    other = RunFolder(tmp_path / "limited")
    monkeypatch.setattr(load, "load_model", limited(load.load_model, 3, len))
    evaluate(recipe, other, "source:a", recipe.resolve())
    assert said.text.count("evaluate.batch_size: 6 does not fit into memory; going on with 3") == 1
    whole, made = (f.evaluate("source:a") for f in (folder, other))
    assert (made / "demo_word.jsonl").read_bytes() == (whole / "demo_word.jsonl").read_bytes()
    assert read_json(made / "scores.json")["scores"] == read_json(whole / "scores.json")["scores"]


def test_bits_per_byte_fit_too(
    small: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: pytest.LogCaptureFixture,
) -> None:
    from infifusion.teacher import bits

    recipe = small()
    folder = prepared(recipe, tmp_path / "run")
    monkeypatch.setattr(bits, "BATCH_TOKENS", 200)
    shutil.copytree(folder.root, tmp_path / "limited")
    evaluate(recipe, folder, "pivot", recipe.resolve())
    monkeypatch.setattr(bits, "BATCH_TOKENS", 400)
    monkeypatch.setattr(bits, "load_model", limited(bits.load_model, 250, torch.Tensor.numel))
    evaluate(recipe, RunFolder(tmp_path / "limited"), "pivot", recipe.resolve())
    assert "bits per byte): 400 does not fit into memory; going on with 200" in said.text
    found = [read_json(tmp_path / n / "evaluate/pivot/scores.json") for n in ("run", "limited")]
    assert found[0]["bits_per_byte"] == found[1]["bits_per_byte"]


@pytest.mark.parametrize(
    ("changes", "advice", "silent"),
    [
        (
            {},
            [
                "per_device_train_batch_size 4 -> 2 with gradient_accumulation_steps 1 -> 2",
                "gradient_checkpointing: true",
                "loss_rows 256 -> 128",
                "lora:",
                "--redo",
            ],
            ["quantization"],
        ),
        (
            {"lora": {"r": 4}, "loss_rows": 16, "training": {"per_device_train_batch_size": 1}},
            ["gradient_checkpointing", "quantization: 4bit"],
            ["per_device_train_batch_size", "loss_rows", "lora:"],
        ),
    ],
)
def test_training_says_which_setting_to_change(
    small: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict,
    advice: list[str],
    silent: list[str],
) -> None:
    recipe = small(distill={"sft": changes}, fuse={}, merge={})
    folder = prepared(recipe, tmp_path / "run")
    monkeypatch.setattr(training, "load_start", limited(training.load_start, 0, len))
    with pytest.raises(RunError, match="distill sft: the memory of cpu does not suffice") as caught:
        distill(recipe, folder, recipe.resolve().runs[0])
    for part in advice:
        assert part in str(caught.value)
    for part in silent:
        assert part not in str(caught.value)


def test_a_model_that_does_not_fit_is_no_damaged_model(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    from infifusion.recipe import Model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: refuse())
    with pytest.raises(RunError, match=r"Memory does not suffice for the weights .*quantization"):
        load.load_model(Model(model=str(suite / "a")))
