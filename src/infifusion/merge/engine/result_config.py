"""config.json of the result."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.dtypes import FLOATS, NAME_OF
from infifusion.merge.checkpoints.reader import text_config
from infifusion.merge.engine.model import LAYER_COUNTS, TIED_HEAD, Model
from infifusion.merge.engine.planner import MergePlan
from infifusion.merge.engine.special_ids import with_special_ids


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
        inner = text_config(config)
        inner["vocab_size"] = plan.vocabulary.rows
    elif plan.donor.rows != plan.donor.stored_rows:
        inner["vocab_size"] = plan.donor.rows
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
