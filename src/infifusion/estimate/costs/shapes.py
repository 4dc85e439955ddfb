"""Parameter counts and FLOPs of a decoder from its config.json: no weights needed.

Letters: V vocabulary, D hidden, I inner width of the feed-forward part, L context in tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infifusion.errors import CheckpointError, RecipeError
from infifusion.estimate.costs.families import FAMILIES, Family
from infifusion.registry import nearest


@dataclass(frozen=True)
class Shape:
    """What decides a decoder's size.

    gated:   the feed-forward part has three matrices (SwiGLU), not two.
    vectors: biases and norms of one layer, in parameters.
    outside: parameters outside layers, embedding and head: the last norm, learned positions.
    experts, chosen: of a mixture, how many there are in a layer and how many a token goes through,
             each of width `inner`; 0 where there is one feed-forward part. shared: width of an
             expert that every token goes through.
    """

    family: str
    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    tied: bool
    gated: bool
    vectors: int
    outside: int
    experts: int = 0
    chosen: int = 0
    shared: int = 0

    @property
    def matrices(self) -> int:
        """Parameters of one layer's matrices: q, k, v, o and the feed-forward part."""
        return self._matrices(max(self.experts, 1))

    @property
    def used(self) -> int:
        """Those that a token goes through: of the experts the ones chosen for it."""
        return self._matrices(self.chosen if self.experts else 1)

    @property
    def plain(self) -> int:
        """Those that are layers of their own; a mixture's experts are one array."""
        return self._matrices(0 if self.experts else 1)

    def _matrices(self, experts: int) -> int:
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        sides = 3 if self.gated else 2
        return attention + sides * self.hidden * (experts * self.inner + self.shared)

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding, or of the head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        layers = self.layers * (self.matrices + self.vectors)
        return self.embedding * (1 if self.tied else 2) + layers + self.outside

    @property
    def elements(self) -> int:
        """Numbers that one layer keeps for the backward pass, per token.

        Counted in transformers' Llama with sdpa: two RMS norms (each its input, the float32 copy's
        square and its normalised product: 3 D), the input of the q, k and v projections, q and k
        before and after rotation, attention output and its copy, two residual sums: 16 D and 4
        times the k and v width; gate, up, the activation and the product: 4 I. GPT-2's activation
        is written out in eight elementwise steps.
        """
        wide = (4 if self.gated else 8) * (max(self.chosen, 1) * self.inner + self.shared)
        return 16 * self.hidden + 4 * self.kv_heads * self.head_size + wide

    @property
    def cache_per_token(self) -> int:
        """Numbers of the key-value cache per token of context."""
        return 2 * self.layers * self.kv_heads * self.head_size

    def body_flops(self, tokens: float, token_context: float) -> float:
        """Forward FLOPs of all layers: 2 per matrix parameter used and token, and attention.

        token_context is the sum over tokens of the context that the kernel works through: for a
        padded batch B L^2. Scores and values take 2 FLOPs each per context token and channel;
        kernels that are given a mask do not skip the future half.
        """
        attention = 4 * self.layers * self.heads * self.head_size * token_context
        return 2 * self.layers * self.used * tokens + attention

    def head_flops(self, positions: float) -> float:
        """Forward FLOPs of the language-model head: 2 V D per position."""
        return 2 * self.embedding * positions


def shape_of(config: Mapping[str, Any], *, where: str, guess: bool = False) -> Shape:
    """The shape that a config.json describes; `where` names it in errors.

    With guess an unknown model_type is read as if it were a Llama: enough for FLOPs where the
    parameters are known from the weights. Raises CheckpointError otherwise, or for a key that is
    missing.
    """
    inner = config.get("text_config")
    values = inner if isinstance(inner, Mapping) else config
    family = str(values.get("model_type", "unknown"))
    sparse = values.get("mlp_only_layers") or values.get("decoder_sparse_step", 1) != 1
    if (family not in FAMILIES or sparse) and not guess:
        raise CheckpointError(
            f"{where}: the parameters of a '{family}' model cannot be computed from its config "
            f"(known: {', '.join(FAMILIES)}) and its weights are not on this machine. Download "
            "them, or plan with a model of like size: --shape NAME=SHAPE."
        )
    return _gpt2(values, where) if family == "gpt2" else _llama_like(values, family, where)


def _gpt2(values: Mapping[str, Any], where: str) -> Shape:
    hidden, heads = _whole(values, where, "n_embd"), _whole(values, where, "n_head")
    given = values.get("n_inner")
    inner = 4 * hidden if given is None else int(given)
    return Shape(
        family="gpt2",
        vocabulary=_whole(values, where, "vocab_size"),
        hidden=hidden,
        inner=inner,
        layers=_whole(values, where, "n_layer"),
        heads=heads,
        kv_heads=heads,
        head_size=hidden // heads,
        tied=_tied(values, True),
        gated=False,
        # Two norms with bias; biases of q, k, v, o and of both feed-forward matrices.
        vectors=4 * hidden + 4 * hidden + inner + hidden,
        outside=2 * hidden + _whole(values, where, "n_positions") * hidden,
    )


def _llama_like(values: Mapping[str, Any], name: str, where: str) -> Shape:
    family = FAMILIES.get(name, Family())
    hidden = _whole(values, where, "hidden_size")
    heads = _whole(values, where, "num_attention_heads")
    kv_heads = int(values.get("num_key_value_heads") or family.kv_heads or heads)
    kv_heads = kv_heads if family.grouped else heads
    head_size = int(values.get("head_dim") or family.head_size or hidden // heads)
    q, kv = heads * head_size, kv_heads * head_size
    # Either key may stand in a config.json of the same family, by who wrote it.
    counted = "num_experts" if "num_experts" in values else "num_local_experts"
    experts = _whole(values, where, counted) if family.mixture else 0
    width = family.expert_width if experts else "intermediate_size"
    inner = _whole(values, where, "ffn_dim" if name == "opt" else width)
    vectors = family.norms * hidden * (2 if family.norm_bias else 1)
    vectors += {"": 0, "head": 2 * head_size, "all": q + kv}[family.qk_norm]
    vectors += (q + 2 * kv) * _says(values, family.qkv_bias)
    vectors += hidden * _says(values, family.o_bias)
    if experts:
        vectors += experts * hidden  # the router
        if family.expert_bias:
            vectors += experts * (2 * inner + hidden) + experts + heads
    elif _says(values, family.mlp_bias):
        vectors += (2 if family.gated else 1) * inner + hidden
    shared = _whole(values, where, "shared_expert_intermediate_size") if family.shared else 0
    if shared:
        vectors += hidden  # its gate
    outside = hidden * (2 if family.norm_bias else 1) if family.last_norm else 0
    if family.head_bias:
        outside += _whole(values, where, "vocab_size")
    if family.positions is not None:
        found = _whole(values, where, "max_position_embeddings")
        outside += (found + family.positions) * hidden
    return Shape(
        family=name,
        vocabulary=_whole(values, where, "vocab_size"),
        hidden=hidden,
        inner=inner,
        layers=_whole(values, where, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        tied=_tied(values, family.tied),
        gated=family.gated,
        vectors=vectors,
        outside=outside,
        experts=experts,
        chosen=_whole(values, where, "num_experts_per_tok") if experts else 0,
        shared=shared,
    )


def _says(values: Mapping[str, Any], key: bool | str) -> bool:
    """What a family always has, or what the config says under a key."""
    return bool(values.get(key)) if isinstance(key, str) else key


def _tied(values: Mapping[str, Any], default: bool) -> bool:
    said = values.get("tie_word_embeddings")
    return default if said is None else bool(said)


def _whole(values: Mapping[str, Any], where: str, key: str) -> int:
    found = values.get(key)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise CheckpointError(
            f"{where}: '{key}' is {found!r}; expected a whole number. It is not the config.json of "
            "a causal language model."
        )
    return found


def _known(family: str, *numbers: int, tied: bool = False) -> dict[str, Any]:
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    keys += ("num_attention_heads", "num_key_value_heads")
    return {
        "model_type": family,
        **dict(zip(keys, numbers, strict=True)),
        "tie_word_embeddings": tied,
    }


# Public configurations, for `--shape`: V, D, I, layers, heads, kv heads of their config.json.
KNOWN_CONFIGS: dict[str, dict[str, Any]] = {
    "8b-llama": _known("llama", 128256, 4096, 14336, 32, 32, 8),  # Llama-3.1-8B
    "3b-llama": _known("llama", 128256, 3072, 8192, 28, 24, 8, tied=True),  # Llama-3.2-3B
    "1b-llama": _known("llama", 128256, 2048, 8192, 16, 32, 8, tied=True),  # Llama-3.2-1B
    "70b-llama": _known("llama", 128256, 8192, 28672, 80, 64, 8),  # Llama-3.1-70B
    "7b-mistral": _known("mistral", 32768, 4096, 14336, 32, 32, 8),  # Mistral-7B-v0.3
    "7b-qwen2": _known("qwen2", 152064, 3584, 18944, 28, 28, 4),  # Qwen2.5-7B, -Math, -Coder
    "1.5b-qwen2": _known("qwen2", 151936, 1536, 8960, 28, 12, 2, tied=True),  # Qwen2.5-1.5B
    "0.5b-qwen2": _known("qwen2", 151936, 896, 4864, 24, 14, 2, tied=True),  # Qwen2.5-0.5B
    "14b-phi": _known("phi3", 100352, 5120, 17920, 40, 40, 10),  # Phi-4
}


def config_called(name: str) -> dict[str, Any]:
    """A public configuration by its short name; RecipeError with the known ones."""
    if name not in KNOWN_CONFIGS:
        known = ", ".join(KNOWN_CONFIGS)
        hint = nearest(name, KNOWN_CONFIGS)
        raise RecipeError(f"--shape: there is no shape '{name}'.{hint} Known: {known}.")
    return KNOWN_CONFIGS[name] | {"dtype": "bfloat16", "max_position_embeddings": 32768}
