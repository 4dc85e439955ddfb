"""Parameter counts against transformers' own models; FLOPs by hand."""

from __future__ import annotations

import json

import pytest
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from infifusion.errors import CheckpointError, RecipeError
from infifusion.estimate.costs.schedule import lora_parameters
from infifusion.estimate.costs.shapes import KNOWN_CONFIGS, Shape, config_called, shape_of
from infifusion.recipe import Lora
from infifusion.train.adapters import targets_of

SMALL = {
    "vocab_size": 101,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
HEADS = {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
BY_TYPE = {
    "gemma": HEADS,
    "gemma2": HEADS,
    "gemma3_text": HEADS,
    "gpt_neox": {},
    "opt": {"ffn_dim": 40, "word_embed_proj_dim": 24},
    "phi": {},
    "starcoder2": {},
    "stablelm": {},
    "granite": {},
    "smollm3": {},
    "glm4": HEADS,
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "cohere": {},
    "cohere2": {},
    "mixtral": LOCAL,
    "granitemoe": LOCAL,
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 20},
    "qwen3_moe": {**EXPERTS, **HEADS},
    "gpt_oss": {**LOCAL, **HEADS},
}
CONFIGS = {
    **{kind: AutoConfig.for_model(kind, **{**SMALL, **more}) for kind, more in BY_TYPE.items()},
    "llama": LlamaConfig(**SMALL),
    "llama tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "llama biased": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "llama head_dim": LlamaConfig(**SMALL, head_dim=10),
    "mistral": MistralConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL),
    "qwen2 tied": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL, head_dim=6),
    "phi3": Phi3Config(**SMALL),
    "gpt2": GPT2Config(vocab_size=101, n_embd=24, n_layer=3, n_head=4, n_positions=50),
    "gpt2 inner": GPT2Config(
        vocab_size=101, n_embd=24, n_layer=3, n_head=4, n_positions=50, n_inner=40
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_model(name: str) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS[name])
    saved = json.loads(model.config.to_json_string())  # what config.json holds
    found = shape_of(saved, where=name)
    assert found.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", [*BY_TYPE, "llama", "qwen2"])
def test_adapters_are_those_of_the_model(name: str) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS[name])
    shape = shape_of(json.loads(model.config.to_json_string()), where=name)
    targets = targets_of(model, Lora(r=3))
    weights = [model.get_submodule(one).weight for one in targets.modules]
    weights += [model.get_parameter(one) for one in targets.parameters]
    expected = sum(
        3 * (len(w) if w.dim() == 3 else 1) * (w.shape[-1] + w.shape[-2]) for w in weights
    )
    # In the last two, matrices that the others have apart are one, whose input counts once.
    saved = 3 * 3 * 24 * {"glm4": 1, "gpt_neox": 2}.get(name, 0)
    assert lora_parameters(shape, Lora(r=3)) == expected + saved


def test_a_mixture_of_dense_and_sparse_layers_is_not_guessed() -> None:
    saved = json.loads(CONFIGS["qwen3_moe"].to_json_string())
    with pytest.raises(CheckpointError, match="cannot be computed"):
        shape_of({**saved, "mlp_only_layers": [0]}, where="m")


# The numbers that the models' pages on the hub state.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("8b-llama", 8_030_261_248),
        ("70b-llama", 70_553_706_496),
        ("3b-llama", 3_212_749_824),
        ("1b-llama", 1_235_814_400),
        ("7b-mistral", 7_248_023_552),
        ("7b-qwen2", 7_615_616_512),
        ("1.5b-qwen2", 1_543_714_304),
        ("0.5b-qwen2", 494_032_768),
        ("14b-phi", 14_659_507_200),
    ],
)
def test_public_shapes_have_their_published_parameters(name: str, parameters: int) -> None:
    assert shape_of(config_called(name), where=name).parameters == parameters


def test_every_public_shape_is_checked() -> None:
    assert len(KNOWN_CONFIGS) == 9


def shape(**changes: object) -> Shape:
    values = {
        "family": "llama",
        "vocabulary": 5,
        "hidden": 2,
        "inner": 3,
        "layers": 2,
        "heads": 1,
        "kv_heads": 1,
        "head_size": 2,
        "tied": True,
        "gated": True,
        "vectors": 4,
        "outside": 2,
    }
    return Shape(**{**values, **changes})


def test_flops_by_hand() -> None:
    one = shape()
    # q, k, v, o: 4 matrices of 2 x 2 = 16; gate, up, down: 3 of 2 x 3 = 18.
    assert one.matrices == 34
    # 2 layers x 34 parameters x 2 FLOPs x 3 tokens = 408; attention: scores and values take
    # 2 FLOPs x 2 channels each, per layer and pair of 3 x 3 positions: 2 x 2 x 2 x 2 x 9 = 144.
    assert one.body_flops(3, 9) == 408 + 144
    # 5 x 2 weights, 2 FLOPs each, 4 positions.
    assert one.head_flops(4) == 80
    assert shape(gated=False).matrices == 28


def test_an_unknown_family_is_refused_unless_its_weights_are_here() -> None:
    config = {**json.loads(CONFIGS["llama"].to_json_string()), "model_type": "rwkv"}
    with pytest.raises(CheckpointError, match="'rwkv'.*--shape NAME=SHAPE"):
        shape_of(config, where="pivot")
    assert shape_of(config, where="pivot", guess=True).hidden == 24


def test_a_missing_key_is_named() -> None:
    with pytest.raises(CheckpointError, match="pivot: 'hidden_size' is None"):
        shape_of({"model_type": "llama", "num_attention_heads": 2}, where="pivot")


def test_an_unknown_shape_gets_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="Did you mean '8b-llama'"):
        config_called("8b-lama")
