"""Small copies: of the kind of the model, with its attention, and quick."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from infifusion.errors import CheckpointError
from infifusion.recipe import Model
from infifusion.teacher.small import INNER, TOKENS, shrunk, small_copy
from infifusion.train.trial import faults_of_model

SIZES = {"vocab_size": 50_000, "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4}
KINDS = {
    "llama": {"intermediate_size": 5000, "num_key_value_heads": 2},
    "gpt2": {"n_inner": 4000},
    "qwen2": {"intermediate_size": 5000, "num_key_value_heads": 2},
    "qwen3": {"intermediate_size": 5000, "num_key_value_heads": 2, "head_dim": 16},
    "gemma2": {"intermediate_size": 5000, "num_key_value_heads": 2, "head_dim": 16},
    "gemma3_text": {"intermediate_size": 5000, "num_key_value_heads": 2, "head_dim": 16},
    "mistral": {"intermediate_size": 5000, "num_key_value_heads": 2},
    "phi3": {"intermediate_size": 5000, "num_key_value_heads": 2, "pad_token_id": 32000},
    "mixtral": {"intermediate_size": 500, "num_local_experts": 64, "num_key_value_heads": 2},
    "qwen3_moe": {
        "moe_intermediate_size": 500,
        "num_experts": 64,
        "num_experts_per_tok": 10,
        "num_key_value_heads": 2,
    },
    "gpt_oss": {
        "intermediate_size": 500,
        "num_local_experts": 32,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
    "gpt_neox": {"intermediate_size": 5000},
    "olmo2": {"intermediate_size": 5000, "num_key_value_heads": 2},
    "granite": {"intermediate_size": 5000, "num_key_value_heads": 2},
    "cohere": {"intermediate_size": 5000, "num_key_value_heads": 2},
    "falcon": {"ffn_hidden_size": 128, "alibi": False},
    "mamba": {},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_copy_is_small_and_runs_as_the_model_would(kind: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(kind, **{**SIZES, **KINDS[kind]})
    config.architectures = [type(AutoModelForCausalLM.from_config(shrunk(config))).__name__]
    config.save_pretrained(tmp_path / "whole")
    model = Model(model=str(tmp_path / "whole"))
    small = small_copy(model, tmp_path / "small")
    text = AutoConfig.from_pretrained(small.model).get_text_config()
    assert text.vocab_size <= TOKENS and text.num_hidden_layers <= 2
    assert text.hidden_size == config.get_text_config().hidden_size
    made = AutoModelForCausalLM.from_pretrained(small.model)
    assert sum(p.numel() for p in made.parameters()) < 2_000_000
    assert faults_of_model(model, small) == []


def test_a_layer_of_each_kind_is_kept() -> None:
    config = AutoConfig.for_model("gemma3_text", **SIZES, head_dim=16)
    kinds = set(config.layer_types)
    assert len(kinds) == 2
    small = shrunk(config)
    assert set(small.layer_types) == kinds and small.num_hidden_layers == 2
    assert config.num_hidden_layers == 6, "the model's own config is left alone"
    assert small.intermediate_size == INNER


def test_making_a_copy_leaves_random_numbers_alone(suite: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    small_copy(Model(model=str(suite / "pivot")), tmp_path / "small")
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)


def test_what_no_copy_can_be_made_of_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="no small copy of .* could be made to try it"):
        small_copy(Model(model=str(tmp_path)), tmp_path / "small")


def test_a_copy_that_does_not_run_by_itself_blames_no_setting(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infifusion.train import trial

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("whatever the copy lacks")

    monkeypatch.setattr(trial, "check_head", broken)
    model = Model(model=str(suite / "pivot"), attn_implementation="eager")
    small = small_copy(model, tmp_path / "small")
    with pytest.raises(trial.CopyFails, match="RuntimeError: whatever the copy lacks"):
        trial.faults_of_model(model, small)


def test_words_that_change_from_attempt_to_attempt_blame_nobody() -> None:
    import tempfile

    from infifusion.train.trial import _faults

    def attempt(settings: dict) -> None:
        if settings.get("b"):
            with tempfile.TemporaryDirectory() as folder:
                raise OSError(f"no file {folder}/x at {object()!r}")

    (found,) = _faults({"a": 1, "b": 2, "c": 3}, attempt)
    assert found.key == "b" and "no file ... at <object object at ...>" in found.said
