"""The smallest complete recipe: unified and pairwise fusion of three sources, merged, scored.

Tiny random models, two shards per teacher pass, a training checkpoint at every step.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import (
    TEXTS,
    arithmetic,
    byte_level_tokenizer,
    sentencepiece_tokenizer,
    tiny_model,
    write_jsonl,
)

EXAMPLES = 24
HELD_OUT = 4


def write_small_run(folder: Path) -> Path:
    """Models, data and recipe.yaml in `folder`; returns the recipe."""
    tokenizers = {
        "pivot": ("llama", byte_level_tokenizer(320)),
        "a": ("llama", byte_level_tokenizer(300, TEXTS[:1])),
        "b": ("gpt2", sentencepiece_tokenizer(330)),
        "c": ("qwen2", byte_level_tokenizer(290, TEXTS[2:3])),
    }
    for seed, (name, (kind, tokenizer)) in enumerate(tokenizers.items()):
        tokenizer.save_pretrained(folder / name)
        tiny_model(kind, len(tokenizer) + 5, seed).save_pretrained(folder / name)
    write_jsonl(folder / "train.jsonl", [arithmetic(n) for n in range(EXAMPLES)])
    held_out = [arithmetic(n) for n in range(EXAMPLES, EXAMPLES + HELD_OUT)]
    write_jsonl(folder / "held_out.jsonl", held_out)
    items = [
        {"id": f"i{n}", **one, "answer": str(n)} for n, one in enumerate(held_out[:2], start=3)
    ]
    (folder / "tasks").mkdir()
    write_jsonl(folder / "tasks" / "demo_word.jsonl", items)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(_values(folder)), encoding="utf-8")
    return recipe


def _values(folder: Path) -> dict:
    return {
        "name": "small",
        "pivot": {"model": str(folder / "pivot")},
        "sources": {name: {"model": str(folder / name)} for name in "abc"},
        "data": {
            "train": [{"path": str(folder / "train.jsonl"), "domain": "sums"}],
            "held_out": [{"path": str(folder / "held_out.jsonl"), "domain": "sums"}],
            "max_length": 128,
        },
        "teach": {"top_k": 5, "shard_examples": 12},
        "fuse": {
            "unified": {"function": "uncertainty", "gate": "none"},
            "pair": {"function": "mean", "each": True, "gate": "none"},
        },
        "training": {
            "learning_rate": 1e-3,
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "save_steps": 1,
        },
        "distill": {
            "unified": {"target": "unified", "gold_weight": 0.1},
            "pair": {"target": "pair", "each": True},
        },
        "merge": {"pairwise": {"method": "rsaf", "models": ["pair"]}},
        "evaluate": {
            "tasks": ["demo_word"],
            "tasks_from": "infifusion.demo.tasks:TASKS",
            "data": str(folder / "tasks"),
            "max_new_tokens": 2,
            "batch_size": 8,
        },
    }
