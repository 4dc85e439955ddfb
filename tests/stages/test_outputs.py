"""What a run or a merge leaves is a plain Hugging Face folder that other programs take."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import infifusion
from infifusion.api import Run
from infifusion.recipe import Recipe

CHAT = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WANTED = {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "infifusion_recipe.yaml",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
TASK = {
    "task": "tiny_sums",
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_choice": ["5", "7"],
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc"}],
}


@pytest.fixture(scope="module")
def made(suite: Path, make_recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one distilled pivot per source and their merge; the pivot has a chat template."""
    folder = tmp_path_factory.mktemp("run")
    values = make_recipe(suite, evaluate={"models": ["pairwise"]})
    values["fuse"].pop("unified")
    values["distill"] = {"pair": values["distill"]["pair"]}
    values["pivot"]["chat_template"] = CHAT
    return infifusion.run(values, folder / "run")


@pytest.mark.slow
def test_distilled_and_merged_models_are_whole_folders(made: Run) -> None:
    assert list(made.models) == ["pair-a", "pair-b", "pair-c", "pairwise"]
    for name, folder in made.models.items():
        assert {path.name for path in folder.iterdir()} >= WANTED, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pair-a", "pairwise"])
def test_a_model_loads_and_generates_with_its_chat_template(name: str, made: Run) -> None:
    folder = made.models[name]
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Ben has 5"}], add_generation_prompt=True, tokenize=False
    )
    assert asked == "<user>Ben has 5<assistant>"
    ids = tokenizer(asked, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert out.shape == (1, ids["input_ids"].shape[1] + 3)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == 0
    assert model.config.vocab_size == model.get_output_embeddings().weight.shape[0]


@pytest.mark.slow
def test_the_card_has_the_scores_and_the_recipe_beside_it_runs(made: Run) -> None:
    folder = made.models["pairwise"]
    data = ModelCard.load(folder / "README.md").data
    (result,) = data.eval_results
    bits = made.summary["models"]["pairwise"]["bits_per_byte"]["sums"]
    assert (result.metric_type, result.metric_value) == ("bits_per_byte", pytest.approx(bits))
    assert {"merge", "rsaf"} <= set(data.tags)
    text = (folder / "infifusion_recipe.yaml").read_text(encoding="utf-8")
    assert str(folder.parents[3]) not in text
    recipe = Recipe.from_mapping(yaml.safe_load(text), where="the recipe")
    assert list(recipe.merge) == ["pairwise"] and recipe.pivot.model == "pivot"


@pytest.mark.slow
def test_lm_eval_takes_the_folder_as_it_is(made: Run, tmp_path: Path) -> None:
    records = [{"question": f"{a}+{b}=", "answer": 0} for a, b in ((2, 3), (1, 4), (3, 2))]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    task = {**TASK, "dataset_kwargs": {"data_files": {"test": str(tmp_path / "sums.jsonl")}}}
    (tmp_path / "tiny_sums.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={made.models['pairwise']},dtype=float32"]
    command += ["--tasks", "tiny_sums", "--include_path", str(tmp_path), "--batch_size", "1"]
    found = subprocess.run(
        [*command, "--output_path", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    (file,) = (tmp_path / "out").rglob("results_*.json")
    accuracy = json.loads(file.read_text())["results"]["tiny_sums"]["acc,none"]
    model = AutoModelForCausalLM.from_pretrained(made.models["pairwise"])
    tokenizer = AutoTokenizer.from_pretrained(made.models["pairwise"])
    # lm-eval puts a blank between question and choice.
    right = [_score(model, tokenizer, r["question"], " 5") for r in records]
    wrong = [_score(model, tokenizer, r["question"], " 7") for r in records]
    better = [a > b for a, b in zip(right, wrong, strict=True)]
    assert accuracy == pytest.approx(sum(better) / 3)


def _score(model, tokenizer, prompt: str, choice: str) -> float:
    """Log-probability of the choice after the prompt."""
    asked, whole = (tokenizer(text).input_ids for text in (prompt, prompt + choice))
    with torch.no_grad():
        log_LV = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(log_LV[n - 1, whole[n]]) for n in range(len(asked), len(whole)))


@pytest.mark.slow
def test_a_pivot_with_several_chat_templates_keeps_them_all(
    suite: Path, make_recipe, tmp_path: Path
) -> None:
    pivot = tmp_path / "pivot"
    shutil.copytree(suite / "pivot", pivot)
    tokenizer = AutoTokenizer.from_pretrained(pivot)
    tokenizer.chat_template = {"default": CHAT, "tool_use": "{{ tools }}" + CHAT}
    tokenizer.save_pretrained(pivot)
    values = make_recipe(suite, pivot={"model": str(pivot)}, distill={"sft": {}})
    values = {**values, "merge": {}, "fuse": {}, "training": {"max_steps": 1}}
    infifusion.run(values, tmp_path / "run", until="distill")
    made = tmp_path / "run/distill/sft/model"
    found = AutoTokenizer.from_pretrained(made).chat_template
    assert found == tokenizer.chat_template
    files = json.loads((made.parent / "manifest.json").read_text())["files"]
    assert "model/additional_chat_templates/tool_use.jinja" in files
