"""The small files beside merged weights: tokenizer, generation config, code, chat template."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from infifusion.errors import RecipeError
from infifusion.merge.checkpoints.tokens import brings_tokens
from infifusion.merge.engine.model import Model
from infifusion.merge.engine.planner import MergePlan
from infifusion.merge.engine.result_config import with_special_ids, write_special_ids

SIDE_FILES = re.compile(r"\.(json|jinja|model|txt|py|tiktoken|bpe)$|^tokenizer\.model\.v\d+$")
# Of a training, an adapter, a quantisation or another program's format: not of the merged model.
NOT_OF_THE_RESULT = re.compile(
    r"^(adapter_|trainer_state|training_args|optimizer|scheduler|rng_state|quantize_config|"
    r"quant_config|quantization_config|hf_quant_config|zero_to_fp32|merge_details|"
    r"extract_details|transplant_details|params\.json$)|"
    r"_results\.json$|\.index\.json$"
)
OF_TOKENIZERS = re.compile(
    r"^(tokenizer|vocab|merges|added_tokens|special_tokens|chat_template|additional_chat_templates|"
    r"spiece|sentencepiece|encoder\.json$)|\.(tiktoken|bpe)$"
)
FOLDERS_OF_TEMPLATES = ("additional_chat_templates",)
DEEPEST = 4  # folders of code below the model's
TEMPLATE = "chat_template.jinja"
OLD_TEMPLATE = "chat_template.json"  # {chat_template: ...}, of processors that older versions saved
CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def copy_side_files(plan: MergePlan, folder: Path) -> None:
    """Generation config, tokenizer, templates and code beside the weights."""
    donor = plan.donor
    for path in side_files(donor.home):
        stale = plan.vocabulary is not None and OF_TOKENIZERS.search(str(path))
        if not stale:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(donor.home / path, folder / path)
    if plan.vocabulary is not None:
        plan.vocabulary.tokenizer.save_pretrained(folder)
        write_special_ids(folder, partial(with_special_ids, plan))
    elif donor.rows != donor.stored_rows or any(
        brings_tokens(where, donor.home) for where in donor.adapters
    ):
        # An adapter that brought more rows, or uses spare ones, has the tokens that they stand for.
        for path in (p for where in donor.adapters for p in side_files(where, root=where)):
            if OF_TOKENIZERS.search(path.name):
                shutil.copyfile(path, folder / path.name)


def side_files(folder: Path, *, root: Path = Path()) -> Iterator[Path]:
    """The files of a model folder that belong beside its weights, relative to it (or below
    `root`): those in the folder, templates by name, and code in folders below it."""
    found = [path for path in folder.iterdir() if SIDE_FILES.search(path.name)]
    for name in FOLDERS_OF_TEMPLATES:
        found += (folder / name).glob("*.jinja")
    found += _code(folder, DEEPEST)
    for path in sorted(set(found)):
        relative = path.relative_to(folder)
        if path.is_file() and not NOT_OF_THE_RESULT.search(path.name):
            yield root / relative


def _code(folder: Path, deepest: int) -> list[Path]:
    """Python files below the folder; links to folders are not followed."""
    found = []
    for path in folder.iterdir():
        if (
            path.is_dir()
            and not path.is_symlink()
            and not path.name.startswith((".", "_", "check"))
        ):
            found += path.glob("*.py")
            found += _code(path, deepest - 1) if deepest > 1 else []
    return found


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
            config.write_text(
                json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
    (folder / OLD_TEMPLATE).unlink(missing_ok=True)  # a processor would take it instead


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
    if (model.home / TEMPLATE).exists():
        return (model.home / TEMPLATE).read_text(encoding="utf-8")
    for path in (model.home / OLD_TEMPLATE, model.home / "tokenizer_config.json"):
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
            if isinstance(found, list):  # several by name
                found = {one.get("name"): one.get("template") for one in found}.get("default")
            if isinstance(found, str):
                return found
    return None
