"""Whether a folder holds a whole causal language model that fits its tokenizer, by its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.reader import (
    LAYER,
    LAYER_COUNTS,
    Checkpoint,
    read_config,
    text_config,
)

# Heads that look at the whole text or give one answer for all of it.
OTHER_HEADS = (
    "ForMaskedLM",
    "ForNextSentencePrediction",
    "ForPreTraining",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForMultipleChoice",
    "ForQuestionAnswering",
)


def require_causal_model(
    folder: Path, tokenizer: PreTrainedTokenizerBase, *, own_code: bool
) -> None:
    """CheckpointError unless the folder holds whole weights of a causal language model that embeds
    every token of the tokenizer."""
    config = read_config(folder)
    _require_causal(folder, config, own_code=own_code)
    _require_layers(folder, config)
    _require_embedding(folder, config, tokenizer)


def _require_causal(folder: Path, config: dict[str, Any], *, own_code: bool) -> None:
    kind, listed = config.get("model_type"), config.get("architectures")
    named = [str(name) for name in listed] if isinstance(listed, list) else []
    known = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (own_code and "auto_map" in config)
    other = bool(named) and all(name.endswith(OTHER_HEADS) for name in named)
    if not known or other or config.get("is_encoder_decoder"):
        raise CheckpointError(
            f"{folder / 'config.json'}: {', '.join(named) or 'model_type'} ({kind}) is no causal "
            "language model that transformers knows. Give a folder that AutoModelForCausalLM loads"
            + ("; one with code of its own needs trust_remote_code: true." if not known else ".")
        )


def _require_layers(folder: Path, config: dict[str, Any]) -> None:
    """Of the groups of numbered tensors, one has as many layers as the config says, or more."""
    said = [text_config(config).get(key) for key in LAYER_COUNTS]
    count = next((number for number in said if isinstance(number, int)), 0)
    found: dict[str, set[int]] = {}
    for name in Checkpoint(folder):
        if match := LAYER.match(name):
            found.setdefault(match[1], set()).add(int(match[2]))
    if found and not any(set(range(count)) <= numbers for numbers in found.values()):
        stack = max(found, key=lambda prefix: len(found[prefix]))
        missing = sorted(set(range(count)) - found[stack])[0]
        raise CheckpointError(
            f"{folder / 'config.json'} says {count} layers, but the weights lack {stack}{missing}. "
            "Is the config.json of another model? Number the layers from 0 without a gap."
        )


def _require_embedding(
    folder: Path, config: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = text_config(config).get("vocab_size")
    if not isinstance(rows, int):
        return  # transformers' default; the teacher pass compares with the weights
    by_id = ((id, token) for token, id in tokenizer.get_vocab().items())
    largest, token = max(by_id, default=(-1, ""))
    if largest >= rows:
        raise CheckpointError(
            f"the tokenizer at {tokenizer.name_or_path} has the token {token!r} with the id "
            f"{largest}, but the model at {folder} embeds only {rows} tokens. Name the tokenizer "
            "that belongs to it (tokenizer:), or give it rows for all: "
            "model.resize_token_embeddings(len(tokenizer))."
        )
