"""How long one item of a code task takes in the sandbox, from the call to the verdict.

    .venv/bin/python benchmarks/sandbox.py --items 50 --json runs/bench/sandbox.json

Milliseconds: the smallest, median and 95th percentile over the items, one at a time; and items per
second with as many at once as there are processors. The promise is a median of 150 ms at most on a
machine with nothing else to do; the load average is printed with the table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infifusion.sandbox.programs import bubblewrap, check_program, require_sandbox

PROGRAM = (
    "from typing import List\n\ndef total(values: List[int]) -> int:\n    return sum(values)\n"
)
TEST = "def check(f):\n    assert f([]) == 0\n    assert f([1, 2]) == 3\n\ncheck(total)\n"


def one_item() -> float:
    """Milliseconds of one item, which passes."""
    started = time.perf_counter()
    assert check_program(PROGRAM, TEST).passed
    return 1e3 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    require_sandbox()
    one_item()
    times = sorted(one_item() for _ in range(options.items))
    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda _: one_item(), range(options.items)))
    result = {
        "items": options.items,
        "smallest_ms": round(times[0], 1),
        "median_ms": round(statistics.median(times), 1),
        "p95_ms": round(times[int(0.95 * (len(times) - 1))], 1),
        "items_per_second": round(options.items / (time.perf_counter() - started), 1),
        "processors": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "bubblewrap": bool(bubblewrap()),
    }
    for name, value in result.items():
        print(f"{name:<18} {value}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
