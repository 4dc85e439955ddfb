"""`infifusion merge` against `mergekit-yaml`: wall time, CPU time and anonymous memory.

    .venv/bin/python benchmarks/merge_vs_mergekit.py [--millions 506] [--models 3] [--repeats 5]
        [--methods rsaf,sce,...] [--work DIR] [--json FILE] [--ours-only]
    .venv/bin/python benchmarks/merge_vs_mergekit.py --growth   # size, models, tensors; ours alone

Makes a Qwen2-shaped base and fine-tuned copies of it (bfloat16, random weights and small random
changes), then runs both programs in turn, each in a process of its own with imports included, the
page cache warm. rsaf, which mergekit lacks, is compared with its sce. The I/O floor is a plain
program that reads all inputs and writes one of them. Prints a table; writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import yaml

BIN = Path(sys.executable).parent
METHODS = {
    "sce": {"select_topk": 0.1},
    "rsaf": {},
    "ties": {"density": 0.5, "weight": 1.0},
    "della": {"density": 0.5, "epsilon": 0.1, "weight": 1.0},
    "breadcrumbs": {"density": 0.9, "gamma": 0.01, "weight": 1.0},
    "dare_ties": {"density": 0.5, "weight": 1.0},
    "slerp": {"t": 0.4},
    "linear": {"weight": 1.0},
    "task_arithmetic": {"weight": 0.5},
    "model_stock": {},
    "passthrough": {},
}
TARGETS = dict.fromkeys(("rsaf", "sce", "ties", "della", "breadcrumbs"), 12.0)
TARGETS |= {"dare_ties": 8.0, "slerp": 5.0}
BF16 = 2


def shapes(millions: int, tensors: int | None = None) -> dict[str, tuple[int, ...]]:
    """A Qwen2-like model of about so many million parameters; or so many tiny tensors."""
    if tensors is not None:
        return {f"model.layers.{n}.mlp.up_proj.weight": (8, 8) for n in range(tensors)}
    width = 896 if millions > 300 else 512
    inner, vocabulary = width * 38 // 7, 151_936 if millions > 300 else 50_304
    keys = 128  # two heads of keys and values
    layer = {
        "self_attn.q_proj.weight": (width, width),
        "self_attn.q_proj.bias": (width,),
        "self_attn.k_proj.weight": (keys, width),
        "self_attn.k_proj.bias": (keys,),
        "self_attn.v_proj.weight": (keys, width),
        "self_attn.v_proj.bias": (keys,),
        "self_attn.o_proj.weight": (width, width),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }
    each = sum(int(np.prod(shape)) for shape in layer.values())
    layers = max(1, round((millions * 1e6 - vocabulary * width) / each))
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for n in range(layers):
        found |= {f"model.layers.{n}.{name}": shape for name, shape in layer.items()}
    return found | {"model.norm.weight": (width,)}


def make(folder: Path, spec: dict[str, tuple[int, ...]], *, copies: int) -> list[Path]:
    """base, and fine-tuned copies: 60 % of the weights change, by some parts in a thousand."""
    rng = np.random.default_rng(0)
    places = [folder / name for name in ("base", *(f"copy{n}" for n in range(copies)))]
    if all((place / "model.safetensors").exists() for place in places):
        return places
    shutil.rmtree(folder, ignore_errors=True)
    for place in places:
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(config(spec)))
    files = [(place / "model.safetensors").open("wb") for place in places]
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in spec.items():
        size = int(np.prod(shape)) * BF16
        header[name] = {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    for file in files:
        file.write(len(text).to_bytes(8, "little") + text)
    for shape in spec.values():
        size = int(np.prod(shape))
        base = rng.standard_normal(size, np.float32) * np.float32(0.02)
        files[0].write(to_bf16(base))
        for file in files[1:]:
            change = rng.standard_normal(size, np.float32) * np.float32(1e-3)
            change *= rng.random(size, np.float32) < 0.6
            file.write(to_bf16(base + change))
    for file in files:
        file.close()
    return places


def to_bf16(values: np.ndarray) -> bytes:
    """Truncated bfloat16."""
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def config(spec: dict[str, tuple[int, ...]]) -> dict:
    """A config that both programs read."""
    layers = 1 + max(int(n.split(".")[2]) for n in spec if n.startswith("model.layers."))
    vocabulary, width = spec.get("model.embed_tokens.weight", (8, 8))
    heads = {896: 14, 512: 8}.get(width, 1)
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": width,
        "intermediate_size": width * 38 // 7,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }


def recipe(method: str, places: list[Path]) -> dict:
    """The YAML of one method; the same for both programs but for rsaf."""
    base, *copies = (str(place) for place in places)
    parameters = dict(METHODS[method])
    if method == "passthrough":
        return {"merge_method": method, "models": [{"model": base}], "dtype": "bfloat16"}
    if method == "slerp":
        models = [{"model": base}, {"model": copies[0]}]
        return {
            "merge_method": method,
            "base_model": base,
            "models": models,
            "parameters": parameters,
            "dtype": "bfloat16",
        }
    own = {
        k: parameters.pop(k) for k in ("weight", "density", "epsilon", "gamma") if k in parameters
    }
    models = [{"model": copy, **({"parameters": own} if own else {})} for copy in copies]
    found = {"merge_method": method, "models": models, "dtype": "bfloat16"}
    if parameters:
        found["parameters"] = parameters
    return found if method == "linear" else found | {"base_model": base}


def timed(command: list[str]) -> dict[str, float]:
    """Wall seconds, CPU seconds, peak anonymous memory in MB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                peak = max(peak, int(status.split("RssAnon:")[1].split()[0]))
            except (OSError, IndexError):
                return
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    errors = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors.decode()[-2000:]}")
    return {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "anonymous_mb": peak / 1024,
    }


def floor(places: list[Path], out: Path) -> float:
    """Seconds to read the files and write one of them: the I/O that no merge can avoid."""
    buffer = bytearray(1 << 24)
    started = time.perf_counter()
    for place in places:
        with (place / "model.safetensors").open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    out.mkdir(parents=True, exist_ok=True)
    size = (places[0] / "model.safetensors").stat().st_size
    with (out / "floor").open("wb", buffering=0) as file:
        for start in range(0, size, len(buffer)):
            file.write(memoryview(buffer)[: min(len(buffer), size - start)])
    seconds = time.perf_counter() - started
    (out / "floor").unlink()
    return seconds


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def compare(options: argparse.Namespace) -> list[dict]:
    """One row per method."""
    places = make(options.work / "models", shapes(options.millions), copies=options.models)
    rows: list[dict] = []
    theirs: dict[str, list] = {}
    for method in options.methods.split(","):
        used = {"passthrough": places[:1], "slerp": places[:2], "linear": places[1:]}.get(
            method, places
        )
        found: dict[str, list] = {"ours": [], "theirs": [], "floor": []}
        for n in range(options.repeats):
            found["floor"].append({"wall": floor(used, options.work / "out")})
            # mergekit has no rsaf: ours is set against its sce, measured before.
            alone = options.ours_only or n >= options.their_repeats or method == "rsaf"
            sides = ["ours"] if alone else ["ours", "theirs"]
            for side in sides:
                path = options.work / f"{side}.yaml"
                path.write_text(yaml.safe_dump(recipe(method, places)))
                out = options.work / "out" / side
                shutil.rmtree(out, ignore_errors=True)
                found[side].append(timed(command(side, path, out)))
                shutil.rmtree(out, ignore_errors=True)
        if method == "rsaf":
            found["theirs"] = theirs.get("sce", [])
        theirs[method] = found["theirs"]
        row = {"method": method, "floor": medians(found["floor"])["wall"]}
        row |= {side: medians(found[side]) for side in ("ours", "theirs") if found[side]}
        rows.append(row)
        print(line(row), flush=True)
    return rows


def command(side: str, path: Path, out: Path) -> list[str]:
    if side == "ours":
        return [str(BIN / "infifusion"), "merge", str(path), str(out)]
    return [str(BIN / "mergekit-yaml"), str(path), str(out), "--no-copy-tokenizer", "--quiet"]


def line(row: dict) -> str:
    """One row of the table."""
    ours, theirs = row["ours"], row.get("theirs")
    cells = [row["method"], f"{ours['wall']:.2f}", f"{ours['wall'] / row['floor']:.1f}"]
    cells += [f"{ours['cpu']:.1f}", f"{ours['anonymous_mb']:.0f}"]
    if theirs:
        cells += [f"{theirs['wall']:.1f}", f"{theirs['cpu']:.1f}", f"{theirs['anonymous_mb']:.0f}"]
        target = TARGETS.get(row["method"], 3.0)
        cells += [f"**{theirs['wall'] / ours['wall']:.1f}x**", f"{target:.0f}x"]
    return "| " + " | ".join(cells) + " |"


HEADER = """
| method | ours, s | times the I/O floor | CPU s | anonymous MB | mergekit, s | CPU s | \
anonymous MB | ratio | target |
|---|---|---|---|---|---|---|---|---|---|"""


def growth(options: argparse.Namespace) -> list[dict]:
    """Ours alone: with size, with the number of models, with the number of tensors."""
    rows = []

    def one(label: str, spec: dict, copies: int, method: str) -> None:
        work = options.work / "growth"
        shutil.rmtree(work, ignore_errors=True)
        places = make(work, spec, copies=copies)
        path = options.work / "growth.yaml"
        path.write_text(yaml.safe_dump(recipe(method, places)))
        runs = []
        for _ in range(3):
            out = options.work / "out" / "growth"
            shutil.rmtree(out, ignore_errors=True)
            runs.append(timed(command("ours", path, out)))
            shutil.rmtree(out, ignore_errors=True)
        parameters = sum(int(np.prod(shape)) for shape in spec.values())
        row = {"case": label, "method": method, "parameters": parameters, **medians(runs)}
        row["tensors"] = len(spec)
        rows.append(row)
        print(
            f"| {label} | {method} | {parameters / 1e6:.1f} M | {len(spec)} | {row['wall']:.2f} | "
            f"{row['cpu']:.1f} | {row['anonymous_mb']:.0f} |",
            flush=True,
        )
        shutil.rmtree(work, ignore_errors=True)

    print("| case | method | parameters | tensors | wall s | CPU s | anonymous MB |")
    print("|---|---|---|---|---|---|---|")
    for millions in (100, 506, 1000):
        one(f"{millions} M", shapes(millions), 3, "rsaf")
    for copies in (2, 4, 8):
        one(f"{copies} models", shapes(100), copies, "rsaf")
    for tensors in (1_000, 10_000, 100_000):
        one(f"{tensors} tensors", shapes(0, tensors), 3, "rsaf")
    one("one embedding", {"model.embed_tokens.weight": (150_000, 8192), **shapes(0, 1)}, 1, "ties")
    return rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, default=506)
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--their-repeats", type=int, default=5)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--work", type=Path, default=Path("runs/merge_benchmark"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--growth", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if not options.growth:
        print(HEADER)
    rows = growth(options) if options.growth else compare(options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
