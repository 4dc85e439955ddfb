"""Any task of lm-eval by name: its items, our intervals and pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import infifusion
from infifusion.errors import DataError, RecipeError
from infifusion.evals.harness import read_items
from infifusion.recipe import Recipe

CHOICE = """
task: tiny_choice
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{test: {folder}/items.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Q: {{{{question}}}} A:"
doc_to_target: "{{{{right}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
WRITTEN = """
task: tiny_written
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{test: {folder}/items.jsonl}}}}
test_split: test
output_type: generate_until
generation_kwargs: {{until: "Q:", max_gen_toks: 4}}
doc_to_text: "Q: {{{{question}}}} A:"
doc_to_target: "{{{{right}}}}"
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with two tasks of a user's own, and twelve items."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    items = [
        {"question": f"{n} coins?", "choices": ["1 coin", "2 coins", "3"], "right": n % 3}
        for n in range(12)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "tiny_choice.yaml").write_text(CHOICE.format(folder=folder))
    (folder / "tiny_written.yaml").write_text(WRITTEN.format(folder=folder, metric="exact_match"))
    text = WRITTEN.format(folder=folder, metric="word_perplexity")
    text = text.replace("generate_until", "loglikelihood_rolling").replace("written", "text")
    text = text.replace("aggregation: mean", "aggregation: weighted_perplexity")
    (folder / "tiny_text.yaml").write_text(text.replace("Q: {{question}} A:", ""))
    return folder


def test_a_task_of_lm_eval_is_scored_with_our_intervals_and_pairs(
    suite: Path, tasks: Path, tmp_path: Path
) -> None:
    names = ["lm_eval:tiny_choice", "lm_eval:tiny_written"]
    found = infifusion.evaluate(
        [str(suite / "pivot"), str(suite / "c")], names, data=tasks, out=tmp_path / "out"
    )
    score = found["models"]["pivot"]["scores"]["lm_eval:tiny_choice"]
    items = read_items(tmp_path / "out/pivot/lm_eval:tiny_choice.jsonl")
    assert score["n"] == len(items) == 12 and score["headline"] == "acc"
    right = sum(item["correct"] for item in items)
    assert score["accuracy"] == right / 12 == pytest.approx(score["lm_eval"]["acc,none"])
    low, high = score["ci95"]
    assert low <= right / 12 <= high and 0 < high - low < 1
    assert set(score["metrics"]) == {"acc", "acc_norm"}
    assert {pair["task"] for pair in found["comparisons"]} == set(names)
    assert all(0 <= pair["p_value"] <= 1 for pair in found["comparisons"])
    written = found["models"]["pivot"]["scores"]["lm_eval:tiny_written"]
    assert written["headline"] == "exact_match" and written["n"] == 12
    assert items[0]["prompt"].startswith("Q: 0 coins? A:") or "Q: 0 coins?" in items[0]["prompt"]


def test_a_choice_is_judged_by_the_models_own_likelihoods(
    suite: Path, tasks: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    infifusion.evaluate(str(suite / "pivot"), "lm_eval:tiny_choice", data=tasks, out=tmp_path / "o")
    items = read_items(tmp_path / "o/pivot/lm_eval:tiny_choice.jsonl")
    model = AutoModelForCausalLM.from_pretrained(suite / "pivot").eval()
    tokenizer = AutoTokenizer.from_pretrained(suite / "pivot")
    for n, item in enumerate(items[:4]):
        prompt = tokenizer(f"Q: {n} coins? A:").input_ids
        sums = []
        for choice in ("1 coin", "2 coins", "3"):
            whole = tokenizer(f"Q: {n} coins? A: {choice}").input_ids
            with torch.no_grad():
                log = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            places = range(len(prompt), len(whole))
            sums.append(sum(float(log[p - 1, whole[p]]) for p in places))
        assert item["correct"] == (max(range(3), key=sums.__getitem__) == n % 3)


def test_a_limit_draws_the_same_items_for_every_model(
    suite: Path, tasks: Path, tmp_path: Path
) -> None:
    infifusion.evaluate(
        [str(suite / "pivot"), str(suite / "c")], "lm_eval:tiny_choice", data=tasks, limit=5,
        out=tmp_path / "out",
    )  # fmt: skip
    ids = [
        [item["id"] for item in read_items(tmp_path / f"out/{name}/lm_eval:tiny_choice.jsonl")]
        for name in ("pivot", "c")
    ]
    assert ids[0] == ids[1] and len(ids[0]) == 5


def test_what_lm_eval_does_not_have_or_cannot_count_is_refused(
    suite: Path, tasks: Path, make_recipe
) -> None:
    model = str(suite / "pivot")
    with pytest.raises(RecipeError, match="no task 'arc_esay'. Did you mean 'arc_easy'"):
        infifusion.evaluate(model, "lm_eval:arc_esay", data=tasks)
    with pytest.raises(RecipeError, match="`samples` and `temperature` have no effect there"):
        infifusion.evaluate(model, "lm_eval:tiny_choice", data=tasks, samples=2, temperature=1.0)
    with pytest.raises(DataError, match="its first metric, word_perplexity, is .* right or wrong"):
        infifusion.evaluate(model, "lm_eval:tiny_text", data=tasks)
    from infifusion.stages.check import check_recipe

    recipe = make_recipe(suite, evaluate={"tasks": ["lm_eval:nothing_such"], "data": str(tasks)})
    with pytest.raises(RecipeError, match="evaluate.tasks: lm-eval .* has no task 'nothing_such'"):
        check_recipe(Recipe(**recipe))


def test_a_recipe_scores_it_beside_bits_per_byte(
    suite: Path, tasks: Path, make_recipe, tmp_path: Path
) -> None:
    recipe = make_recipe(
        suite,
        sources={"a": {"model": str(suite / "a")}},
        fuse={}, distill={"sft": {}}, merge={},
        evaluate={"tasks": ["lm_eval:tiny_choice"], "data": str(tasks), "models": ["pivot", "sft"]},
    )  # fmt: skip
    made = infifusion.run(recipe, tmp_path / "r")
    scores = made.summary["models"]["sft"]["scores"]["lm_eval:tiny_choice"]
    assert scores["n"] == 12
    assert "lm_eval:tiny_choice" in made.report.read_text(encoding="utf-8")
