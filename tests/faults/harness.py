"""Disturb a small complete run in every way we know, and compare with an undisturbed one.

    python tests/faults/harness.py                       everything, 200 random kills
    python tests/faults/harness.py --only kill --faults 50 --seed 1

Prints a table: kind, injected, survived, lost, and whether --minutes cut it short; exits with 1
where anything was lost.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import disks
import peers
from kills import every_point, random_moments
from world import STAGES, Count, World

Kind = Callable[..., Count]


def kinds(world: World, options: argparse.Namespace) -> dict[str, Callable[[], Count]]:
    """Name of a kind -> what injects it, bounded in number and time."""
    few = max(2, options.faults // 10)

    def bounded(kind: str, inject: Kind, **settings: Any) -> Callable[[], Count]:
        def run() -> Count:
            ends = time.monotonic() + options.minutes * 60
            count = inject(world, kind, enough=lambda: time.monotonic() > ends, **settings)
            count.cut_short = time.monotonic() > ends
            return count

        return run

    points = {"begin": options.begin, "until": options.until}
    seeded = {"seed": options.seed}
    table: dict[str, tuple[Kind, dict[str, Any]]] = {
        "kill at every point": (every_point, {**points, "power": False}),
        "power loss at every point": (every_point, {**points, "power": True}),
        "kill": (random_moments, {**seeded, "number": SIGKILL, "faults": options.faults}),
        "SIGTERM": (random_moments, {**seeded, "number": SIGTERM, "faults": 2 * few}),
        "Ctrl-C": (random_moments, {**seeded, "number": SIGINT, "faults": 2 * few}),
        "disk full": (disks.full, {**seeded, "faults": few}),
        "file too large": (disks.limited, {**seeded, "faults": few}),
        "disk read-only": (disks.read_only, {}),
        "folder vanished": (disks.vanished, {**seeded, "faults": few}),
        "clock backwards": (disks.backwards, {**seeded, "faults": few}),
        "one of two killed": (peers.one_of_two, {**seeded, "faults": few}),
    }
    return {kind: bounded(kind, inject, **given) for kind, (inject, given) in table.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="A kind; repeatable. All by default.")
    parser.add_argument("--faults", type=int, default=200, help="Random kills.")
    parser.add_argument("--minutes", type=float, default=10.0, help="Bound of each kind.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--begin", default=STAGES[0], choices=STAGES, help="First stage of points.")
    parser.add_argument("--until", default=STAGES[-1], choices=STAGES, help="Last stage of points.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="infifusion-faults-"))
    try:
        world = World(folder / "world")
        print(f"An undisturbed run takes {world.seconds:.1f} s.", flush=True)
        table = kinds(world, options)
        counts = []
        for kind in options.only or table:
            begin = time.monotonic()
            counts.append(table[kind]())
            print(_row(counts[-1], time.monotonic() - begin), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{'kind':<28} {'injected':>8} {'survived':>8} {'lost':>6}")
    for count in counts:
        row = f"{count.kind:<28} {count.injected:>8} {count.survived:>8} {len(count.lost):>6}"
        print(f"{row}  cut short" if count.cut_short else row)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([vars(count) for count in counts], indent=1))
    sys.exit(any(count.lost for count in counts))


def _row(count: Count, seconds: float) -> str:
    where = ", ".join(f"{stage} {n}" for stage, n in sorted(count.where.items()))
    text = f"{count.kind}: {count.injected} in {seconds:.0f} s ({where})"
    return "\n".join([text, *(f"  LOST {problem}" for problem in dict.fromkeys(count.lost))])


if __name__ == "__main__":
    main()
