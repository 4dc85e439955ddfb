"""The numbers of special tokens in configs, where the result has another tokenizer than the model
whose config it gets: each is carried over by the token's text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infifusion.merge.engine.planner import MergePlan
from infifusion.merge.engine.vocabulary import load_tokenizer

# Keys whose numbers, in lists too, are tokens.
OF_TOKENS = re.compile(r"(_token_ids?|_token_index|token_indices|suppress_tokens|bad_words_ids)$")
ROLES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")


def write_special_ids(plan: MergePlan, folder: Path) -> None:
    """Change them in the folder's generation_config.json."""
    path = folder / "generation_config.json"
    if path.is_file():
        values = json.loads(path.read_text(encoding="utf-8"))
        changed = with_special_ids(plan, values)
        if changed != values:
            path.write_text(json.dumps(changed, indent=2) + "\n", encoding="utf-8")


def with_special_ids(plan: MergePlan, values: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the ids that the donor's tokens have in the result's tokenizer. A token that is
    not in it gives way to the tokenizer's own of that role; where there is none the key is left out
    of a list, or null."""
    assert plan.vocabulary is not None
    result = plan.vocabulary.tokenizer
    tokens = {
        number: token for token, number in load_tokenizer(plan.donor.folder).get_vocab().items()
    }
    ids = result.get_vocab()
    same = all(ids.get(token) == number for number, token in tokens.items())
    return dict(values) if same else _changed(values, tokens, ids, result)


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
