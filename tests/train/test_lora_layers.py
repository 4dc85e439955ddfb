"""Low-rank adapters stand where the recipe puts them, at the rank it names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from infifusion.errors import RecipeError
from infifusion.recipe import Lora, Model
from infifusion.train.adapters import adapter_parameters, targets_of, with_lora

TINY = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
MIXTURES = {
    "mixtral": LOCAL,
    "qwen3_moe": {**EXPERTS, "head_dim": 8},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "granitemoe": LOCAL,
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
}


def made(kind: str, **more: object) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**TINY, **more}))


def trained(adapted: PeftModel) -> dict[str, int]:
    return {name: p.numel() for name, p in adapted.named_parameters() if p.requires_grad}


def expected_of(model: PreTrainedModel, parts: tuple[str, ...], r: int) -> int:
    """r (in + out) for every matrix of these, once per expert where they are stacked."""
    total = 0
    for name, weight in model.named_parameters():
        if name.removesuffix(".weight").rpartition(".")[2] in parts:
            count = len(weight) if weight.dim() == 3 else 1
            total += r * count * (weight.shape[-1] + weight.shape[-2])
    return total


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj", "gate_up_proj")


@pytest.mark.parametrize("kind", ["llama", *MIXTURES])
def test_all_linear_is_every_linear_layer_but_head_and_router(kind: str) -> None:
    model = made(kind, **MIXTURES.get(kind, {}))
    expected = expected_of(model, ALL, r=3)
    found = trained(with_lora(model, Lora(r=3)))
    assert sum(found.values()) == expected
    assert not any("router" in name or ".gate." in name or "lm_head" in name for name in found)
    assert any("experts" in name for name in found) is (kind in MIXTURES)


def test_a_router_is_adapted_where_it_is_named() -> None:
    model = made("mixtral", **LOCAL)
    found = trained(with_lora(model, Lora(r=2, target_modules=["q_proj", "gate"])))
    # Two layers of q (32 to 32) and of a router (32 to 4).
    assert sum(found.values()) == 2 * (2 * 64 + 2 * 36)
    assert {name.split(".")[5] for name in found} == {"self_attn", "mlp"}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("mixtral", ["w1", "w3"]),
        ("qwen3_moe", ["gate_proj", "up_proj"]),
        ("olmoe", ["gate_up_proj"]),
    ],
)
def test_stacked_experts_have_the_rank_asked_for(kind: str, names: list[str]) -> None:
    model = made(kind, **MIXTURES[kind])
    expected = expected_of(model, ("gate_up_proj",), r=5)
    found = trained(with_lora(model, Lora(r=5, target_modules=names)))
    assert sum(found.values()) == expected


def test_half_of_a_stacked_tensor_is_refused() -> None:
    with pytest.raises(RecipeError, match="w1 is one tensor with w3.*Name both"):
        targets_of(made("mixtral", **LOCAL), Lora(target_modules=["q_proj", "w1"]))


@pytest.mark.parametrize("names", [["q_proj", "query"], "query", "q_proj("])
def test_a_name_that_is_not_there_is_refused(names: str | list[str]) -> None:
    with pytest.raises(RecipeError, match=r"called 'query'|no name and no pattern"):
        targets_of(made("llama"), Lora(target_modules=names))


def test_a_pattern_and_a_single_name_choose_layers() -> None:
    model = made("llama")
    both = targets_of(model, Lora(target_modules=r".*\.1\.self_attn\.(q|v)_proj")).modules
    assert both == tuple(f"model.layers.1.self_attn.{x}_proj" for x in "qv")
    assert len(targets_of(model, Lora(target_modules="k_proj")).modules) == 2


@pytest.mark.parametrize("kind", ["llama", *MIXTURES])
def test_adapters_are_counted_without_weights(kind: str, tmp_path: Path) -> None:
    model = made(kind, **MIXTURES.get(kind, {}))
    model.config.save_pretrained(tmp_path)
    total = sum(parameter.numel() for parameter in model.parameters())
    trains, whole = adapter_parameters(Model(model=str(tmp_path)), Lora(r=3))
    assert whole == total
    assert trains == sum(trained(with_lora(model, Lora(r=3))).values())


def test_a_gpt2_has_its_own_kind_of_linear_layers() -> None:
    model = made("gpt2", n_embd=24, n_layer=2, n_head=3)
    targets = targets_of(model, Lora())
    assert {name.rpartition(".")[2] for name in targets.modules} == {"c_attn", "c_proj", "c_fc"}
    assert len(targets.modules) == 2 * 4 and not targets.parameters
    with_lora(model, Lora())


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "qwen2_moe"])
def test_what_was_learnt_is_merged_and_loads_again(kind: str, tmp_path: Path) -> None:
    model = made(kind, **MIXTURES[kind]).eval()
    model.save_pretrained(tmp_path / "base")
    adapted = with_lora(model, Lora(r=2, alpha=4))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        learnt = adapted(input_ids=ids).logits
        adapted.save_pretrained(str(tmp_path / "adapter"))
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        before = base(input_ids=ids).logits
        loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
        torch.testing.assert_close(loaded(input_ids=ids).logits, learnt, rtol=0, atol=1e-5)
        whole = adapted.merge_and_unload()(input_ids=ids).logits
    torch.testing.assert_close(whole, learnt, rtol=0, atol=1e-4)
    assert (before - learnt).abs().max() > 1e-3
