"""What `infifusion plan` predicts against what `infifusion run` takes, on this machine's CPU.

    infifusion plan RECIPE --calibrate      # once; any recipe
    .venv/bin/python benchmarks/plan_vs_run.py --json runs/plan_vs_run.json

Three recipes, each different in vocabulary, widths, architectures, number of sources, lengths and
stages, with random weights and random text: `many` has three sources of three architectures over
many short examples, `wide` a padded vocabulary of 32k, `deep` wider and deeper models over long
examples, pairwise fusion, a merge and generation. None of them is used by --calibrate. For each,
the plan is printed before anything runs; then bytes of the files, the largest anonymous memory of
the process (RssAnon, sampled from outside every 20 ms) and the seconds of the manifests. On a
machine that is shared, OMP_NUM_THREADS=1 for the calibration and here adds a row of CPU seconds,
which others do not lengthen.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

TARGETS = {"cache bytes": 0.02, "checkpoint bytes": 0.02, "peak memory": 0.25, "seconds": 0.40}
STAGES = ("prepare", "teach", "fuse", "distill", "merge", "evaluate")

# name -> (kind, hidden, inner, layers, vocabulary, tokenizer entries)
CASES: dict[str, dict[str, Any]] = {
    "many": {
        "models": {
            "pivot": ("llama", 96, 256, 3, 1200, 1100),
            "a": ("llama", 112, 288, 3, 1000, 1000),
            "b": ("gpt2", 96, 288, 4, 900, 900),
            "c": ("qwen2", 80, 224, 3, 800, 800),
        },
        "words": (12, 40),
        "examples": 3000,
        "held_out": 300,
        "recipe": {
            "teach": {"batch_tokens": 8192},
            "fuse": {"unified": {}},
            "training": {"per_device_train_batch_size": 24},
            "distill": {"sft": {}, "unified": {"target": "unified"}},
        },
    },
    "wide": {
        "models": {
            "pivot": ("qwen2", 128, 384, 2, 32000, 2000),
            "a": ("llama", 160, 448, 3, 32000, 1500),
        },
        "words": (30, 90),
        "examples": 400,
        "held_out": 40,
        "recipe": {
            "teach": {"batch_tokens": 8192, "head_rows": 512},
            "fuse": {"unified": {}},
            "training": {"per_device_train_batch_size": 8},
            "distill": {"unified": {"target": "unified", "loss_rows": 512}},
        },
    },
    "deep": {
        "models": {
            "pivot": ("llama", 256, 704, 5, 4000, 3000),
            "a": ("qwen2", 320, 896, 4, 3500, 3000),
            "b": ("llama", 192, 512, 6, 2500, 2000),
        },
        "words": (80, 200),
        "examples": 240,
        "held_out": 24,
        "recipe": {
            "teach": {"batch_tokens": 4096},
            "fuse": {"pair": {"function": "mean", "each": True, "gate": "bits_per_byte"}},
            "training": {"per_device_train_batch_size": 4, "num_train_epochs": 1},
            "distill": {"pair": {"target": "pair", "each": True}},
            "merge": {"pairwise": {"method": "rsaf", "models": ["pair"]}},
            "evaluate": {
                "models": ["pivot", "pairwise"],
                "tasks": ["demo_word"],
                "tasks_from": "infifusion.demo.tasks:TASKS",
                "limit": 24,
                "batch_size": 8,
                "max_new_tokens": 48,
            },
        },
    },
}


def make(folder: Path, case: dict[str, Any]) -> Path:
    """Data, models and recipe.yaml of one case; returns the recipe's path."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = random.Random(str(folder.name))
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(6000)]
    low, high = case["words"]

    def write(name: str, count: int) -> None:
        lines = []
        for n in range(count):
            text = rng.choices(words, k=rng.randint(low, high))
            cut = len(text) // 4
            prompt, response = " ".join(text[:cut]) + "?\n", " ".join(text[cut:])
            lines.append({"id": n, "prompt": prompt, "response": response, "answer": "7"})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")

    write("train", case["examples"])
    write("held_out", case["held_out"])
    write("demo_word", 24)
    for name, settings in case["models"].items():
        make_model(folder / name, words, *settings)
    values = {
        "name": folder.name,
        "pivot": {"model": "pivot"},
        "sources": {n: {"model": n} for n in case["models"] if n != "pivot"},
        "data": {
            "train": [{"path": "train.jsonl", "domain": "text"}],
            "held_out": [{"path": "held_out.jsonl", "domain": "text"}],
            "max_length": 2048,
        },
        **case["recipe"],
    }
    if "evaluate" in values:
        values["evaluate"] = {**values["evaluate"], "data": "."}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")  # JSON is YAML
    return path


def make_model(
    folder: Path,
    words: list[str],
    kind: str,
    hidden: int,
    inner: int,
    layers: int,
    vocabulary: int,
    entries: int,
) -> None:
    """Random weights, and a ByteLevel BPE trained on the words."""
    from bpe import byte_level_bpe
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

    byte_level_bpe([" ".join(words)], entries, pad_token="<eos>").save_pretrained(folder)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=vocabulary,
            n_embd=hidden,
            n_inner=inner,
            n_layer=layers,
            n_head=4,
            n_positions=2048,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **ends,
        )
    else:
        config = (LlamaConfig if kind == "llama" else Qwen2Config)(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=kind == "llama",
            **ends,
        )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def planned(recipe: Path) -> dict[str, Any]:
    """`infifusion plan --json`, in a process of its own."""
    command = [sys.executable, "-m", "infifusion", "plan", str(recipe), "--json"]
    command += ["--run-dir", str(recipe.parent / "none")]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measured(recipe: Path, run: Path) -> dict[str, Any]:
    """`infifusion run`, watched from outside."""
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "infifusion", "run", str(recipe), "--run-dir", str(run)]
    started = time.perf_counter()
    log = run.parent / "run.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    peaks = {"RssAnon": 0, "VmHWM": 0}

    def watch() -> None:
        while True:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                for key in peaks:
                    kilobytes = int(status.split(f"{key}:")[1].split()[0])
                    peaks[key] = max(peaks[key], 1024 * kilobytes)
            except (OSError, IndexError):
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    watcher.join()
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    seconds = {stage: 0.0 for stage in STAGES}
    for manifest in run.rglob("manifest.json"):
        stage = manifest.relative_to(run).parts[0]
        seconds[stage] += json.loads(manifest.read_text())["seconds"]
    models = [path.parent for path in run.glob("*/*/model/config.json")]
    return {
        "seconds": {**seconds, "total": wall},
        "cache bytes": sum(f.stat().st_size for f in run.glob("teach/*/*.safetensors")),
        "target bytes": sum(f.stat().st_size for f in run.glob("fuse/*/*.npy")),
        "checkpoint bytes": sum(f.stat().st_size for m in models for f in m.iterdir()),
        "peak memory": peaks["RssAnon"],
        "VmHWM": peaks["VmHWM"],
        "cpu seconds": usage.ru_utime + usage.ru_stime,
    }


def compare(name: str, plan: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Predicted and measured, side by side."""
    total = plan["total"]
    by_stage = {
        stage: sum(row["seconds"] for row in plan["rows"] if row["stage"] == stage)
        for stage in STAGES
    }
    pairs = {
        "cache bytes": (total["cache_bytes"], run["cache bytes"]),
        "target bytes": (total["target_bytes"], run["target bytes"]),
        "checkpoint bytes": (total["checkpoint_bytes"], run["checkpoint bytes"]),
        "peak memory": (total["memory"], run["peak memory"]),
        "seconds": (total["seconds"], run["seconds"]["total"]),
        **{f"  {s} s": (by_stage[s], run["seconds"][s]) for s in STAGES if run["seconds"][s]},
    }
    if os.environ.get("OMP_NUM_THREADS") == "1":  # one thread: what others do costs none of them
        pairs["CPU seconds"] = (total["seconds"], run["cpu seconds"])
    return {
        "case": name,
        "pairs": {
            label: {"predicted": p, "measured": m, "error": p / m - 1}
            for label, (p, m) in pairs.items()
        },
        "VmHWM": run["VmHWM"],
        "cpu seconds": run["cpu seconds"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| case | | predicted | measured | error | target |", "|---|---|---:|---:|---:|---:|"]
    for row in rows:
        for label, pair in row["pairs"].items():
            seconds = label.endswith(" s") or "seconds" in label
            unit, form = (1.0, "{:.1f} s") if seconds else (1e6, "{:.2f} MB")
            target = TARGETS.get(label)
            cells = [
                row["case"],
                label.strip(),
                form.format(pair["predicted"] / unit),
                form.format(pair["measured"] / unit),
                f"{100 * pair['error']:+.1f} %",
                f"{100 * target:.0f} %" if target else "",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Make, plan, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/plan_vs_run"))
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.cases.split(","):
        recipe = make((options.work / name).resolve(), CASES[name])
        plan = planned(recipe)
        rows.append(compare(name, plan, measured(recipe, recipe.parent / "run")))
        print(table(rows[-1:]), flush=True)
    print("\n" + table(rows))
    missed = [
        f"{row['case']}: {label}"
        for row in rows
        for label, target in TARGETS.items()
        if abs(row["pairs"][label]["error"]) > target
    ]
    print(f"\nOutside the targets: {', '.join(missed) or 'none'}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
