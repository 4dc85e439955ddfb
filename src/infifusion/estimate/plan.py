"""plan: what a recipe will cost before anything is loaded. Arithmetic is in estimate/costs/."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from infifusion.errors import InfiFusionError, RecipeError
from infifusion.estimate.advice import advice_in
from infifusion.estimate.calibration import age_in_words, read_calibration
from infifusion.estimate.costs.case import PIVOT, Case, Facts, Hardware, Row
from infifusion.estimate.costs.devices import CPU, NETWORK, device_called
from infifusion.estimate.costs.memory import CONTEXT
from infifusion.estimate.costs.online import Teaching, all_cached, teaching
from infifusion.estimate.costs.rates import CPU_BASE_MEMORY, of_cpu, of_device
from infifusion.estimate.costs.rows import estimate
from infifusion.estimate.models import facts_of_all, with_folders
from infifusion.estimate.tasks import task_facts
from infifusion.estimate.tokens import Given, domain_shares, lengths_of
from infifusion.recipe import Recipe
from infifusion.store.folders import RunFolder
from infifusion.store.records import Json
from infifusion.teacher.arithmetic import expected_gain, in_bfloat16, seems_to_gain


def plan_recipe(
    recipe: Recipe,
    *,
    run_dir: Path,
    device: str,
    count: int,
    nodes: int,
    given: Given | None,
    shapes: list[str],
    settled: bool = False,
) -> Json:
    """Everything that `infifusion plan` says, as plain values. settled: whether the recipe says
    what `dtype: auto` stands for, as that of a run under way does."""
    notes: list[str] = []
    recipe = with_folders(recipe)
    hardware = hardware_of(device, count, nodes, notes)
    models = facts_of_all({PIVOT: recipe.pivot, **recipe.sources}, shapes, notes)
    recipe = recipe if settled else _settle(recipe, models, hardware, notes)
    lengths = lengths_of(recipe, RunFolder(run_dir), given, notes)
    shares = domain_shares(recipe, RunFolder(run_dir), given, notes)
    case = Case(recipe, models, lengths, task_facts(recipe, notes), hardware, shares)
    rows = estimate(case)
    notes += _too_large(rows, hardware)
    advice = advice_in(case)
    notes += _of_own_text(case) + _of_engines(case)
    return {
        "recipe": recipe.name,
        "device": hardware.name,
        "count": count,
        "nodes": nodes,
        "models": {
            name: {
                "parameters": facts.parameters,
                "counted": facts.counted,
                "vocabulary": facts.shape.vocabulary,
            }
            for name, facts in models.items()
        },
        "rows": [_values(row) for row in rows],
        "total": total_of(rows),
        "teacher": _teacher(_cached_or_online(case, rows)),
        "fits": not _over(rows, hardware),
        "notes": notes,
        "advice": advice,
    }


def plan_of_run(recipe: Recipe, run_dir: Path, *, device: str = CPU, count: int = 1) -> Json | None:
    """The same for a run under way; None where there is nothing to plan with (a family whose
    weights lie in the hub's cache): a run must not stop for it.

    Takes milliseconds: the run is prepared, so tokens are counted in headers.
    """
    try:
        return plan_recipe(
            recipe,
            run_dir=run_dir,
            device=device,
            count=count,
            nodes=1,
            given=None,
            shapes=[],
            settled=True,
        )
    except InfiFusionError:
        return None


def _settle(
    recipe: Recipe, models: dict[str, Facts], hardware: Hardware, notes: list[str]
) -> Recipe:
    """The recipe with what `dtype: auto` stands for on a CPU, as the run decides it."""
    gains = [
        name
        for name, model in {PIVOT: recipe.pivot, **recipe.sources}.items()
        if hardware.on_cpu and seems_to_gain(model, models[name].shape.hidden)
    ]
    if not gains:
        return recipe
    notes.append(f"arithmetic: {', '.join(gains)} in bfloat16, as the run will decide here")
    return in_bfloat16(recipe, gains, train=models[PIVOT].stored == 2)


def _of_engines(case: Case) -> list[str]:
    """What servers are asked for: it takes them as long as they take, which is not in the hours."""
    found = []
    for name in case.resolved.taught:
        if case.in_engine(name):
            lengths = case.train(name)
            found.append(
                f"{name} runs in its engine: {lengths.examples:,.0f} requests with "
                f"{lengths.tokens:,.0f} tokens for its teacher pass; a server's rate is not known, "
                "so the hours are without it"
            )
    return found


def rates_are_known(device: str) -> bool:
    """Whether a plan's hours are this machine's: calibrated, or of the device table."""
    return device != CPU or read_calibration() is not None


def hardware_of(device: str, count: int, nodes: int, notes: list[str]) -> Hardware:
    """The hardware by name. RecipeError for an unknown device or a count below 1."""
    for option, value in (("--count", count), ("--nodes", nodes)):
        if value < 1:
            raise RecipeError(f"{option} is {value}; expected a whole number from 1 on.")
    calibrated = read_calibration()
    host = of_cpu(calibrated, gain=expected_gain())
    threads = os.cpu_count() or 1
    base = float(calibrated["base_memory"]) if calibrated else CPU_BASE_MEMORY
    if device == CPU:
        if count > 1:
            raise RecipeError(
                "--device cpu --count: one process uses all processors of a machine, as they were "
                "calibrated. Give --nodes for several machines."
            )
        notes.append(
            f"rates: measured on this machine {age_in_words(calibrated)}"
            if calibrated
            else "rates: of one core of this project's test machine (2.5 GHz AMD EPYC), NOT of "
            "this one: add --calibrate (about 40 s, kept for later)"
        )
        return Hardware(CPU, 1, nodes, None, NETWORK, base, host, threads)
    found = device_called(device)
    notes.append(
        f"rates: {device} by its data sheet at an assumed utilisation "
        "(estimate/costs/devices.py); host "
        + (f"as measured here {age_in_words(calibrated)}" if calibrated else "as of a small CPU")
    )
    # With several machines the slowest link decides: the network, shared by a machine's devices.
    link = found.link if nodes == 1 else min(found.link, NETWORK)
    rates = of_device(found, host)
    return Hardware(device, count, nodes, found.memory, link, CONTEXT, rates, threads)


def total_of(rows: list[Row]) -> dict[str, float]:
    """Sums over all rows; of memory the largest; `disk` is the most that lies there at once."""
    return {
        "tokens": sum(row.tokens for row in rows),
        "flops": sum(row.flops for row in rows),
        "bytes": sum(row.bytes for row in rows),
        "cache_bytes": sum(row.bytes for row in rows if row.stage == "teach"),
        "target_bytes": sum(row.bytes for row in rows if row.stage == "fuse"),
        "checkpoint_bytes": sum(row.bytes for row in rows if row.stage in ("distill", "merge")),
        "disk": sum(row.bytes for row in rows) + max((row.scratch for row in rows), default=0.0),
        "memory": max(row.memory for row in rows),
        "seconds": sum(row.seconds for row in rows),
    }


def _values(row: Row) -> dict[str, Any]:
    return {key: value for key, value in asdict(row).items() if key != "work"}


def _over(rows: list[Row], hardware: Hardware) -> list[Row]:
    limit = hardware.memory
    return [] if limit is None else [row for row in rows if row.memory > limit]


def _too_large(rows: list[Row], hardware: Hardware) -> list[str]:
    """What does not fit, and what to do about it."""
    found = []
    for stage in dict.fromkeys(row.stage for row in _over(rows, hardware)):
        worst = max((row for row in rows if row.stage == stage), key=lambda row: row.memory)
        advice = {
            "distill": "set parallel: fsdp, training.gradient_checkpointing: true, "
            "lora, or a smaller per_device_train_batch_size",
            "teach": "set device_map: auto for this source, or a smaller teach.batch_tokens",
        }.get(stage, "set a smaller evaluate.batch_size")
        found.append(
            f"DOES NOT FIT: {stage} {worst.name} needs {worst.memory / 1e9:,.0f} GB of the "
            f"{(hardware.memory or 0) / 1e9:,.0f} GB of one {hardware.name}: {advice}"
        )
    return found


def _of_own_text(case: Case) -> list[str]:
    """What is taken for granted of text that the pivot writes."""
    notes = []
    for run in case.resolved.runs:
        if (own := run.on_policy) is None:
            continue
        said = f"{run.name}: every answer is taken to be {own.max_new_tokens} tokens long"
        if own.share == 1 and case.recipe.data.prompts and "max_steps" not in run.training:
            said += ", and data.prompts as many as the training examples"
        notes.append(said)
    return notes


def _cached_or_online(case: Case, rows: list[Row]) -> Teaching | None:
    """The comparison, whichever of the two the recipe asks for."""
    if all(target.teacher == "cached" for target in case.resolved.targets):
        return teaching(case, rows)
    cached = replace(case, recipe=all_cached(case.recipe))
    return teaching(cached, estimate(cached))


def _teacher(found: Teaching | None) -> dict[str, Any] | None:
    return None if found is None else {**asdict(found), "cheaper": found.cheaper}
