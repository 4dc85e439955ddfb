"""The model card of a fused checkpoint: README.md with the front matter that the hub reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from infifusion.artifacts import Json, atomic_write
from infifusion.redact import redact, redact_text
from infifusion.report.table import CAPTION, markdown_table

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
    sources: dict[str, str],
    method: str,
) -> None:
    """Write model_dir/README.md, whole or not at all.

    name: the model's name in the summary. recipe: the recipe as plain values. summary: what
    `summarise` returns, or None before anything is scored. base_model: the pivot's hub name or
    folder. sources: name -> hub name or folder. method: `unified`, `pairwise`, `sft`, or the
    merge method. Local paths, absolute or relative with a leading dot or tilde, or existing on
    this machine, are reduced to the name of their last folder, so that a card can be published.
    """
    merged = method not in HOW_MADE
    pivot = public_name(base_model)
    data = ModelCardData(
        base_model=pivot,
        base_model_relation="merge" if merged else "finetune",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[*(["merge"] if merged else []), "infifusion", "model-fusion", "distillation", method],
        model_name=name,
        eval_results=_results(name, summary) or None,
    )
    listed = "\n".join(f"* `{key}`: {public_name(path)}" for key, path in sources.items())
    scores = _scores(name, summary)
    text = f"""---
{data.to_yaml()}
---

# {name}

Made with InfiFusion from the pivot **{pivot}** and these sources:

{listed}

{HOW_MADE.get(method) or MERGED.format(method=method)}

{OURS}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/{name}")
tokenizer = AutoTokenizer.from_pretrained("path/to/{name}")
```

## Scores

{scores}

## Recipe

```yaml
{yaml.safe_dump(public_values(redact(recipe)), sort_keys=False, allow_unicode=True).rstrip()}
```

## Citation

{CITATION}
"""
    with atomic_write(model_dir / "README.md") as temporary:
        temporary.write_text(redact_text(text), encoding="utf-8")


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


def _results(name: str, summary: Json | None) -> list[EvalResult]:
    """The model-index: accuracy of every task, bits per byte of every domain."""
    model = (summary or {}).get("models", {}).get(name)
    if model is None:
        return []
    accuracy = [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=task,
            metric_type="accuracy",
            metric_name=f"accuracy on {score['n']} items",
            metric_value=score["accuracy"],
        )
        for task, score in model["scores"].items()
    ]
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
