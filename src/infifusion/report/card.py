"""The model card of a checkpoint: README.md with the front matter that the hub reads, and the
recipe beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from infifusion.process.redact import redact, redact_text
from infifusion.report.table import CAPTION, markdown_table
from infifusion.report.use import has_chat_template
from infifusion.store.durable import atomic_write
from infifusion.store.records import Json

RECIPE = "infifusion_recipe.yaml"
PAPER = "2501.02795"
HOW_MADE = {
    "unified": "All sources taught the pivot at once: at every position of the response their "
    "distributions were mixed into one target, and the pivot was distilled on it.",
    "pairwise": "The pivot was distilled against one source at a time; this is one such copy.",
    "sft": "The pivot was fine-tuned on the gold responses alone, for comparison.",
}
MERGED = (
    "The pivot was distilled against each source apart, and the distilled copies were merged with "
    "the method `{method}`."
)
OURS = (
    "RSAF (Rate-Skewness Adaptive Fusion) and uncertainty-based weighting follow the abstract of "
    f"[arXiv {PAPER}](https://arxiv.org/abs/{PAPER}); their formulas here are our reconstruction, "
    "as the paper's formulas are not public to us."
)
LICENSE = (
    "Not known to the program that wrote this card. The licences of the models named above, and of "
    "the data, bind this one too: read them, then set `license` in the front matter."
)
CITATION = f"""```bibtex
@misc{{infifusion2025,
  title = {{InfiFusion: A Unified Framework for Enhanced Cross-Model Reasoning via LLM Fusion}},
  year = {{2025}},
  eprint = {{{PAPER}}},
  archivePrefix = {{arXiv}},
}}
```"""


def write_model_card(
    model_dir: Path,
    *,
    name: str,
    recipe: Json,
    summary: Json | None,
    base_model: str,
    sources: Mapping[str, str],
    method: str,
    data: Sequence[str] = (),
    task_data: Mapping[str, tuple[str, str]] | None = None,
) -> None:
    """Write README.md and infifusion_recipe.yaml of a run's model, each whole or not at all.

    name: the model's name in the summary. recipe: the recipe as plain values. summary: what
    `summarise` returns, or None before anything is scored. base_model: the pivot's hub name or
    folder. sources: name -> hub name or folder. method: `unified`, `pairwise`, `sft`, or the
    merge method. data: hub names or files of the training data. task_data: task -> hub data set and
    split. Only hub names reach the front matter; local paths are reduced to their last folder, so
    that a card can be published.
    """
    pivot = hub_name(base_model)
    merged = method not in HOW_MADE
    front = _front_matter(
        base_models=[pivot] if pivot else [],
        merged=merged,
        tags=["distillation", method],
        datasets=list(dict.fromkeys(found for path in data if (found := hub_name(path)))),
        model_name=name,
        eval_results=_results(name, summary, task_data or {}) or None,
    )
    listed = "\n".join(f"* `{key}`: {public_name(path)}" for key, path in sources.items())
    made = f"""Made with InfiFusion from the pivot **{public_name(base_model)}** and these sources:

{listed}

{HOW_MADE.get(method) or MERGED.format(method=method)}

{OURS}"""
    plain = "" if has_chat_template(model_dir) else _plain_prompts(recipe)
    _write(model_dir, front, name, made, recipe, scores=_scores(name, summary), prompts=plain)


def write_merge_card(
    model_dir: Path, *, name: str, recipe: Json, base: str | None, models: list[str], method: str
) -> None:
    """The same for a model that `infifusion merge` made; recipe: the merge file's values; base and
    models as the file names them."""
    named = [hub_name(model) for model in ([base] if base else []) + models]
    front = _front_matter(
        base_models=list(dict.fromkeys(found for found in named if found)),
        merged=True,
        tags=[method],
        model_name=name,
    )
    listed = "\n".join(f"* {public_name(model)}" for model in models)
    over = f" over the base **{public_name(base)}**" if base else ""
    made = f"Merged with InfiFusion by the method `{method}`{over} from:\n\n{listed}"
    _write(model_dir, front, name, made, recipe, scores="This model was not scored.")


def hub_name(path: str) -> str | None:
    """The hub name that a model or data set is called by, without revision and adapter; None for a
    local folder or file, which the hub does not know."""
    name = path.partition("+")[0].partition("@")[0]
    if path.startswith(("/", ".", "~")) or Path(path).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def public_name(path: str) -> str:
    """A hub name as it is; of a local path only the last folder."""
    local = path.startswith(("/", ".", "~")) or Path(path).exists()
    return Path(path).name if local else path


def public_values(value: Any) -> Any:
    """Plain values in which every absolute or home path is reduced to its last folder or file."""
    if isinstance(value, dict):
        return {key: public_values(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [public_values(entry) for entry in value]
    if isinstance(value, str) and value.startswith(("/", "~/")) and "\n" not in value:
        return public_name(value)
    return value


def _front_matter(
    *, base_models: list[str], merged: bool, tags: list[str], **others: Any
) -> ModelCardData:
    return ModelCardData(
        base_model=base_models if len(base_models) > 1 else next(iter(base_models), None),
        base_model_relation=("merge" if merged else "finetune") if base_models else None,
        library_name="transformers",
        license="unknown",
        pipeline_tag="text-generation",
        tags=[*(["merge"] if merged else []), "infifusion", "model-fusion", *tags],
        **others,
    )


def _plain_prompts(recipe: Json) -> str:
    """How a prompt is to be written for a model without a chat template."""
    template = recipe.get("data", {}).get("plain_template", "{prompt}{response}")
    return (
        "\nIts tokenizer has no chat template. In training, prompt and response were written as\n"
        f"`{template!r}` (a Python string), and the end-of-text token after them.\n"
    )


def _write(
    model_dir: Path,
    front: ModelCardData,
    name: str,
    made: str,
    recipe: Json,
    *,
    scores: str,
    prompts: str = "",
) -> None:
    text = yaml.safe_dump(public_values(redact(recipe)), sort_keys=False, allow_unicode=True)
    card = f"""---
{front.to_yaml()}
---

# {name}

{made}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/{name}")
tokenizer = AutoTokenizer.from_pretrained("path/to/{name}")
```
{prompts}
## Scores

{scores}

## License

{LICENSE}

## Recipe

Also in `{RECIPE}`, without the folders that files lay in.

```yaml
{text.rstrip()}
```

## Citation

{CITATION}
"""
    for file, content in (("README.md", card), (RECIPE, text)):
        with atomic_write(model_dir / file) as temporary:
            temporary.write_text(redact_text(content), encoding="utf-8")


def _results(
    name: str, summary: Json | None, task_data: Mapping[str, tuple[str, str]]
) -> list[EvalResult]:
    """The model-index: accuracy of every task, bits per byte of every domain."""
    model = (summary or {}).get("models", {}).get(name)
    if model is None:
        return []
    accuracy = []
    for task, score in model["scores"].items():
        hub, split = task_data.get(task, (task, None))
        accuracy.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=hub,
                dataset_name=task,
                dataset_split=split,
                metric_type="accuracy",
                metric_name=f"accuracy on {score['n']} items",
                metric_value=score["accuracy"],
            )
        )
    bits = [
        EvalResult(
            task_type="text-generation",
            dataset_type=f"{domain}-held-out",
            dataset_name=f"{domain} (held out)",
            metric_type="bits_per_byte",
            metric_name="bits per byte of the responses",
            metric_value=value,
        )
        for domain, value in model["bits_per_byte"].items()
    ]
    return accuracy + bits


def _scores(name: str, summary: Json | None) -> str:
    if not summary or name not in summary["models"]:
        return "This model was not scored in its run."
    return f"{markdown_table(summary)}\n{CAPTION}"
