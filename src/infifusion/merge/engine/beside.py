"""What stands beside merged weights: config.json, generation config, tokenizer, chat template."""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.checkpoints.dtypes import FLOATS, NAME_OF
from infifusion.merge.checkpoints.reader import text_config
from infifusion.merge.engine.models import LAYER_COUNTS, TIED_HEAD, Model
from infifusion.merge.engine.plan import MergePlan

SIDE_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.py")
OF_TOKENIZERS = ("tokenizer", "vocab", "merges", "added_tokens", "special_tokens", "chat_template")
TEMPLATE = "chat_template.jinja"
CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


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
        inner["vocab_size"] = plan.vocabulary.rows
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


def chat_template_of(plan: MergePlan) -> str | None:
    """The template that the file's chat_template asks for; None where it asks for nothing.

    auto: the one that most of the models have, the donor's among equals. Raises RecipeError for a
    name that is no template, and for auto where no model has one.
    """
    wanted = plan.chat_template
    if wanted is None:
        return None
    if wanted == "auto":
        return _most_common(plan)
    if wanted == "chatml":
        return CHATML
    if "{%" in wanted or "{{" in wanted:
        return wanted
    raise RecipeError(
        f"chat_template: {wanted!r} is neither auto, chatml nor a Jinja template. Write the "
        "template itself."
    )


def write_chat_template(text: str, folder: Path) -> None:
    """Let `text` be the template of the tokenizer in the folder."""
    (folder / TEMPLATE).write_text(text, encoding="utf-8")
    config = folder / "tokenizer_config.json"
    if config.exists():
        values = json.loads(config.read_text(encoding="utf-8"))
        if values.pop("chat_template", None) is not None:
            config.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _most_common(plan: MergePlan) -> str:
    found = [text for model in [plan.donor, *plan.models] if (text := _template(model))]
    if not found:
        raise RecipeError(
            "chat_template: auto, but no model of the merge has a chat template. Remove "
            "the key, or "
            "name a template or a file."
        )
    return Counter(found).most_common(1)[0][0]


def _template(model: Model) -> str | None:
    if (model.folder / TEMPLATE).exists():
        return (model.folder / TEMPLATE).read_text(encoding="utf-8")
    config = model.folder / "tokenizer_config.json"
    if config.exists():
        found = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
        if isinstance(found, list):  # several by name
            found = {one.get("name"): one.get("template") for one in found}.get("default")
        return found if isinstance(found, str) else None
    return None
