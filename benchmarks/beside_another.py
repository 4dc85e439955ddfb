"""A training step alone and beside another job of as many threads as there are cores.

    .venv/bin/python benchmarks/beside_another.py [--steps 12] [--hidden 576] [--json FILE]

A Llama of 4 layers with random weights, batches of 4 x 128 tokens, forward, backward and AdamW. A
case runs in a process of its own and gives the median step. `alone`: all threads, nobody else.
`beside, all threads`: what torch does by itself. `beside, passive`: the same with
OMP_WAIT_POLICY=PASSIVE. `beside, free cores`: what a run does (infifusion.process.threads). The
other job multiplies matrices with a thread per core all the while. On a machine with other load the
figures of `alone` are those of a busy machine, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

OTHER = "import torch\nx = torch.rand(1500, 1500)\nprint('works', flush=True)\nwhile True: x @ x\n"
CASES = {
    "alone": (False, {}),
    "beside, all threads": (True, {}),
    "beside, passive": (True, {"OMP_WAIT_POLICY": "PASSIVE"}),
    "beside, free cores": (True, {}),
}


def main() -> None:
    """Every case in a process of its own; a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", help="internal: run one case and print its figures")
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps(measure(options.case, options.steps, options.hidden)))
        return
    found = {name: _in_a_process(name, options) for name in CASES}
    alone = found["alone"]["seconds"]
    print("| case | threads | s per step | times alone |")
    print("| --- | ---: | ---: | ---: |")
    for name, one in found.items():
        ratio = one["seconds"] / alone
        print(f"| {name} | {one['threads']} | {one['seconds']:.2f} | {ratio:.1f} |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _in_a_process(name: str, options: argparse.Namespace) -> dict[str, float]:
    beside, more = CASES[name]
    environment = {key: v for key, v in os.environ.items() if key != "OMP_NUM_THREADS"}
    other = None
    if beside:
        other = subprocess.Popen(
            [sys.executable, "-c", OTHER], env=environment, stdout=subprocess.PIPE
        )
        assert other.stdout is not None
        other.stdout.readline()
    try:
        command = [sys.executable, __file__, "--case", name, "--steps", str(options.steps)]
        command += ["--hidden", str(options.hidden)]
        done = subprocess.run(
            command, env={**environment, **more}, capture_output=True, text=True, check=True
        )
    finally:
        if other is not None:
            other.kill()
            other.wait()
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, steps: int, hidden: int) -> dict[str, float]:
    """Threads, and the median seconds of a step."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if name == "beside, free cores":
        from infifusion.process.threads import use_free_cores

        use_free_cores()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4096,
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=4,
            num_attention_heads=9 if hidden % 9 == 0 else 8,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, 4096, (4, 128))
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return {"threads": torch.get_num_threads(), "seconds": statistics.median(seconds[2:])}


if __name__ == "__main__":
    main()
