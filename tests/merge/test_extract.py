"""An adapter made of the difference between two models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from made import SMALL, WEIGHTS, copied, loaded, logits, made, merged
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3MoeConfig
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.engine.extract import cut


def extracted(folder, rank, *, out="adapter", base="base", tuned="tuned"):
    names = [str(folder / name) for name in (base, tuned, out)]
    found = CliRunner().invoke(
        cli.app, ["extract-lora", *names, "--rank", str(rank), "--json"], catch_exceptions=False
    )
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout.strip().rpartition("\n")[2])


def with_adapter(folder):
    """The base with the adapter, as PEFT loads it, every tensor in its place."""
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    adapted = PeftModel.from_pretrained(model, folder / "adapter").eval()
    again = adapted.load_adapter(folder / "adapter", "default")
    assert not again.unexpected_keys and not [k for k in again.missing_keys if "default" in k]
    return adapted


CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "biases": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "gpt2": GPT2Config(vocab_size=100, n_embd=24, n_layer=2, n_head=3),
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.filterwarnings("ignore")
def test_at_full_rank_the_adapter_is_the_tuned_model(tmp_path, kind):
    """With norms, biases, embedding and head, in PEFT and in a merge."""
    made(tmp_path / "base", CONFIGS[kind])
    tuned = made(tmp_path / "tuned", CONFIGS[kind], seed=1)
    details = extracted(tmp_path, 100)
    assert details["error"] < 1e-3 and details["left_out"] == []
    torch.testing.assert_close(logits(with_adapter(tmp_path)), logits(tuned), rtol=1e-3, atol=1e-4)
    out = merged(tmp_path, merge_method="passthrough", models=[{"model": "base+adapter"}])
    torch.testing.assert_close(logits(loaded(out)), logits(tuned), rtol=1e-3, atol=1e-4)


def test_the_error_is_that_of_the_best_cut_and_is_told(tmp_path):
    """Against the singular values: sqrt(sum of squares beyond the rank / sum of all)."""
    made(tmp_path / "base", CONFIGS["llama"])
    made(tmp_path / "tuned", CONFIGS["llama"], seed=1)
    details = extracted(tmp_path, 4)
    base, tuned = (load_file(tmp_path / name / WEIGHTS) for name in ("base", "tuned"))
    assert len(details["tensors"]) == 4 * 7 + 2
    for one in details["tensors"]:
        values = torch.linalg.svdvals(tuned[one["name"]] - base[one["name"]]).square()
        assert one["error"] == pytest.approx(float((values[4:].sum() / values.sum()).sqrt()), 1e-3)


def test_a_change_of_low_rank_is_found_again(tmp_path):
    made(tmp_path / "base", CONFIGS["llama"])
    drawn = torch.Generator().manual_seed(0)
    name = "model.layers.1.mlp.up_proj.weight"
    change = torch.randn(48, 3, generator=drawn) @ torch.randn(3, 32, generator=drawn)
    copied(tmp_path / "base", "tuned", tensors=lambda all_: all_ | {name: all_[name] + change})
    assert extracted(tmp_path, 3)["error"] < 1e-3
    values = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {key.split(".lora_")[0] for key in values} == {
        "base_model.model.model.layers.1.mlp.up_proj"
    }
    left, right = (next(v for k, v in values.items() if f"lora_{m}." in k) for m in "BA")
    torch.testing.assert_close(left @ right, change, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (150, 150)])
def test_the_random_search_is_within_a_hundredth_of_the_best(shape):
    """Singular values that fall like 1 / n, as those of fine-tunes do not even."""
    drawn = np.random.default_rng(0)
    left, _ = np.linalg.qr(drawn.standard_normal((shape[0], min(shape))))
    right, _ = np.linalg.qr(drawn.standard_normal((shape[1], min(shape))))
    values = 1 / np.arange(1, min(shape) + 1)
    matrix = ((left * values) @ right.T).astype(np.float32)
    a, b = cut(matrix, 16, seed=1)
    assert np.allclose(a @ a.T, np.eye(16), atol=1e-5)
    best = np.sqrt((values[16:] ** 2).sum())
    assert np.linalg.norm(matrix - b @ a) <= 1.01 * best
    again = cut(matrix, 16, seed=1)
    assert np.array_equal(a, again[0]) and np.array_equal(b, again[1])


def test_experts_in_one_tensor_are_left_out_and_named(tmp_path):
    config = Qwen3MoeConfig(**SMALL, num_experts=4, moe_intermediate_size=16, num_experts_per_tok=2)
    made(tmp_path / "base", config)
    made(tmp_path / "tuned", config, seed=1)
    details = extracted(tmp_path, 4)
    assert len(details["left_out"]) == 4 * 3 * 4 and "experts" in details["left_out"][0]
    assert details["error"] > 0.3


def test_equal_models_and_models_of_other_shapes_are_refused(tmp_path):
    made(tmp_path / "base", CONFIGS["llama"])
    made(tmp_path / "wide", LlamaConfig(**SMALL | {"intermediate_size": 64}))
    for tuned, match in (("base", "does not differ"), ("wide", r"shape \[32, 48\].*\[32, 64\]")):
        with pytest.raises(CheckpointError, match=match):
            extracted(tmp_path, 4, tuned=tuned)
        assert not (tmp_path / "adapter").exists()


def test_what_no_adapter_can_carry_is_said_or_refused(tmp_path):
    """More layers, another rope, whole numbers, a base that is not a plain model."""
    made(tmp_path / "base", CONFIGS["llama"])
    made(tmp_path / "deep", LlamaConfig(**SMALL | {"num_hidden_layers": 6}), seed=1)
    with pytest.raises(CheckpointError, match=r"deep.* has the tensor .*layers\.4"):
        extracted(tmp_path, 4, tuned="deep")
    theta = {"rope_type": "default", "rope_theta": 5e5}
    made(tmp_path / "tuned", LlamaConfig(**SMALL, rope_parameters=theta), seed=1)
    assert any("rope_theta: 500000.0" in note for note in extracted(tmp_path, 4)["notes"])
    made(tmp_path / "other", LlamaConfig(**SMALL, hidden_act="gelu"), seed=1)
    with pytest.raises(CheckpointError, match="hidden_act"):
        extracted(tmp_path, 4, tuned="other", out="no")
    with pytest.raises(RecipeError, match="without an adapter"):
        extracted(tmp_path, 4, base=f"base+{tmp_path / 'adapter'}", out="no")
    assert not (tmp_path / "no").exists()
