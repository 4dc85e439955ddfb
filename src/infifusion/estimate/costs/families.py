"""How the layers of each architecture differ from a Llama's, by its model_type.

What a config.json leaves out is transformers' default (5.23); tests/estimate/test_shapes.py
compares every line with the parameters of the model that transformers builds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Family:
    """One architecture.

    tied, kv_heads, head_size: where the config is silent (None: no key-value heads of their own; as
        many channels as the hidden size has for each head). grouped: whether it may have fewer
        key-value heads than heads at all.
    norms: vectors of hidden size in a layer's norms; norm_bias: each has a second one.
    last_norm: whether there is one behind the layers.
    qk_norm: norms of queries and keys, of a head's size or of all heads together.
    qkv_bias, o_bias, mlp_bias: whether there are biases, or the key of the config that says so.
    head_bias: of the language-model head. positions: learned ones beyond the config's number.
    mixture: of experts; expert_width: the key of their width; shared: one more that every token
        goes through.
    expert_bias: the experts' and the router's biases, and a sink per attention head (GPT-OSS).
    """

    tied: bool = False
    kv_heads: int | None = None
    grouped: bool = True
    head_size: int | None = None
    norms: int = 2
    norm_bias: bool = False
    last_norm: bool = True
    qk_norm: Literal["", "head", "all"] = ""
    gated: bool = True
    qkv_bias: bool | str = "attention_bias"
    o_bias: bool | str = "attention_bias"
    mlp_bias: bool | str = "mlp_bias"
    head_bias: bool = False
    positions: int | None = None
    mixture: bool = False
    expert_width: str = "intermediate_size"
    shared: bool = False
    expert_bias: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(kv_heads=8),
    "qwen2": Family(kv_heads=32, qkv_bias=True, o_bias=False),
    "qwen3": Family(kv_heads=32, qk_norm="head"),
    "phi3": Family(),
    "gpt2": Family(tied=True),
    "gemma": Family(tied=True, kv_heads=16, head_size=256),
    "gemma2": Family(tied=True, kv_heads=4, head_size=256, norms=4),
    "gemma3_text": Family(tied=True, kv_heads=4, head_size=256, norms=4, qk_norm="head"),
    "gpt_neox": Family(
        grouped=False, norm_bias=True, gated=False, qkv_bias=True, o_bias=True, mlp_bias=True
    ),
    "opt": Family(
        grouped=False,
        tied=True,
        norm_bias=True,
        gated=False,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        positions=2,
    ),
    "phi": Family(
        norms=1,
        norm_bias=True,
        gated=False,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        head_bias=True,
    ),
    "starcoder2": Family(
        tied=True,
        kv_heads=2,
        norm_bias=True,
        gated=False,
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
    ),
    "stablelm": Family(kv_heads=32, norm_bias=True, qkv_bias="use_qkv_bias", o_bias=False),
    "granite": Family(),
    "smollm3": Family(tied=True, kv_heads=4),
    "glm4": Family(kv_heads=2, head_size=128, norms=4, qkv_bias="attention_bias", o_bias=False),
    "olmo": Family(norms=0, last_norm=False),
    "olmo2": Family(qk_norm="all"),
    "olmo3": Family(qk_norm="all"),
    "cohere": Family(tied=True, norms=1),
    "cohere2": Family(tied=True, norms=1),
    "mixtral": Family(kv_heads=8, mixture=True),
    "granitemoe": Family(mixture=True),
    "olmoe": Family(qk_norm="all", mixture=True),
    "qwen2_moe": Family(
        kv_heads=16,
        qkv_bias=True,
        o_bias=False,
        mixture=True,
        expert_width="moe_intermediate_size",
        shared=True,
    ),
    "qwen3_moe": Family(
        kv_heads=4, qk_norm="head", mixture=True, expert_width="moe_intermediate_size"
    ),
    "gpt_oss": Family(
        kv_heads=8,
        head_size=64,
        qkv_bias=True,
        o_bias=True,
        mixture=True,
        expert_bias=True,
    ),
}
