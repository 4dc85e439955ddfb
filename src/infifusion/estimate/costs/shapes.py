"""Parameter counts and FLOPs of a decoder from its config.json: no weights needed.

Letters: V vocabulary, D hidden, I inner width of the feed-forward part, L context in tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infifusion.errors import CheckpointError, RecipeError
from infifusion.registry import nearest


@dataclass(frozen=True)
class Shape:
    """What decides a decoder's size.

    gated:   the feed-forward part has three matrices (SwiGLU), not two.
    vectors: biases and norms of one layer, in parameters.
    outside: parameters outside layers, embedding and head: the last norm, learned positions.
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

    @property
    def matrices(self) -> int:
        """Parameters of one layer's matrices: q, k, v, o and the feed-forward part."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return attention + (3 if self.gated else 2) * self.hidden * self.inner

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
        wide = 4 * self.inner if self.gated else 8 * self.inner
        return 16 * self.hidden + 4 * self.kv_heads * self.head_size + wide

    @property
    def cache_per_token(self) -> int:
        """Numbers of the key-value cache per token of context."""
        return 2 * self.layers * self.kv_heads * self.head_size

    def body_flops(self, tokens: float, token_context: float) -> float:
        """Forward FLOPs of all layers: 2 per matrix parameter and token, and attention.

        token_context is the sum over tokens of the context that the kernel works through: for a
        padded batch B L^2. Scores and values take 2 FLOPs each per context token and channel;
        kernels that are given a mask do not skip the future half.
        """
        attention = 4 * self.layers * self.heads * self.head_size * token_context
        return 2 * self.layers * self.matrices * tokens + attention

    def head_flops(self, positions: float) -> float:
        """Forward FLOPs of the language-model head: 2 V D per position."""
        return 2 * self.embedding * positions


# model_type -> (tied by default, kv heads by default: None for as many as heads)
FAMILIES: dict[str, tuple[bool, int | None]] = {
    "llama": (False, None),
    "mistral": (False, 8),
    "qwen2": (False, 32),
    "qwen3": (False, 32),
    "phi3": (False, None),
    "gpt2": (True, None),
}


def shape_of(config: Mapping[str, Any], *, where: str, guess: bool = False) -> Shape:
    """The shape that a config.json describes; `where` names it in errors.

    With guess an unknown model_type is read as if it were a Llama: enough for FLOPs where the
    parameters are known from the weights. Raises CheckpointError otherwise, or for a key that is
    missing.
    """
    inner = config.get("text_config")
    values = inner if isinstance(inner, Mapping) else config
    family = str(values.get("model_type", "unknown"))
    if family not in FAMILIES and not guess:
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


def _llama_like(values: Mapping[str, Any], family: str, where: str) -> Shape:
    tied, default_kv = FAMILIES.get(family, (False, None))
    hidden = _whole(values, where, "hidden_size")
    heads = _whole(values, where, "num_attention_heads")
    kv_heads = int(values.get("num_key_value_heads") or default_kv or heads)
    head_size = int(values.get("head_dim") or hidden // heads)
    inner = _whole(values, where, "intermediate_size")
    q, kv = heads * head_size, kv_heads * head_size
    vectors = 2 * hidden
    if family == "qwen2":
        vectors += q + 2 * kv
    elif values.get("attention_bias"):
        vectors += q + 2 * kv + hidden
    if family == "qwen3":
        vectors += 2 * head_size
    if values.get("mlp_bias"):
        vectors += 2 * inner + hidden
    return Shape(
        family=family,
        vocabulary=_whole(values, where, "vocab_size"),
        hidden=hidden,
        inner=inner,
        layers=_whole(values, where, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        tied=_tied(values, tied),
        gated=True,
        vectors=vectors,
        outside=hidden,
    )


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
