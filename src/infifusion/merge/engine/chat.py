"""The chat template of a merge's result."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from infifusion.errors import RecipeError
from infifusion.merge.engine.models import Model
from infifusion.merge.engine.plan import MergePlan

TEMPLATE = "chat_template.jinja"
CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


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
