"""The demo's models: what each is made of, what it is trained on, for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from infifusion.demo.tokenizers import byte_level, qwen2_like, sentencepiece_like

CONTEXT = 256
START = 0.08
"""Standard deviation of fresh weights. The libraries' 0.02 is meant for widths of thousands; at a
width of 100 it starts the attention flat, and twice the steps are needed."""


@dataclass(frozen=True)
class Settings:
    """One model. counts are training problems per domain, drills single steps; about 12 % of a
    source's are of other domains, so that it is sane elsewhere (docs/log.md)."""

    make: Callable[[int], PretrainedConfig]
    tokenizer: Callable[..., PreTrainedTokenizerFast]
    vocabulary: int
    counts: dict[str, int]
    steps: int
    batch: int
    learning_rate: float
    drills: dict[str, int] = field(default_factory=dict)


def _llama(
    width: int,
    layers: int,
    feed_forward: int,
    *,
    kind: type[LlamaConfig] | type[Qwen2Config] = LlamaConfig,
    kv_heads: int = 4,
) -> Callable[[int], PretrainedConfig]:
    return lambda vocabulary: kind(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        initializer_range=START,
    )


def _gpt2(width: int, layers: int, feed_forward: int) -> Callable[[int], PretrainedConfig]:
    return lambda vocabulary: GPT2Config(
        vocab_size=vocabulary,
        n_embd=width,
        n_inner=feed_forward,
        n_layer=layers,
        n_head=4,
        n_positions=CONTEXT,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=START,
    )


# Vocabularies are large enough for the other domains' words too: split into characters, 12 % of
# foreign problems would double the padded length of nearly every batch.
SOURCES = {
    "word": Settings(
        make=_llama(112, 3, 288),
        tokenizer=byte_level,
        vocabulary=640,
        counts={"word": 8000, "sym": 700, "code": 700},
        drills={"word": 2500},
        steps=600,
        batch=32,
        learning_rate=2e-3,
    ),
    "sym": Settings(
        make=_gpt2(96, 3, 288),
        tokenizer=sentencepiece_like,
        vocabulary=700,
        counts={"word": 700, "sym": 9000, "code": 700},
        drills={"sym": 2000},
        steps=700,
        batch=32,
        learning_rate=3e-3,
    ),
    "code": Settings(
        make=_llama(80, 3, 224, kind=Qwen2Config, kv_heads=2),
        tokenizer=qwen2_like,
        vocabulary=640,
        counts={"word": 700, "sym": 700, "code": 8000},
        steps=350,
        batch=32,
        learning_rate=3e-3,
    ),
}

PIVOT = Settings(
    make=_llama(96, 3, 256),
    tokenizer=byte_level,
    vocabulary=480,
    counts={"word": 1200, "sym": 2000, "code": 400},
    drills={"word": 300, "sym": 500},
    steps=260,
    batch=32,
    learning_rate=2e-3,
)


def new_model(settings: Settings, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """The model with random weights, its special ids those of its tokenizer."""
    torch.manual_seed(seed)
    config = settings.make(len(tokenizer))
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    return AutoModelForCausalLM.from_config(config)
