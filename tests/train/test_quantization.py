"""Quantised weights; what needs bitsandbytes is skipped where it is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import byte_level_tokenizer
from test_training import VOCABULARY, job
from transformers import AutoModelForCausalLM, Qwen2Config

from infifusion.errors import RecipeError
from infifusion.recipe import Lora, Model, Recipe
from infifusion.teacher.load import load_model
from infifusion.train.run import train

INSTALLED = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is not installed")


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A pivot with its tokenizer, as wide as bitsandbytes' blocks of 64 ask."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        bos_token_id=None,
        eos_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "start")
    byte_level_tokenizer(VOCABULARY).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def test_all_weights_of_a_quantised_pivot_cannot_be_trained(suite: Path, make_recipe) -> None:
    values = make_recipe(suite)
    values["pivot"]["quantization"] = "4bit"
    with pytest.raises(RecipeError, match="distill.sft: all weights cannot be trained while"):
        Recipe.from_mapping(values, where="recipe")
    for run in values["distill"].values():
        run["lora"] = {"r": 2}
    assert Recipe.from_mapping(values, where="recipe").pivot.quantization == "4bit"


def test_adapters_cannot_be_sharded(suite: Path, make_recipe) -> None:
    values = make_recipe(suite)
    values["distill"]["sft"] = {"lora": {"r": 2}, "parallel": "fsdp"}
    with pytest.raises(RecipeError, match="distill.sft: lora needs parallel: ddp; found fsdp"):
        Recipe.from_mapping(values, where="recipe")


@pytest.mark.skipif(INSTALLED, reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_error_says_what_to_install(start: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="pip install bitsandbytes"):
        load_model(Model(model=str(start), quantization="8bit"))
    with pytest.raises(RecipeError, match="pip install bitsandbytes"):
        train(
            job(start, lora=Lora(r=2), model=Model(model=str(start), quantization="4bit")),
            tmp_path / "out",
            name_of=str,
        )


@needs_bitsandbytes
@pytest.mark.parametrize(("bits", "error"), [("4bit", 0.5), ("8bit", 0.1)])
def test_a_quantised_source_believes_nearly_what_the_whole_one_does(start, bits, error) -> None:
    quantised = load_model(Model(model=str(start), quantization=bits))
    plain = load_model(Model(model=str(start)))
    ids = torch.arange(1, 13)[None]
    with torch.inference_mode():
        found, expected = quantised(ids).logits, plain(ids).logits
    linear = quantised.model.layers[0].mlp.up_proj.weight
    assert linear.dtype in (torch.uint8, torch.int8)
    difference = (found - expected).abs().mean() / expected.abs().mean()
    assert 0 < difference < error


@needs_bitsandbytes
def test_adapters_on_quantised_weights_end_in_a_whole_unquantised_model(start, tmp_path) -> None:
    history = train(
        job(start, lora=Lora(r=2, alpha=8), model=Model(model=str(start), quantization="4bit")),
        tmp_path / "out",
        name_of=str,
    )
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model").state_dict()
    before = AutoModelForCausalLM.from_pretrained(start).state_dict()
    assert found.keys() == before.keys()
    changed = {name for name in found if not torch.equal(found[name], before[name])}
    # Adapters alone: what was quantised comes back as it was, and every change has rank 2.
    assert changed and all("proj" in name for name in changed)
    for name in changed:
        difference = (found[name] - before[name]).double().numpy()
        assert np.linalg.matrix_rank(difference, tol=1e-3 * np.abs(difference).max()) <= 2
    assert history["log"][-1]["loss"] > 0
