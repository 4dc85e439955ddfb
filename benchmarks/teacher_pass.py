"""The teacher pass against the bare forward pass of the same model, and its memory.

    .venv/bin/python benchmarks/teacher_pass.py [--repeats 5] [--json FILE]

Time: a Llama-shaped model of hidden size 256 with 32,000 vocabulary entries, every token a
response token. Bare: `model(ids, attention_mask).logits` over the same batches. Memory: one example
of 4,096 tokens and 152,000 vocabulary entries, in a process of its own; the peak of resident
memory over that of the same forward pass without a head. Prints a table; writes JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from infifusion.process.runtime import keep_freed_memory
from infifusion.teacher.forward import Teacher, batches, believe, make_teacher
from infifusion.types import Rendered


def model_of(vocabulary: int, *, hidden: int, layers: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=hidden * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            num_key_value_heads=hidden // 64,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        )
    ).eval()


def data_of(examples: int, length: int, vocabulary: int) -> Rendered:
    """Examples whose tokens are all response but the first."""
    rng = np.random.default_rng(0)
    rows = length - 1
    return Rendered(
        ids_L=rng.integers(0, vocabulary, examples * length).astype(np.int32),
        offset_N1=np.arange(examples + 1, dtype=np.int64) * length,
        first_N=np.ones(examples, np.int32),
        start_R=np.tile(np.arange(rows, dtype=np.int32), examples),
        row_N1=np.arange(examples + 1, dtype=np.int64) * rows,
    )


def bare(model: LlamaForCausalLM, data: Rendered, batch_tokens: int) -> None:
    """Nothing but the model's own logits."""
    for batch in batches(data, 0, len(data), batch_tokens):
        ids = np.stack([data.ids_L[data.offset_N1[n] : data.offset_N1[n + 1]] for n in batch])
        with torch.inference_mode():
            tensor = torch.from_numpy(ids.astype(np.int64))
            _ = model(input_ids=tensor, attention_mask=torch.ones_like(tensor)).logits


def ready(model: LlamaForCausalLM, batch_tokens: int) -> Teacher:
    """Once per model, as loading is: its halves are found and compared on a few tokens."""
    return make_teacher(model, top_k=10, batch_tokens=batch_tokens, head_rows=None)


def taught(teacher: Teacher, data: Rendered) -> None:
    """What `teach` does with it."""
    names = [str(n) for n in range(len(data))]
    believe(teacher, data, 0, len(data), names=names)


def seconds(work, *arguments: object) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def time_rows(repeats: int) -> list[dict]:
    rows = []
    for layers in (4, 12):
        model = model_of(32_000, hidden=256, layers=layers)
        data = data_of(16, 256, 32_000)
        found: dict[str, list[float]] = {"bare": [], "teach": []}
        teacher = ready(model, 1024)
        bare(model, data, 1024), taught(teacher, data)
        for _ in range(repeats):
            found["bare"].append(seconds(bare, model, data, 1024))
            found["teach"].append(seconds(taught, teacher, data))
        row = {name: statistics.median(values) for name, values in found.items()}
        pairs = zip(found["teach"], found["bare"], strict=True)
        row |= {"layers": layers, "ratio": statistics.median(t / b for t, b in pairs)}
        rows.append(row)
        print(
            f"| hidden 256, {layers} layers, V 32,000 | {row['bare']:.2f} s | {row['teach']:.2f} s "
            f"| **{row['ratio']:.2f}** | 1.15 |",
            flush=True,
        )
    return rows


def peak_kb(field: str = "VmHWM") -> int:
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


def memory_of(kind: str) -> None:
    """Print the peak of resident memory, in KB, of one pass over 4,096 tokens, V = 152,000."""
    keep_freed_memory()
    model = model_of(152_000, hidden=64, layers=2)
    data = data_of(1, 4096, 152_000)
    ids = torch.from_numpy(data.ids_L.astype(np.int64))[None]
    if kind == "body":
        with torch.inference_mode():
            model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids))
    elif kind == "bare":
        bare(model, data, 4096)
    else:
        taught(ready(model, 4096), data)
    print(peak_kb())


def memory_rows() -> dict[str, float]:
    peaks = {}
    for kind in ("body", "bare", "teach"):
        command = [sys.executable, __file__, "--memory-of", kind]
        peaks[kind] = int(subprocess.run(command, capture_output=True, check=True).stdout) / 1024
    found = {kind: peaks[kind] - peaks["body"] for kind in ("bare", "teach")}
    print(
        f"\nMemory beyond the model and its hidden states, T = 4,096, V = 152,000: bare "
        f"{found['bare']:.0f} MB, teach {found['teach']:.0f} MB (target 512)."
    )
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", choices=("body", "bare", "teach"))
    options = parser.parse_args()
    if options.memory_of:
        memory_of(options.memory_of)
        return
    print("| model | bare forward | teach | ratio | target |\n|---|---|---|---|---|")
    keep_freed_memory()
    found = {"time": time_rows(options.repeats), "memory_mb": memory_rows()}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
