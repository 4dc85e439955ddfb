"""config.json of the result, and the numbers of special tokens in it: where the result has another
tokenizer than the model whose config it gets, each is carried over by the token's text."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.dtypes import FLOATS, NAME_OF
from infifusion.merge.checkpoints.reader import text_config
from infifusion.merge.checkpoints.tokens import known_tokenizer
from infifusion.merge.engine.model import LAYER_COUNTS, TIED_HEAD, Model
from infifusion.merge.engine.planner import MergePlan

# Keys whose numbers, in lists too, are tokens.
OF_TOKENS = re.compile(r"(_token_ids?|_token_index|token_indices|suppress_tokens|bad_words_ids)$")
OF_SENSES = re.compile(r"image|video|vision|audio|speech")
ROLES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")


def config_of(plan: MergePlan) -> dict[str, Any]:
    """The donor's config with the layers, the vocabulary and the dtype of the result, and
    tie_word_embeddings: false where the result has a head of its own.

    Raises CheckpointError where a stacked model's config lacks what the donor's says per layer.
    """
    config = copy.deepcopy(plan.donor.config)
    inner = text_config(config)
    if plan.layers:
        for key, value in inner.items():
            if isinstance(value, list) and len(value) == plan.donor.layers and "layer" in key:
                inner[key] = [_of_layer(model, key, layer) for model, layer in plan.layers]
        for key in LAYER_COUNTS:
            if key in inner:
                inner[key] = len(plan.layers)
    if plan.vocabulary is not None:
        config = with_special_ids(plan, config)
        for key, lost in _lost(plan.donor.config, config):
            if OF_SENSES.search(key):
                raise CheckpointError(
                    f"{plan.donor.folder / 'config.json'}: {key} is the token {lost}, which the "
                    "tokenizer of the result does not have: it could not be shown a picture or "
                    "sound. Write tokenizer_source: union, or base."
                )
        _with_rows(config, plan.vocabulary.rows)
        inner = text_config(config)
    elif plan.donor.rows != plan.donor.stored_rows:
        _with_rows(config, plan.donor.rows)
    if TIED_HEAD in plan.tensors:
        # transformers 4 obeys this key, and would put the embedding in the place of the head.
        config["tie_word_embeddings"] = inner["tie_word_embeddings"] = False
    sizes: Counter[str] = Counter()
    for planned in plan.tensors.values():
        if planned.spec.dtype in FLOATS:
            sizes[planned.spec.dtype] += planned.spec.bytes
    if sizes:
        config.pop("torch_dtype", None)
        config["dtype"] = NAME_OF[sizes.most_common(1)[0][0]]
    return config


def _of_layer(model: Model, key: str, layer: int) -> Any:
    value = text_config(model.config).get(key)
    if not isinstance(value, list) or len(value) <= layer:
        raise CheckpointError(
            f"{model.folder / 'config.json'} has no '{key}' for layer {layer}, which the first "
            "model's has. Add it: one entry per layer."
        )
    return value[layer]


def write_special_ids(folder: Path, moved: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Change them in the folder's generation_config.json."""
    path = folder / "generation_config.json"
    if path.is_file():
        values = json.loads(path.read_text(encoding="utf-8"))
        changed = moved(values)
        if changed != values:
            path.write_text(json.dumps(changed, indent=2) + "\n", encoding="utf-8")


def in_other_tokens(model: Model, old: Any, new: Any, rows: int) -> dict[str, Any]:
    """A model's config for another tokenizer and as many rows. CheckpointError for a token of no
    usual role that the config names and the new tokenizer lacks."""
    config = moved_ids(copy.deepcopy(model.config), old, new)
    for key, lost in _lost(model.config, config):
        raise CheckpointError(
            f"{model.folder / 'config.json'}: {key} is {old.convert_ids_to_tokens(lost)!r}, which "
            "the donor's tokenizer does not have. Add the token to it "
            "(tokenizer.add_special_tokens) and save it beside the donor's weights."
        )
    _with_rows(config, rows)
    if TIED_HEAD in model.checkpoint and model.has_own_head:
        for part in (config, text_config(config)):
            part["tie_word_embeddings"] = False
    return config


def _with_rows(config: dict[str, Any], rows: int | None) -> None:
    """Let the config say so many tokens, wherever it says how many."""
    if "vocab_size" in config:
        config["vocab_size"] = rows
    text_config(config)["vocab_size"] = rows


def _lost(
    old: Mapping[str, Any], new: Mapping[str, Any], where: str = ""
) -> Iterator[tuple[str, int]]:
    """Numbers of tokens in a config, of no usual role, that became nothing."""
    for key, value in old.items():
        if isinstance(value, Mapping):
            yield from _lost(value, new[key], f"{where}{key}.")
        elif OF_TOKENS.search(key) and type(value) is int and new[key] is None:
            yield from [] if key.removesuffix("_token_id") in ROLES else [(where + key, value)]


def with_special_ids(plan: MergePlan, values: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the ids that the donor's tokens have in the result's tokenizer. A token that is
    not in it gives way to the tokenizer's own of that role; where there is none the key is left out
    of a list, or null."""
    assert plan.vocabulary is not None
    return moved_ids(values, known_tokenizer(plan.donor.home), plan.vocabulary.tokenizer)


def moved_ids(values: Mapping[str, Any], old: Any, new: Any) -> dict[str, Any]:
    """The same for any two tokenizers."""
    tokens = {number: token for token, number in old.get_vocab().items()}
    ids = new.get_vocab()
    same = all(ids.get(token) == number for number, token in tokens.items())
    return dict(values) if same else _changed(values, tokens, ids, new)


def _changed(
    values: Mapping[str, Any], tokens: Mapping[int, str], ids: Mapping[str, int], result: Any
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            made[key] = _changed(value, tokens, ids, result)
        elif OF_TOKENS.search(key):
            made[key] = _moved(key, value, tokens, ids, result)
        else:
            made[key] = value
    return made


def _moved(
    key: str, value: Any, tokens: Mapping[int, str], ids: Mapping[str, int], result: Any
) -> Any:
    if isinstance(value, list):
        moved = [_moved(key, one, tokens, ids, result) for one in value]
        if any(isinstance(one, list) for one in moved):
            return [one for one in moved if one]
        return list(dict.fromkeys(one for one in moved if one is not None))
    if type(value) is not int or value < 0 or value not in tokens:
        return value
    if tokens[value] in ids:
        return ids[tokens[value]]
    role = key.removesuffix("_token_id")
    return getattr(result, f"{role}_token_id", None) if role in ROLES else None
