"""Bits per byte of a model with another model's tokenizer, and what the transplant costs.

    python benchmarks/transplant.py MODEL DONOR [--texts 30] [--mergekit] [--json FILE]

Texts that neither model is trained on here: tests of GSM8K, MATH and HumanEval from
../shared/data, or else this project's own pages. A text is scored behind a line break, every token
of it; bits per byte of different tokenizers are comparable. Seconds are of the processor, children
included.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
FIELDS = {
    "gsm8k_test": ("question", "answer"),
    "math500": ("problem", "solution"),
    "humaneval": ("prompt", "canonical_solution"),
}
LONGEST = 1500  # characters of a text
ROWS = 256  # positions whose logits are in memory


def texts(count: int) -> dict[str, list[str]]:
    """Texts by kind."""
    found: dict[str, list[str]] = {}
    for name, fields in FIELDS.items():
        path = DATA / f"{name}.jsonl"
        if path.is_file():
            lines = [json.loads(line) for line in path.read_text().splitlines()[:count]]
            found[name] = ["\n".join(str(one[key]) for key in fields)[:LONGEST] for one in lines]
    if not found:
        pages = sorted((ROOT / "docs").glob("*.md"))[:count]
        found["docs"] = [page.read_text()[:LONGEST] for page in pages]
    return found


@torch.no_grad()
def bits_per_byte(folder: Path, listed: list[str]) -> float:
    """Over all texts; those of the first token, with the line break, are left out."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    bits = size = 0.0
    for text in listed:
        made = tokenizer(f"\n{text}", return_offsets_mapping=True, add_special_tokens=False)
        ids = torch.tensor([made["input_ids"]])
        states = model.model(ids).last_hidden_state[0, :-1]
        gold = ids[0, 1:]
        for start in range(0, len(gold), ROWS):
            logits = model.lm_head(states[start : start + ROWS]).float()
            loss = torch.nn.functional.cross_entropy(logits, gold[start : start + ROWS])
            bits += loss.item() * len(gold[start : start + ROWS]) / math.log(2)
        size += len(f"\n{text}"[made["offset_mapping"][0][1] :].encode())
    return bits / size


def timed(command: list[str]) -> float:
    """Processor seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("donor", type=Path)
    parser.add_argument("--texts", type=int, default=30, help="of each kind")
    parser.add_argument("--methods", nargs="+", default=["omp", "pieces"])
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--mergekit", action="store_true", help="mergekit-tokensurgeon beside it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    listed = texts(options.texts)
    rows: list[dict] = []

    def score(name: str, folder: Path, seconds: float | None) -> None:
        row = {"what": name, "cpu_seconds": seconds}
        row |= {kind: bits_per_byte(folder, some) for kind, some in listed.items()}
        rows.append(row)
        shown = " | ".join(f"{row[kind]:.3f}" for kind in listed)
        print(f"| {name} | {shown} | {'' if seconds is None else f'{seconds:.0f}'} |", flush=True)

    print(f"| | {' | '.join(listed)} | CPU s |\n|---|{'---|' * (len(listed) + 1)}", flush=True)
    score("the model itself", options.model, None)
    here = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as place:
        for method in options.methods:
            out = Path(place) / method
            ours = [sys.executable, "-m", "infifusion", "transplant-tokenizer"]
            more = ["--method", method]
            more += ["--count", str(options.count)] if method == "omp" else []
            seconds = timed([*ours, str(options.model), str(options.donor), str(out), *more])
            score(method, out, seconds)
        if options.mergekit:
            for method in ("omp", "subword"):
                out = Path(place) / f"mergekit-{method}"
                theirs = [str(here / "mergekit-tokensurgeon"), "-a", method]
                more = ["--k", str(options.count)]
                seconds = timed([*theirs, *more, str(options.model), str(options.donor), str(out)])
                score(f"mergekit, {method}", out, seconds)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
