"""How much faster `teach`, `fuse` and `evaluate` are with two processes than with one.

    .venv/bin/python benchmarks/two_processes.py [--examples 600] [--json FILE]

Two small sources and a pivot with random weights over made-up text, one thread per process, the
whole recipe until `fuse` and the scoring of one model, once with one process and once with
`torchrun --nproc-per-node 2`. Checks that both write the same bytes. Prints seconds per stage as
the manifests have them (loading the model included); writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from bpe import byte_level_bpe
from transformers import LlamaConfig, LlamaForCausalLM


def texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    letters = list("etaoinshrdlucm")
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(3000)]
    return [" ".join(words[n] for n in rng.integers(0, 3000, 120)) for _ in range(count)]


def make(folder: Path, examples: int) -> Path:
    """Models, data and the recipe."""
    lines = texts(examples + 100)
    for seed, (name, size) in enumerate({"pivot": 4000, "a": 8000, "b": 6000}.items()):
        byte_level_bpe(lines, size).save_pretrained(folder / name)
        torch.manual_seed(seed)
        width = 256
        config = LlamaConfig(
            vocab_size=size,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            eos_token_id=0,
            bos_token_id=None,
        )
        LlamaForCausalLM(config).save_pretrained(folder / name)
    for name, some in (("train", lines[:examples]), ("held_out", lines[examples:])):
        rows = [{"prompt": f"Text {n}:\n", "response": text} for n, text in enumerate(some)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "spread",
        "pivot": {"model": "pivot"},
        "sources": {"a": {"model": "a"}, "b": {"model": "b"}},
        "data": {
            "train": [{"path": "train.jsonl", "domain": "text"}],
            "held_out": [{"path": "held_out.jsonl", "domain": "text"}],
        },
        "teach": {"shard_examples": 50},
        "fuse": {"unified": {"function": "uncertainty"}},
        "evaluate": {"models": ["pivot", "source:a", "source:b"]},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def run(recipe: Path, out: Path, processes: int) -> dict[str, float]:
    """Seconds per stage and in all."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "infifusion", "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    started = time.perf_counter()
    subprocess.run(
        [*command, str(recipe), "--run-dir", str(out)],
        env=environment,
        check=True,
        capture_output=True,
    )
    found = {"whole run": time.perf_counter() - started}
    for stage in ("teach", "fuse", "evaluate"):
        manifests = [json.loads(p.read_text()) for p in (out / stage).rglob("manifest.json")]
        found[stage] = sum(one["seconds"] for one in manifests)
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=600)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = make(folder, options.examples)
        run(recipe, folder / "warm", 1)
        one, two = (run(recipe, folder / str(n), n) for n in (1, 2))
        shards = sorted(p for p in (folder / "1").rglob("shard-*.safetensors"))
        for path in shards:
            other = folder / "2" / path.relative_to(folder / "1")
            assert path.read_bytes() == other.read_bytes(), path
    print("| stage | 1 process, s | 2 processes, s | speed-up |\n|---|---|---|---|")
    for stage in ("teach", "fuse", "evaluate", "whole run"):
        speed = one[stage] / two[stage]
        print(f"| {stage} | {one[stage]:.1f} | {two[stage]:.1f} | {speed:.2f} |")
    print(f"\n{len(shards)} shards of the caches hold the same bytes.")
    if options.json:
        options.json.write_text(json.dumps({"one": one, "two": two}, indent=1))


if __name__ == "__main__":
    main()
