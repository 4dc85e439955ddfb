"""`plan --calibrate`: seconds per unit of work on this machine, from tiny recipes run for it.

The probe (plan_probe.py) runs six recipes of which each is large in one thing alone: calls,
layers, width, vocabulary, texts. For all their rows, the seconds of the manifests must be what the
plan's own arithmetic gives: sum over units of count times rate. Matrix products, optimizer, disk
and hashing are measured apart; the rest is solved by non-negative least squares on relative errors,
each rate drawn a little towards its default, which decides where the probe says nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.errors import RunError
from infifusion.estimate.calibration import write_calibration
from infifusion.estimate.costs.case import PIVOT, Case, Hardware
from infifusion.estimate.costs.devices import CPU
from infifusion.estimate.costs.rates import CPU_BASE_MEMORY, CPU_UNITS, flops_per_second, of_cpu
from infifusion.estimate.costs.rows import estimate
from infifusion.estimate.costs.work import UNITS, Work
from infifusion.estimate.models import facts_of_all
from infifusion.estimate.tasks import task_facts
from infifusion.estimate.tokens import prepared_lengths
from infifusion.process.processor import gain_of_bfloat16, has_instructions
from infifusion.process.runtime import log, set_up_logging
from infifusion.recipe import load_recipe
from infifusion.store.artifacts import MANIFEST, cache_folder
from infifusion.store.folders import RunFolder
from infifusion.store.records import read_json

MEASURED = ("parameter_step", "decode_byte", "write_byte", "hash_byte")
TOWARDS_DEFAULT = 0.03
"""Weight of the pull to the default, against rows of weight 1: a rate that decides a tenth of any
row is still moved nine tenths of the way by the data."""

SMALL = 0.1
"""Seconds below which a row's relative error counts for less: a tenth of a second is noise."""


def calibrate_here() -> Path:
    """Measure, save and say where. Raises RunError when the probe fails."""
    set_up_logging()
    log.info("Measuring this machine: tiny recipes are run from end to end.")
    begun = time.monotonic()
    if has_instructions():
        gain_of_bfloat16(cache_folder(), anew=True)
    with tempfile.TemporaryDirectory(prefix="infifusion-plan-") as name:
        folder = Path(name)
        probe(folder)
        values = fit(folder)
    path = write_calibration({**values, "seconds": round(time.monotonic() - begun, 1)})
    log.info("Measured in %.0f s, kept in %s.", time.monotonic() - begun, path)
    return path


def probe(folder: Path, names: Sequence[str] = ()) -> None:
    """Run plan_probe in a process of its own; names: of its recipes, all by default."""
    command = [sys.executable, "-m", "infifusion.setup.timed", str(folder)]
    done = subprocess.run(
        [*command, str(time.time()), *names], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RunError(
            f"The calibration failed (exit status {done.returncode}):\n{done.stderr[-2000:]}\n"
            "Run `infifusion doctor`; without --calibrate the plan uses another machine's rates."
        )


def fit(folder: Path) -> dict[str, Any]:
    """Rates from what the probe left: see the module's docstring."""
    measured = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
    matmul = [(int(width), float(rate)) for width, rate in measured["matmul"]]
    known = {unit: float(measured[unit]) for unit in MEASURED}
    # What was just written cannot be read cold; a disk reads about as fast as it writes.
    known["load_byte"] = known["write_byte"]
    known["start"] = float(measured["imported"])
    rows: list[tuple[Work, float]] = []
    for number, name in enumerate(measured["walls"]):
        rows += _rows(folder, name, measured, first=number == 0)
    units, residual = solve(rows, known, matmul)
    return {
        "units": units,
        "matmul": matmul,
        "base_memory": measured["base_memory"] or CPU_BASE_MEMORY,
        "threads": measured["threads"],
        "median_error": residual,
    }


def solve(
    rows: list[tuple[Work, float]], known: dict[str, float], matmul: list[tuple[int, float]]
) -> tuple[dict[str, float], float]:
    """Seconds per unit, and the median relative error over the rows.

    rows: (work, seconds). Minimises the sum of ((predicted - seconds) / (seconds + SMALL))^2 over
    rates >= 0 in multiples of CPU_UNITS.
    """
    from scipy.optimize import nnls

    free = [unit for unit in UNITS if unit not in known]
    left, right = [], []
    for work, seconds in rows:
        rest = seconds - sum(
            flops / flops_per_second(matmul, width) for (_, width), flops in work.flops.items()
        )
        rest -= sum(known[unit] * count for unit, count in work.units.items() if unit in known)
        weight = 1 / (seconds + SMALL)
        left.append([weight * work.units.get(unit, 0) * CPU_UNITS[unit] for unit in free])
        right.append(weight * rest)
    pull = TOWARDS_DEFAULT * np.eye(len(free))
    matrix = np.vstack([np.asarray(left), pull])
    wanted = np.concatenate([right, np.full(len(free), TOWARDS_DEFAULT)])
    factors, _ = nnls(matrix, wanted)
    errors = np.asarray(left) @ factors - np.asarray(right)
    units = {unit: CPU_UNITS[unit] * float(f) for unit, f in zip(free, factors, strict=True)}
    return {**units, **known}, float(np.median(np.abs(errors)))


def _rows(
    folder: Path, name: str, measured: dict[str, Any], *, first: bool
) -> list[tuple[Work, float]]:
    """Work and seconds of everything that one recipe did."""
    recipe = load_recipe(folder / f"{name}.yaml")
    run = RunFolder(folder / name)
    models = facts_of_all({PIVOT: recipe.pivot, **recipe.sources}, [], [])
    lengths = prepared_lengths(recipe, run)
    if lengths is None:
        raise RunError("The calibration's recipe was not prepared. Run plan --calibrate again.")
    hardware = Hardware(CPU, 1, 1, None, 1.0, 0.0, of_cpu(None), 1)
    case = Case(recipe, models, lengths, task_facts(recipe, []), hardware)
    found, counted = [], 0.0
    for row in estimate(case):
        work = row.work if first else _not_first(row.work)
        if row.stage == "around":
            seconds = measured["walls"][name] - counted
            work = Work({}, {u: c for u, c in work.units.items() if u != "start"})
        else:
            manifest = run.root / row.stage / row.name / MANIFEST
            if not manifest.exists():
                continue
            seconds = float(read_json(manifest)["seconds"])
            counted += seconds
        found.append((work, max(seconds, 1e-3)))
    return found


def _not_first(work: Work) -> Work:
    """Without what a process does once."""
    return Work(work.flops, {u: c for u, c in work.units.items() if not u.endswith("_first")})
