"""Small models, adapters and merges that the tests of whole merges make themselves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from infifusion.merge.engine.file import read_merge_file
from infifusion.merge.engine.plan import checked_plan
from infifusion.merge.engine.weights import run_plan

SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
IDS = torch.arange(2, 12)[None]
WEIGHTS = "model.safetensors"


def made(folder: Path, config: Any, *, seed: int = 0, kind: Any = None) -> Any:
    """A model of random weights, saved in the folder; norms are random, too."""
    torch.manual_seed(seed)
    model = (kind or AutoModelForCausalLM).from_config(config) if kind is None else kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.eval().save_pretrained(folder)
    return model


def copied(
    folder: Path,
    name: str,
    *,
    tensors: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
    renamed: Callable[[str], str] | None = None,
    **config: Any,
) -> Path:
    """A copy beside the folder, with other tensors, other names, or other entries in its config; an
    entry that is ... is left out."""
    other = folder.parent / name
    shutil.copytree(folder, other)
    if tensors or renamed:
        values = load_file(folder / WEIGHTS)
        values = tensors(values) if tensors else values
        values = {renamed(k): v for k, v in values.items()} if renamed else values
        values = {k: v.clone() for k, v in values.items()}
        save_file(values, other / WEIGHTS, metadata={"format": "pt"})
    if config:
        values = json.loads((other / "config.json").read_text()) | config
        values = {key: value for key, value in values.items() if value is not ...}
        (other / "config.json").write_text(json.dumps(values))
    return other


def merged(folder: Path, out: str = "out", *, pickle: bool = False, **values: Any) -> Path:
    """Plan and carry out a merge of models in the folder; the notes go beside the result."""
    path = folder / f"{out}.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    plan = checked_plan(read_merge_file(path, base_override=None), path, pickle=pickle)
    run_plan(plan, folder / out)
    (folder / f"{out}.notes").write_text("\n".join(plan.notes))
    return folder / out


def mean_of(folder: Path, *names: str, out: str = "out", **values: Any) -> Path:
    """The linear merge with equal weights."""
    listed = [{"model": name, "parameters": {"weight": 1.0}} for name in names]
    return merged(folder, out, merge_method="linear", models=listed, **values)


def notes_of(out: Path) -> str:
    return out.with_name(f"{out.name}.notes").read_text()


def loaded(folder: Path, kind: Any = AutoModelForCausalLM) -> Any:
    """The model as transformers loads it, with nothing lacking, left over or new."""
    model, told = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


def adapted(base: Path, folder: Path, *, kind: Any = AutoModelForCausalLM, **options: Any) -> Any:
    """A trained LoRA adapter of the model, saved in the folder, and the model with it."""
    model = kind.from_pretrained(base).eval()
    adapter = get_peft_model(model, LoraConfig(**{"r": 3, "lora_alpha": 7, **options})).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    adapter.save_pretrained(folder)
    return adapter


def changed_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
