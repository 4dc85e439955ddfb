"""One architecture in two layouts; stacks of layers whose kinds a rule gives; several towers."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from made import IDS, SMALL, WEIGHTS, copied, loaded, logits, made, mean_of, merged, notes_of
from safetensors.torch import load_file
from test_adapters import LLAVA, new_names
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3nTextConfig,
    Glm4MoeConfig,
    GPT2Config,
    JambaConfig,
    LlamaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
    Qwen3MoeConfig,
    Qwen3NextConfig,
)

from infifusion.errors import CheckpointError

MOE = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
WITHOUT_HEAD_DIM = {key: value for key, value in SMALL.items() if key != "head_dim"}


def expected_mean(folder, *names, kind=AutoModelForCausalLM):
    """The logits of the mean of the models as transformers loads them."""
    models = [kind.from_pretrained(folder / name) for name in names]
    states = [model.state_dict() for model in models]
    mean = {key: sum(state[key] for state in states) / len(states) for key in states[0]}
    models[0].load_state_dict(mean)
    return logits(models[0].eval())


def fused(folder, name, model):
    """The model with its experts in one tensor, as transformers 5 holds them."""
    return copied(folder, name, tensors=lambda _: dict(model.state_dict()))


@pytest.mark.parametrize("order", [0, 1], ids=["base one by one", "base fused"])
@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_experts_in_one_tensor_and_one_by_one_are_one_architecture(tmp_path, kind, order):
    config = (
        Qwen3MoeConfig(**SMALL, num_experts=4, **MOE)
        if kind == "qwen3_moe"
        else MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2)
    )
    made(tmp_path / "a", config)
    fused(tmp_path / "x", "b", made(tmp_path / "x", config, seed=1))
    names = ["a", "b"][:: 1 - 2 * order]
    out = mean_of(tmp_path, *names)
    assert load_file(out / WEIGHTS).keys() == load_file(tmp_path / names[0] / WEIGHTS).keys()
    assert torch.equal(logits(loaded(out)), expected_mean(tmp_path, *names))


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("config", "prefix"),
    [
        (LlamaConfig(**SMALL), "model."),
        (GPT2Config(vocab_size=100, n_embd=24, n_layer=2, n_head=3), "transformer."),
    ],
    ids=["llama", "gpt2"],
)
def test_names_with_and_without_the_model_s_prefix_are_one(tmp_path, config, prefix, order):
    made(tmp_path / "a", config)
    made(tmp_path / "x", config, seed=1)
    copied(tmp_path / "x", "b", renamed=lambda name: name.removeprefix(prefix))
    names = ["a", "b"][:: 1 - 2 * order]
    out = mean_of(tmp_path, *names)
    assert load_file(out / WEIGHTS).keys() == load_file(tmp_path / names[0] / WEIGHTS).keys()
    assert torch.equal(logits(loaded(out)), expected_mean(tmp_path, *names))


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("stacked", [False, True])
def test_names_of_a_model_that_sees_as_of_old_and_of_now_are_one(tmp_path, order, stacked):
    kind = AutoModelForImageTextToText
    made(tmp_path / "a", LLAVA, kind=LlavaForConditionalGeneration)
    made(tmp_path / "x", LLAVA, kind=LlavaForConditionalGeneration, seed=1)
    copied(tmp_path / "x", "b", renamed=new_names)
    names = ["a", "b"][:: 1 - 2 * order]
    if not stacked:
        out = mean_of(tmp_path, *names)
        assert load_file(out / WEIGHTS).keys() == load_file(tmp_path / names[0] / WEIGHTS).keys()
        assert torch.equal(logits(loaded(out, kind)), expected_mean(tmp_path, *names, kind=kind))
        return
    slices = [{"sources": [{"model": name, "layer_range": [0, 3]}]} for name in names]
    found = loaded(merged(tmp_path, merge_method="passthrough", slices=slices), kind)
    assert found.config.text_config.num_hidden_layers == 6
    assert found.config.vision_config.num_hidden_layers == 4
    second = kind.from_pretrained(tmp_path / names[1]).model.language_model.layers[2]
    for key, tensor in found.model.language_model.layers[5].state_dict().items():
        assert torch.equal(tensor, second.state_dict()[key])


def test_a_list_of_t_goes_over_the_language_layers_of_a_model_that_sees(tmp_path):
    """Both towers have four layers."""
    for seed, name in enumerate("ab"):
        made(tmp_path / name, LLAVA, kind=LlavaForConditionalGeneration, seed=seed)
    out = merged(
        tmp_path,
        merge_method="slerp",
        base_model="a",
        models=[{"model": "b"}],
        parameters={"t": [0, 1]},
    )
    found, a, b = (load_file(f / WEIGHTS) for f in (out, tmp_path / "a", tmp_path / "b"))
    language = [k for k in found if k.startswith("language_model.model.layers.") and "q_proj" in k]
    sees = [k for k in found if k.startswith("vision_tower.") and "q_proj.weight" in k]
    assert len(language) == len(sees) == 4
    assert torch.equal(found[language[0]], a[language[0]])
    assert torch.equal(found[language[3]], b[language[3]])
    assert all(torch.equal(found[name], a[name]) for name in sees)


@pytest.mark.parametrize(
    "name", ["v_head.summary.weight", "mtp.layers.0.w", "model.embeddings.position_ids"]
)
@pytest.mark.parametrize("order", [0, 1])
def test_what_only_one_model_has_and_none_needs_is_kept_and_named(tmp_path, name, order):
    config = LlamaConfig(**SMALL)
    made(tmp_path / "a", config)
    made(tmp_path / "x", config, seed=1)
    more = {name: torch.arange(4.0)[None]}
    copied(tmp_path / "x", "b", tensors=lambda tensors: tensors | more)
    out = mean_of(tmp_path, *["a", "b"][:: 1 - 2 * order])
    assert torch.equal(load_file(out / WEIGHTS)[name], more[name])
    assert f"{name} stand in some of the models only and are copied from b" in notes_of(out)


def test_layers_beyond_the_config_s_are_kept_and_are_no_layers(tmp_path):
    """DeepSeek-V3 stores what predicts a second token as one more layer."""
    for seed, name in enumerate("ab"):
        made(tmp_path / name, LlamaConfig(**SMALL), seed=seed)
    more = {"model.layers.4.eh_proj.weight": torch.ones(2, 2)}
    copied(tmp_path / "b", "c", tensors=lambda tensors: tensors | more)
    out = mean_of(tmp_path, "a", "c")
    assert "model.layers.4.eh_proj.weight" in load_file(out / WEIGHTS)
    slices = [{"sources": [{"model": "c", "layer_range": [0, 5]}]}]
    with pytest.raises(ValueError, match="which has 4 layers"):
        merged(tmp_path, "no", merge_method="passthrough", slices=slices)


@pytest.mark.parametrize("order", [0, 1])
def test_biases_that_one_model_has_are_no_option(tmp_path, order):
    made(tmp_path / "a", LlamaConfig(**SMALL))
    made(tmp_path / "b", LlamaConfig(**SMALL, attention_bias=True), seed=1)
    with pytest.raises(CheckpointError, match="k_proj.bias.*16 names differ"):
        mean_of(tmp_path, *["a", "b"][:: 1 - 2 * order])


QWEN3 = {"num_experts": 4, **MOE}
EXPERTS = {
    **{"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 2},
    **MOE,
}
LATENT = {
    **{"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8},
    **{"v_head_dim": 8, "num_key_value_heads": 4},
}
HYBRID = {
    **{"num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    **{"expert_layer_period": 2, "expert_layer_offset": 1},
}
LINEAR = {
    **{"num_experts": 4, "shared_expert_intermediate_size": 16, "linear_num_value_heads": 4},
    **{"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **MOE,
}
STACKS = {
    "mlp_only_layers": (Qwen3MoeConfig(**SMALL, **QWEN3, mlp_only_layers=[1]), [(1, 4), (0, 2)]),
    "decoder_sparse_step": (
        Qwen3MoeConfig(**SMALL, **QWEN3, decoder_sparse_step=2),
        [(0, 3), (0, 2)],
    ),
    "first_k_dense_replace": (
        DeepseekV3Config(**{**WITHOUT_HEAD_DIM, **LATENT}, **EXPERTS),
        [(0, 2), (0, 4)],
    ),
    "first_k_dense_replace, none": (Glm4MoeConfig(**SMALL, **EXPERTS), [(2, 4), (3, 4)]),
    "attn_layer_period": (JambaConfig(**WITHOUT_HEAD_DIM, **HYBRID), [(1, 4), (2, 4)]),
    "full_attention_interval": (Qwen3NextConfig(**SMALL, **LINEAR), [(0, 4), (2, 4)]),
    "every other window": (Gemma2Config(**SMALL, sliding_window=4), [(0, 3), (0, 2)]),
}
LISTED = ("layer_types", "mlp_layer_types", "layers_block_type")


@pytest.mark.parametrize("lists", [True, False], ids=["as saved", "without lists"])
@pytest.mark.parametrize("name", STACKS)
def test_a_stacked_layer_is_of_the_kind_that_it_was(tmp_path, name, lists):
    config, ranges = STACKS[name]
    source = made(tmp_path / "a", config)
    if not lists:  # as models were saved before transformers wrote the lists
        values = json.loads((tmp_path / "a" / "config.json").read_text())
        values = {key: value for key, value in values.items() if key not in LISTED}
        if name == "full_attention_interval":
            values["full_attention_interval"] = 4
        (tmp_path / "a" / "config.json").write_text(json.dumps(values))
    slices = [{"sources": [{"model": "a", "layer_range": list(one)}]} for one in ranges]
    found = loaded(merged(tmp_path, merge_method="passthrough", slices=slices))
    wanted = [source.model.layers[n] for one in ranges for n in range(*one)]
    assert len(found.model.layers) == len(wanted)
    kinds = [
        [type(module) for module in layer.modules()]
        + [getattr(getattr(layer, "self_attn", None), "sliding_window", None)]
        for layer in (*found.model.layers, *wanted)
    ]
    assert kinds[: len(wanted)] == kinds[len(wanted) :]
    expected = copy.deepcopy(found)
    for layer, origin in zip(expected.model.layers, wanted, strict=True):
        layer.load_state_dict(origin.state_dict())
    assert torch.equal(logits(found), logits(expected))


@pytest.mark.parametrize(
    ("config", "ranges", "match"),
    [
        (Glm4MoeConfig(**SMALL, **EXPERTS), [(0, 4), (0, 2)], "mlp is 'Glm4MoeMLP'.*no list"),
        (JambaConfig(**WITHOUT_HEAD_DIM, **HYBRID), [(1, 4), (3, 4)], "JambaAttentionDecoder"),
    ],
    ids=["dense after experts", "no period"],
)
def test_a_stack_that_the_config_cannot_say_is_refused(tmp_path, config, ranges, match):
    made(tmp_path / "a", config)
    slices = [{"sources": [{"model": "a", "layer_range": list(one)}]} for one in ranges]
    with pytest.raises(CheckpointError, match=match):
        merged(tmp_path, merge_method="passthrough", slices=slices)
    assert not (tmp_path / "out").exists()


def test_a_stack_with_a_tensor_over_all_layers_is_refused(tmp_path):
    """Gemma 3n: the embeddings per layer have a part for every layer."""
    config = Gemma3nTextConfig(
        **SMALL,
        vocab_size_per_layer_input=100,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0] * 4,
    )
    made(tmp_path / "a", config)
    slices = [{"sources": [{"model": "a", "layer_range": [0, 4]}]}] * 2
    with pytest.raises(CheckpointError, match="in another shape|cannot be said"):
        merged(tmp_path, merge_method="passthrough", slices=slices)
    assert not (tmp_path / "out").exists()


def test_empty_slices_are_passed_over(tmp_path):
    made(tmp_path / "a", LlamaConfig(**SMALL))
    slices = [
        {"sources": [{"model": "a", "layer_range": [0, 4]}]},
        {"sources": [{"model": "a", "layer_range": [4, 4]}]},
    ]
    out = merged(tmp_path, merge_method="passthrough", slices=slices)
    assert torch.equal(logits(loaded(out), IDS), logits(loaded(tmp_path / "a"), IDS))
