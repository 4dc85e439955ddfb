"""Generation on a CPU with layers in the processor's own order, and without (teacher/packed.py).

    OMP_NUM_THREADS=2 .venv/bin/python benchmarks/packed_layers.py MODEL gsm8k_test.jsonl

One process, the two ways in turn; greedy answers of a fixed length, prompts included in the time.
`--autocast` is what on-policy runs do: float32 weights, products in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from infifusion.teacher import batching
from infifusion.teacher.rows import Draw, Row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("questions", type=Path, help="JSONL with a field 'question'")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 16, 48])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--autocast", action="store_true")
    args = parser.parse_args()
    dtype = torch.float32 if args.autocast else torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
    batching.way_of(model)
    lines = args.questions.read_text(encoding="utf-8").splitlines()
    for at_once in args.at_once:
        rows = []
        for number, line in enumerate(lines[:at_once]):
            turn = {"role": "user", "content": json.loads(line)["question"]}
            prompt = tokenizer.apply_chat_template(
                [turn], add_generation_prompt=True, return_dict=False
            )
            rows.append((number, prompt, args.tokens, line[:20], Draw()))

        def written(packed: bool, rows: list = rows, at_once: int = at_once) -> tuple[float, dict]:
            as_it_is = mock.patch.object(batching, "packed_layers", lambda *_: nullcontext())
            autocast = torch.autocast("cpu", torch.bfloat16, enabled=args.autocast)
            begun = time.perf_counter()
            with nullcontext() if packed else as_it_is, autocast:
                done = batching.answers(model, [Row(*r) for r in rows], ends=[], at_once=at_once)
                ids = {row.number: row.ids for row in done}
            return time.perf_counter() - begun, ids

        pairs = [(written(False), written(True)) for _ in range(args.repeats)]
        plain = statistics.median(a[0] for a, _ in pairs)
        packed = statistics.median(b[0] for _, b in pairs)
        same = all(a[1] == b[1] for a, b in pairs)
        ratios = ", ".join(f"{a[0] / b[0]:.2f}" for a, b in pairs)
        print(
            f"{at_once} prompts: {plain:.2f} s, packed {packed:.2f} s, ratio {plain / packed:.2f} "
            f"({ratios}), the same answers: {same}",
            flush=True,
        )


if __name__ == "__main__":
    main()
