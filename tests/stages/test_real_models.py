"""Three published models, whole: what `check` says, which bytes their tokens stand for, what they
believed, and a target made of it. Against slow references: text decoded token by token, and a plain
forward pass."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, write_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer

import infifusion
from infifusion.data.store import load_rendered, load_target
from infifusion.recipe import Recipe
from infifusion.stages.check import check_recipe
from infifusion.teacher.cache import BeliefReader

pytestmark = pytest.mark.slow
MODELS = Path(os.environ.get("INFIFUSION_REAL_MODELS", SHARED / "models"))
"""The folder that ../shared/models/fetch.py wrote into."""
NAMES = {"pivot": "smollm2", "qwen": "qwen05", "gemma": "gemma3"}
OWN = {
    "question": "How do you say it in Japanese, with a smile?",
    "answer": "  déjà vu – naïve 日本語 🙂🏽\r\n\tfor k in range(10):\n        pass #### 1,234.50",
}


@dataclass(frozen=True)
class Made:
    """A run up to its target, and what was said before it."""

    folder: Path
    examples: list[dict]
    checked: str

    def rendered(self, name: str):
        return load_rendered(self.folder / "prepare" / "rendered" / f"{name}-train.safetensors")


@pytest.fixture(scope="module")
def made(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    absent = [name for name in NAMES.values() if not (MODELS / name / "config.json").is_file()]
    if absent:
        pytest.skip(
            f"{MODELS} lacks {', '.join(absent)}: run ../shared/models/fetch.py OUT "
            f"{' '.join(NAMES.values())} and set INFIFUSION_REAL_MODELS to OUT"
        )
    folder = tmp_path_factory.mktemp("real")
    lines = (shared / "data" / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    write_jsonl(folder / "train.jsonl", [*map(json.loads, lines), OWN])
    recipe = {
        "name": "real",
        "pivot": {"model": str(MODELS / NAMES["pivot"])},
        "sources": {name: {"model": str(MODELS / NAMES[name])} for name in ("qwen", "gemma")},
        "data": {
            "train": [
                {
                    "path": str(folder / "train.jsonl"),
                    "domain": "sums",
                    "prompt": "question",
                    "response": "answer",
                }
            ],
            "plain_template": "Q: {prompt}\nA: {response}",
        },
        "fuse": {"unified": {"gate": "none"}},
        "distill": {"unified": {"target": "unified"}},
    }
    checked = check_recipe(Recipe.model_validate(recipe))
    infifusion.run(recipe, folder / "out", until="fuse")
    examples = (folder / "out" / "prepare" / "train.jsonl").read_text(encoding="utf-8")
    return Made(folder / "out", [json.loads(line) for line in examples.splitlines()], checked)


def slow_starts(tokenizer, ids: list[int], first: int, response: str) -> list[tuple[int, int]]:
    """For every token from `first` on, the first and the last byte of the response at which it can
    start: what stands before it is decoded by itself, and may end within a character."""

    def decoded(tokens: list[int]) -> str:
        return tokenizer.decode(tokens, clean_up_tokenization_spaces=False)

    whole = decoded(ids)
    origin = len(whole[: whole.rindex(response)].encode())
    length = len(response.encode())
    found = []
    for place in range(first, len(ids)):
        before = decoded(ids[:place])
        cut = before.rstrip("\ufffd")
        assert whole.startswith(cut)
        low = len(cut.encode())
        inside = len(whole[len(cut) :][:1].encode()) - 1 if cut != before else 0
        at, latest = low - origin, low - origin + inside
        assert cut == before or inside > 0
        found.append((min(at, length), min(latest, length)))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_real_models_start_at_the_bytes_where_decoding_says(
    made: Made, name: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / NAMES[name])
    rendered = made.rendered(name)
    assert len(rendered) == len(made.examples) == 5
    exact = 0
    for n, example in enumerate(made.examples):
        ids = rendered.ids_L[rendered.offset_N1[n] : rendered.offset_N1[n + 1]].tolist()
        starts = rendered.start_R[rendered.row_N1[n] : rendered.row_N1[n + 1]].tolist()
        response = example["response"]
        wanted = slow_starts(tokenizer, ids, int(rendered.first_N[n]), response.strip())
        stripped = len(response.encode()) - len(response.lstrip().encode())
        assert len(starts) == len(wanted)
        for start, (low, high) in zip(starts, wanted, strict=True):
            assert low + stripped <= start <= high + stripped
            exact += low == high
    assert exact > 250  # nearly all tokens end where a character does


@pytest.mark.parametrize("name", ["pivot", "qwen"])
def test_real_chat_models_are_trained_on_the_prompt_that_is_asked(made: Made, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / NAMES[name])
    rendered = made.rendered(name)
    for n, example in enumerate(made.examples):
        begin = rendered.offset_N1[n]
        ids = rendered.ids_L[begin : begin + rendered.first_N[n]].tolist()
        asked = tokenizer.apply_chat_template(example["prompt"], add_generation_prompt=True)
        assert ids == asked["input_ids"]
        assert rendered.ids_L[rendered.offset_N1[n + 1] - 1] == tokenizer.eos_token_id


def test_a_real_base_model_has_the_plain_template_its_beginning_and_its_end(made: Made) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / NAMES["gemma"])
    rendered = made.rendered("gemma")
    for n, example in enumerate(made.examples):
        ids = rendered.ids_L[rendered.offset_N1[n] : rendered.offset_N1[n + 1]].tolist()
        text = f"Q: {example['prompt'][0]['content']}\nA: {example['response']}"
        assert ids == [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    assert "sources.gemma has no chat template" in made.checked


def test_the_cache_of_a_real_model_holds_what_a_plain_forward_pass_gives(made: Made) -> None:
    model = AutoModelForCausalLM.from_pretrained(MODELS / NAMES["gemma"], dtype=torch.float32)
    rendered = made.rendered("gemma")
    reader = BeliefReader(
        made.folder / "teach" / "gemma", rendered.row_N1, 512, vocabulary=model.config.vocab_size
    )
    for n in range(len(rendered)):
        beliefs = reader.examples(n, n + 1)
        ids = rendered.ids_L[rendered.offset_N1[n] : rendered.offset_N1[n + 1]].astype(np.int64)
        first = int(rendered.first_N[n])
        with torch.inference_mode():
            logits_LV = model(torch.from_numpy(ids)[None]).logits[0, first - 1 : -1]
        log_LV = logits_LV.double().log_softmax(-1)
        gold_L = log_LV.gather(1, torch.from_numpy(ids[first:])[:, None])[:, 0].numpy()
        entropy_L = -(log_LV.exp() * log_LV).sum(-1).numpy()
        best_LK, _ = log_LV.topk(10)
        # float32 of another batch shape: sums in another order, over a vocabulary of 262,144.
        np.testing.assert_allclose(beliefs.gold_U, gold_L, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(beliefs.entropy_U, entropy_L, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(beliefs.logprob_UK, best_LK.numpy(), rtol=1e-2, atol=1e-2)


def test_a_target_of_real_models_teaches_every_position(made: Made) -> None:
    target, rendered = load_target(made.folder / "fuse" / "unified"), made.rendered("pivot")
    assert len(target.taught_T) == rendered.row_N1[-1] and target.taught_T.mean() > 0.95
    weight_T = target.weight_ST.astype(np.float64).sum(0)
    np.testing.assert_allclose(weight_T[target.taught_T], 1, atol=1e-3)
    assert target.prob_TK.astype(np.float64).sum(1).max() < 1 + 1e-3
    counts = json.loads((made.folder / "fuse" / "unified" / "manifest.json").read_text())["counts"]
    assert min(source["aligned_share"] for source in counts["sources"].values()) > 0.9
