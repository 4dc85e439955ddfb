"""What `plan --calibrate` times: tiny recipes run from end to end, and a few primitives.

    python -m infifusion.setup.timed FOLDER STARTED [RECIPE ...]

Runs in a process of its own, so that `plan` never imports torch. STARTED is the time.time() at
which the process was made. The stages themselves are run, so the figures follow the code. Writes
FOLDER/probe.json: seconds until the stages were imported, wall seconds of every recipe, matrix
products by width, and the anonymous memory of a process that has imported everything.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

# Hidden size, inner size, layers and vocabulary of the models: each is large in one thing alone.
SHAPES = {
    "thin": (32, 96, 3, "small"),
    "deep": (32, 96, 14, "small"),
    "wide": (256, 704, 2, "small"),
    "tall": (32, 96, 1, "large"),
}
ENTRIES = {"small": 400, "large": 12_000}
EXAMPLES, HELD_OUT, ITEMS = 240, 60, 8
# A recipe that ends with its teacher pass and target: enough texts to see what each token costs.
TEXTS, MANY = "texts", 1500
STEPS = {"short": (30, 2, "unified"), "long": (8, 16, "unified"), "sft": (8, 16, None)}
WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)


def main(folder: Path, started: float, names: list[str]) -> None:
    """Run the named recipes, one process, and write probe.json."""
    from infifusion.stages.run import run_recipe

    imported = time.time() - started
    from infifusion.process.runtime import log
    from infifusion.recipe import load_recipe

    make_suite(folder)
    walls: dict[str, float] = {}
    memory = 0
    every = recipes(folder)
    for name in names or every:
        values = every[name]
        path = folder / f"{name}.yaml"
        path.write_text(json.dumps(values), encoding="utf-8")
        begun = time.monotonic()
        recipe = load_recipe(path)
        log.disabled = True
        until = "fuse" if name == TEXTS else "evaluate"
        run_recipe(recipe, folder / name, until=until, recipe_file=path, command="plan")
        walls[name] = time.monotonic() - begun
        # After the first, everything is imported; later ones keep what larger models freed.
        memory = memory or anonymous_bytes()
    found = {
        "imported": imported,
        "walls": walls,
        "base_memory": memory,
        "threads": os.cpu_count(),
        **primitives(folder),
    }
    (folder / "probe.json").write_text(json.dumps(found), encoding="utf-8")


def recipes(folder: Path) -> dict[str, dict[str, Any]]:
    """The recipes by name. cold and thin are the same one: what the first costs more is paid once
    per process."""

    def data(split: str) -> list[dict[str, str]]:
        return [{"path": str(folder / f"{split}.jsonl"), "domain": "probe"}]

    def one(
        pivot: str, *sources: str, whole: bool = False, tasks: bool = False, train: str = "train"
    ) -> dict[str, Any]:
        runs: dict[str, dict[str, Any]] = {}
        for name, (steps, batch, target) in STEPS.items():
            runs[name] = {"training": {"max_steps": steps, "per_device_train_batch_size": batch}}
            runs[name] |= {"target": target} if target else {}
        asked = {
            "tasks": ["demo_word"],
            "tasks_from": "infifusion.demo.tasks:TASKS",
            "data": str(folder),
            "batch_size": 4,
            "max_new_tokens": 24,
        }
        merge = {"merge": {"merged": {"models": ["short", "long"], "method": "linear"}}}
        return {
            "name": "probe",
            "pivot": {"model": str(folder / pivot)},
            "sources": {name: {"model": str(folder / name)} for name in sources},
            "data": {"train": data(train), "held_out": data("held_out"), "max_length": 512},
            "teach": {"batch_tokens": 512 if whole else 8192, "shard_examples": 120},
            "fuse": {"unified": {}},
            "distill": runs,
            **(merge if whole else {}),
            "evaluate": {"models": ["pivot", "sft"], **(asked if tasks else {})},
        }

    return {
        "cold": one("thin", "thin", whole=True, tasks=True),
        "thin": one("thin", *SHAPES, whole=True, tasks=True),
        "deep": one("deep", "deep", tasks=True),
        "wide": one("wide", "wide"),
        "tall": one("tall", "tall", "thin"),
        TEXTS: one("thin", "thin", train=TEXTS),
    }


def make_suite(folder: Path) -> None:
    """Models with random weights, two tokenizers, random sentences."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from infifusion.data.lines import write_lines

    rng = random.Random(0)
    syllables = [c + v for c in "bcdfghklmnprst" for v in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(2000)]

    def sentence(low: int, high: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(low, high)))

    def write(name: str, count: int) -> None:
        lines = [
            {"id": n, "prompt": f"{sentence(4, 12)}.\n", "response": sentence(6, 24), "answer": "1"}
            for n in range(count)
        ]
        write_lines(folder / f"{name}.jsonl", lines)

    counts = {"train": EXAMPLES, TEXTS: MANY, "held_out": HELD_OUT, "demo_word": ITEMS}
    for name, count in counts.items():
        write(name, count)
    tokenizers = {kind: tokenizer(entries, words) for kind, entries in ENTRIES.items()}
    torch.manual_seed(0)
    for name, (hidden, inner, layers, kind) in SHAPES.items():
        tokenizers[kind].save_pretrained(folder / name)
        config = LlamaConfig(
            vocab_size=len(tokenizers[kind]),
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)


def tokenizer(entries: int, words: list[str]) -> Any:
    """A ByteLevel BPE; beyond what the words give, pairs of bytes that never occur."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from infifusion.demo.tokenizers import END, byte_level

    made = byte_level([" ".join(words)], size=ENTRIES["small"])
    values = json.loads(made.backend_tokenizer.to_str())
    vocabulary, merges = values["model"]["vocab"], values["model"]["merges"]
    rare = [token for token in vocabulary if len(token) == 1][-150:]
    for left, right in product(rare, repeat=2):
        if len(vocabulary) < entries and left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            merges.append([left, right])
    larger = Tokenizer.from_str(json.dumps(values))
    return PreTrainedTokenizerFast(tokenizer_object=larger, eos_token=END, pad_token=END)


def primitives(folder: Path) -> dict[str, Any]:
    """Rates that no recipe is needed for: products, the optimizer, memory, disk, hashing."""
    import torch

    def product(width: int) -> float:
        left, right = torch.rand(2048, width), torch.rand(width, width)
        return 2 * 2048 * width * width / best(lambda: torch.mm(left, right))

    weight = torch.nn.Parameter(torch.rand(4_000_000))
    optimizer = torch.optim.AdamW([weight], lr=1e-6, fused=True)

    def step() -> None:
        weight.grad = torch.zeros_like(weight)
        weight.grad.add_(1e-3)
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step()

    block = torch.rand(16_000_000)
    data = os.urandom(1 << 20) * 64

    def write() -> None:
        with (folder / "disk").open("wb") as file:
            file.write(data)
            os.fsync(file.fileno())

    return {
        "matmul": [(width, product(width)) for width in WIDTHS],
        "parameter_step": best(step) / weight.numel(),
        "decode_byte": best(lambda: block.sum()) / (4 * block.numel()),
        "write_byte": best(write) / len(data),
        "hash_byte": best(lambda: hashlib.sha256(data).digest()) / len(data),
    }


def best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of ten calls: what others do meanwhile only makes them slower."""
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def anonymous_bytes() -> int:
    """RssAnon of this process; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return 1024 * int(status.read_text().split("RssAnon:")[1].split()[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
