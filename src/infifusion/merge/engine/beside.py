"""What stands beside merged weights: config.json, generation config, tokenizer."""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.dtypes import FLOATS, NAME_OF
from infifusion.merge.checkpoints.reader import text_config
from infifusion.merge.engine.models import LAYER_COUNTS, Model
from infifusion.merge.engine.plan import MergePlan

SIDE_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.py")
OF_TOKENIZERS = ("tokenizer", "vocab", "merges", "added_tokens", "special_tokens", "chat_template")


def copy_side_files(plan: MergePlan, folder: Path) -> None:
    """Generation config, tokenizer and the like beside the weights."""
    for pattern in SIDE_FILES:
        for path in sorted(plan.donor.folder.glob(pattern)):
            stale = plan.vocabulary is not None and path.name.startswith(OF_TOKENIZERS)
            if path.is_file() and not path.name.endswith(".index.json") and not stale:
                shutil.copyfile(path, folder / path.name)
    if plan.vocabulary is not None:
        plan.vocabulary.tokenizer.save_pretrained(folder)


def config_of(plan: MergePlan) -> dict[str, Any]:
    """The donor's config with the layers, the vocabulary and the dtype of the result. Raises
    CheckpointError where a stacked model's config lacks what the donor's says per layer."""
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
        inner["vocab_size"] = plan.vocabulary.rows
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
