"""The chat template of a merge's result."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from infifusion.errors import RecipeError
from infifusion.stages.merge_models import Model
from infifusion.stages.merge_plan import MergePlan

TEMPLATE = "chat_template.jinja"
CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_chat_template(plan: MergePlan, folder: Path) -> None:
    """Write what the file's chat_template asks for; nothing where it asks for nothing.

    auto: the one that most of the models have, the donor's among equals. Raises RecipeError for a
    name that is no template, and for auto where no model has one.
    """
    wanted = plan.chat_template
    if wanted is None:
        return
    if wanted == "auto":
        text = _most_common(plan)
    elif wanted == "chatml":
        text = CHATML
    elif "{%" in wanted or "{{" in wanted:
        text = wanted
    else:
        raise RecipeError(
            f"chat_template: {wanted!r} is neither auto, chatml nor a Jinja template. Write the "
            "template itself."
        )
    (folder / TEMPLATE).write_text(text, encoding="utf-8")
    config = folder / "tokenizer_config.json"
    if config.exists():
        values = json.loads(config.read_text(encoding="utf-8"))
        if values.pop("chat_template", None) is not None:
            config.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _most_common(plan: MergePlan) -> str:
    found = [text for model in [plan.donor, *plan.models] if (text := _template(model))]
    if not found:
        raise RecipeError("chat_template: auto, but no model of the merge has a chat template.")
    return Counter(found).most_common(1)[0][0]


def _template(model: Model) -> str | None:
    if (model.folder / TEMPLATE).exists():
        return (model.folder / TEMPLATE).read_text(encoding="utf-8")
    config = model.folder / "tokenizer_config.json"
    if config.exists():
        return json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    return None
