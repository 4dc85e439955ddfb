"""Do memory, open files, threads and speed stay flat over a long run? And what of odd sizes?

    .venv/bin/python benchmarks/load.py [--tokens 2000000] [--only long,many,huge,sources]
        [--work DIR] [--json FILE]

long     real text (made-up words where ../shared/data is absent) of so many tokens of the pivot
         through teach, fuse and distill, with models of two thin layers
many     100,000 examples with responses of one token
huge     10 examples with responses of 100,000 tokens
sources  50 sources

Every stage runs in a process of its own, which notes four times a second how far it is, its
resident and its anonymous memory (MB; files that are mapped count in the first alone), open files
and threads. The tables compare the stretch between 10 % and 20 % of the work with the last tenth;
speed is work per second of the processor, so that neighbours do not count.
Prints tables; writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from bpe import byte_level_bpe
from transformers import LlamaConfig, LlamaForCausalLM

DATA = Path(__file__).parents[2] / "shared" / "data"
REAL = {
    "gsm8k_train.jsonl": ("question", "answer"),
    "math_train4500.jsonl": ("problem", "solution"),
}
FEATURES = ("resident_MB", "anonymous_MB", "files", "threads")


def pairs_of_text() -> list[tuple[str, str]]:
    """Prompts and responses."""
    found = []
    for name, (prompt, response) in REAL.items():
        if (DATA / name).exists():
            with (DATA / name).open(encoding="utf-8") as file:
                rows = [json.loads(line) for line in file]
            found += [(row[prompt], row[response]) for row in rows]
    if found:
        return [found[n] for n in np.random.default_rng(0).permutation(len(found))]
    print(f"{DATA} is not here: made-up words in place of real text.")
    rng = np.random.default_rng(0)
    letters = list("etaoinshrdlucm")
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(3000)]
    return [
        (f"Text {n}:\n", " ".join(words[i] for i in rng.integers(0, 3000, 150)))
        for n in range(8000)
    ]


def make_model(folder: Path, text: list[str], *, vocabulary: int, seed: int, length: int) -> None:
    """A tokenizer trained on the text, and random weights."""
    byte_level_bpe(text, vocabulary).save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=length,
        eos_token_id=0,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def make(
    folder: Path,
    rows: list[tuple[str, str]],
    *,
    sources: int = 2,
    vocabulary: int = 2000,
    length: int = 2048,
    shard_examples: int = 256,
) -> Path:
    """Models, data and a recipe with one unified fusion."""
    folder.mkdir(parents=True)
    text = [response for _, response in rows[:2000]]
    names = [f"s{n}" for n in range(sources)]
    for seed, name in enumerate(["pivot", *names]):
        size = vocabulary + 100 * (seed % 5)
        make_model(folder / name, text, vocabulary=size, seed=seed, length=length)
    held_out = rows[:20]
    for name, some in (("train", rows), ("held_out", held_out)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for prompt, response in some:
                file.write(json.dumps({"prompt": prompt, "response": response}) + "\n")
    recipe = {
        "name": "load",
        "pivot": {"model": "pivot"},
        "sources": {name: {"model": name} for name in names},
        "data": {
            "train": [{"path": "train.jsonl", "domain": "text"}],
            "held_out": [{"path": "held_out.jsonl", "domain": "text"}],
            "max_length": length,
        },
        "teach": {"shard_examples": shard_examples},
        "fuse": {"unified": {"function": "uncertainty", "gate": "none"}},
        "distill": {"unified": {"target": "unified"}},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 4, "save_steps": 500},
        "evaluate": {"models": ["pivot", "unified"]},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def watched(arguments: list[str], notes: Path) -> None:
    """In a process of its own: run the command line and note how it goes."""
    from infifusion.commands import cli
    from infifusion.process.meter import Meter

    done = {"title": "", "part": 0.0}
    reach = Meter.reach

    def noted(meter: Meter, count: int) -> None:
        reach(meter, count)
        done.update(title=meter.title, part=meter.done / max(1, meter.total))

    Meter.reach = noted  # type: ignore[method-assign]
    page = os.sysconf("SC_PAGE_SIZE")

    def sample() -> None:
        with notes.open("w") as file:
            while True:
                _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
                row = {
                    "seconds": time.process_time(),
                    **done,
                    "resident_MB": resident * page / 1e6,
                    "anonymous_MB": (resident - shared) * page / 1e6,
                    "files": len(os.listdir("/proc/self/fd")),
                    "threads": len(os.listdir("/proc/self/task")),
                }
                file.write(json.dumps(row) + "\n")
                file.flush()
                time.sleep(0.25)

    threading.Thread(target=sample, daemon=True).start()
    sys.argv = ["infifusion", *arguments]
    cli.main()


def run(arguments: list[str], notes: Path) -> list[dict[str, float]]:
    """The command line in a process of its own; what it noted."""
    command = [sys.executable, __file__, "--watched", str(notes), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return [json.loads(line) for line in notes.read_text().splitlines()]


def flatness(rows: list[dict[str, float]]) -> dict[str, float]:
    """The stretch between 10 % and 20 % of the work, the last tenth, and their ratio."""
    early = [row for row in rows if 0.1 <= row["part"] < 0.2]
    late = [row for row in rows if row["part"] >= 0.9]
    late = [row for row in late if row["part"] < 1.0] or late
    if len(early) < 2 or len(late) < 2:
        return {}
    found = {}
    for name in FEATURES:
        first, last = (max(row[name] for row in some) for some in (early, late))
        found |= {f"{name} early": first, f"{name} late": last}

    def speed(some: list[dict[str, float]]) -> float:
        seconds = some[-1]["seconds"] - some[0]["seconds"]
        return (some[-1]["part"] - some[0]["part"]) / seconds

    return {**found, "speed ratio": speed(late) / speed(early)}


def long(work: Path, tokens: int) -> dict[str, object]:
    """Stage by stage over real text."""
    rows = pairs_of_text()
    bytes_per_token = 3.4  # of these tokenizers on this text, about
    size = sum(len(response.encode()) for _, response in rows)
    times = tokens * bytes_per_token / size
    whole, part = int(times), times - int(times)
    taken = [
        (f"{prompt}\n({turn})", response)
        for turn in range(whole + 1)
        for prompt, response in (rows if turn < whole else rows[: int(part * len(rows))])
    ]
    recipe = make(work, taken)
    out = work / "out"
    found: dict[str, object] = {}
    for stage in ("prepare", "teach", "fuse", "distill"):
        started = time.monotonic()
        noted = run(
            ["run", str(recipe), "--run-dir", str(out), "--until", stage], work / f"{stage}.jsonl"
        )
        seconds = time.monotonic() - started
        for title in dict.fromkeys(row["title"] for row in noted):
            if row := flatness([one for one in noted if one["title"] == title]):
                found[str(title)] = {"process seconds": seconds, **row}
    manifest = json.loads((out / "distill/unified/manifest.json").read_text())
    found["response tokens of the pivot"] = manifest["counts"].get("positions")
    return found


def whole(recipe: Path, work: Path) -> dict[str, float]:
    """A run to its end: seconds and the largest memory."""
    started = time.monotonic()
    noted = run(["run", str(recipe), "--run-dir", str(work / "out")], work / "run.jsonl")
    return {
        "seconds": time.monotonic() - started,
        **{name: max(row[name] for row in noted) for name in FEATURES},
    }


def many(work: Path) -> dict[str, float]:
    rows = [(f"{n}:", "x") for n in range(100_000)]
    recipe = make(work, rows, vocabulary=300, length=64, shard_examples=4096)
    return whole(recipe, work)


def huge(work: Path) -> dict[str, float]:
    rng = np.random.default_rng(0)
    rows = [
        (f"{n}:", bytes(rng.integers(97, 123, 100_000, dtype=np.uint8)).decode()) for n in range(10)
    ]
    short = [(prompt, response[:2000]) for prompt, response in rows]
    recipe = make(work, short, vocabulary=257, length=131_072, shard_examples=2)
    with (work / "train.jsonl").open("w") as file:
        for prompt, response in rows:
            file.write(json.dumps({"prompt": prompt, "response": response}) + "\n")
    text = yaml.safe_load(recipe.read_text())
    text["training"]["per_device_train_batch_size"] = 1
    recipe.write_text(yaml.safe_dump(text))
    return whole(recipe, work)


def sources(work: Path) -> dict[str, float]:
    rows = pairs_of_text()[:200]
    return whole(make(work, rows, sources=50, vocabulary=500, shard_examples=64), work)


def table(found: dict[str, dict[str, object]]) -> str:
    lines = []
    for title, values in found.items():
        lines.append(f"\n{title}")
        for name, value in values.items():
            shown = (
                ", ".join(f"{key} {number:.3g}" for key, number in value.items())
                if isinstance(value, dict)
                else f"{value:,.0f}"
                if isinstance(value, float | int)
                else str(value)
            )
            lines.append(f"  {name}: {shown}")
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--watched"]:
        watched(sys.argv[3:], Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--only", default="long,many,huge,sources")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp())
    steps = {
        "long": lambda folder: long(folder, options.tokens),
        "many": many,
        "huge": huge,
        "sources": sources,
    }
    found = {}
    for name in options.only.split(","):
        shutil.rmtree(work / name, ignore_errors=True)
        found[name] = steps[name](work / name)
        print(table({name: found[name]}), flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))
    if options.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
