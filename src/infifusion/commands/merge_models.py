"""`infifusion merge`: read the file, say what will be done, do it."""

from __future__ import annotations

import math
import re
import shlex
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from infifusion.commands.merge_several import merge_several, models_in_words
from infifusion.errors import ArtifactError, RecipeError
from infifusion.estimate.table import size
from infifusion.merge.engine.extract import extract_lora
from infifusion.merge.engine.file import MergeFile, read_merges
from infifusion.merge.engine.models import open_model
from infifusion.merge.engine.moe import make_moe, read_moe_file
from infifusion.merge.engine.plan import checked_plan
from infifusion.merge.engine.planner import MergePlan, fit_threads, memory_needed
from infifusion.merge.engine.walker import unfinished
from infifusion.merge.engine.weights import run_plan
from infifusion.process.wording import counted
from infifusion.recipe import as_written
from infifusion.report.card import write_merge_card

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "": 1}
WORST = 5  # tensors of an extracted adapter that are printed
DISK = 2e9  # bytes per second read or written, as a laptop's SSD does


def merge_command(
    path: Path,
    out: Path | None,
    *,
    base: str | None,
    plan_only: bool,
    dry_run: bool,
    memory: str | None,
    threads: int | None,
    shard_size: str,
    allow_nan: bool,
    allow_pickle: bool,
    intermediates: Path | None = None,
) -> tuple[str, dict[str, Any]]:
    """What to print, and the same as values. intermediates: where the merges that others take are
    kept, where the file holds several."""
    *before, (_, file) = read_merges(path, base_override=base)
    limit = bytes_from(memory, "--memory") if memory else None
    shard_bytes = bytes_from(shard_size, "--shard-size")
    if before:
        if out is None or plan_only or dry_run:
            raise RecipeError(
                f"{path} holds {len(before) + 1} merges, of which one takes the result of another: "
                "what they read is known only once those are done. Give OUT_DIR, without --plan "
                "and --dry-run."
            )
        return merge_several(
            [*before, (None, file)],
            path,
            out,
            keep=intermediates,
            pickle=allow_pickle,
            merge=partial(
                merge_with_card,
                threads=threads,
                memory=limit,
                allow_nan=allow_nan,
                shard_bytes=shard_bytes,
            ),
        )
    if intermediates is not None:
        raise RecipeError(f"{path} holds one merge and has no --intermediates. Leave that out.")
    plan = checked_plan(file, path, pickle=allow_pickle)
    if plan_only or dry_run:
        values = describe(plan, threads=threads, memory=limit)
        command = shlex.join(["infifusion", "merge", str(path), str(out or "OUT_DIR")])
        if dry_run:
            return (
                f"{values['tensors']} tensors are present in all models, with fitting shapes and "
                f"dtypes.{_notes(plan)} Next: {command}",
                values,
            )
        return f"{as_text(plan, values)}\nNext: {command}", values
    if out is None:
        raise RecipeError("OUT_DIR is missing: infifusion merge MERGE.yaml OUT_DIR.")
    details = merge_with_card(
        plan,
        file,
        out,
        threads=threads,
        memory=limit,
        allow_nan=allow_nan,
        shard_bytes=shard_bytes,
    )
    text = (
        f"Merged {models_in_words(file)} by {plan.name} into {out} "
        f"({details['seconds']:.1f} s).{_notes(plan)}\n"
        f"Next: infifusion evaluate {shlex.quote(str(out))} --tasks gsm8k"
    )
    return text, {"out": str(out), **details}


def _notes(plan: MergePlan) -> str:
    return "".join(f"\nNote: {note}" for note in plan.notes)


def merge_with_card(plan: MergePlan, file: MergeFile, out: Path, **options: Any) -> dict[str, Any]:
    """`run_plan` with its options, where the disk has room; the model card and the merge file stand
    beside the weights."""
    check_room(plan, out)

    def card(folder: Path) -> None:
        write_merge_card(
            folder,
            name=out.resolve().name,
            recipe=as_written(file),
            base=plan.base.name if plan.base else None,
            models=[model.name for model in plan.models],
            method=plan.name,
        )

    return run_plan(plan, out, beside=card, **options)


def moe_command(
    path: Path, out: Path, *, threads: int | None, shard_size: str, allow_pickle: bool
) -> tuple[str, dict[str, Any]]:
    """What to print of the mixture of experts, and the same as values."""
    details, notes = make_moe(
        read_moe_file(path),
        path,
        out,
        threads=threads,
        pickle=allow_pickle,
        shard_bytes=bytes_from(shard_size, "--shard-size"),
    )
    said = "".join(f"\nNote: {note}" for note in notes)
    text = f"Merged {counted(len(details['models']), 'expert')} into {out}.{said}"
    return text, {"out": str(out), **details, "notes": notes}


def extract_command(
    base: str, tuned: str, out: Path, *, rank: int, seed: int
) -> tuple[str, dict[str, Any]]:
    """What to print of the adapter that leads from one model to the other, and it as values."""
    one, other = (open_model(name, Path()) for name in (base, tuned))
    details = extract_lora(one, other, out, rank=rank, seed=seed)
    worst = sorted(details["tensors"], key=lambda one: -one["error"])[:WORST]
    lines = [
        f"{out}: an adapter of rank {rank} for {base}; it lacks {100 * details['error']:.1f} % of "
        "the change (Frobenius norm).",
        *(f"  {one['name']}: {100 * one['error']:.1f} %" for one in worst),
    ]
    if left := details["left_out"]:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        lines.append(f"Note: {left[0]}{more} changed, too; an adapter of matrices lacks it.")
    lines += [f"Note: {note}" for note in details["notes"]]
    lines.append(f"Next: write {base}+{out} into a merge file, or load it with peft.")
    return "\n".join(lines), details


def bytes_from(text: str, option: str) -> int:
    """1GB, 500 MB or 2GiB as bytes. RecipeError for anything else, and for less than a byte."""
    match = re.fullmatch(r"(\d{1,18}(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)", text.strip())
    unit = UNITS.get(match[2].upper(), 0) if match else 0
    size = int(float(match[1]) * unit) if match else 0
    if size < 1:
        raise RecipeError(f"{option} {text!r:.60} is no size. Give one such as 1GB or 500MB.")
    return size


def check_room(plan: MergePlan, out: Path) -> None:
    """ArtifactError where the disk cannot hold the result."""
    place = next(parent for parent in out.resolve().parents if parent.exists())
    begun = unfinished(out)
    written = sum(path.stat().st_size for path in begun.glob("*")) if begun.exists() else 0
    needed = sum(planned.spec.bytes for planned in plan.tensors.values()) - written
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ArtifactError(
            f"The result takes {needed / 1e9:.1f} GB, but {place} has {free / 1e9:.1f} GB free. "
            "Make room, or give another folder."
        )


def describe(plan: MergePlan, *, threads: int | None, memory: int | None) -> dict[str, Any]:
    """Everything that --plan prints."""
    workers = fit_threads(plan, threads=threads, memory=memory)
    parts = {
        (model.name, inner): (model, inner)
        for planned in plan.tensors.values()
        for model, inner in planned.parts
    }
    read = sum(
        model.checkpoint.stored(inner).stop - model.checkpoint.stored(inner).start
        for model, inner in parts.values()
    )
    written = sum(planned.spec.bytes for planned in plan.tensors.values())
    positions = sum(
        math.prod(planned.spec.shape) * len(planned.parts) for planned in plan.tensors.values()
    )
    calculating = 1 + positions * plan.method.nanoseconds * 1e-9 / workers
    return {
        "method": plan.name,
        "base": None if plan.base is None else plan.base.name,
        "models": [model.name for model in plan.models],
        "tensors": len(plan.tensors),
        "dtypes": dict(Counter(planned.spec.dtype for planned in plan.tensors.values())),
        "layers": len(plan.layers) or plan.donor.layers,
        "bytes_read": read,
        "bytes_written": written,
        "threads": workers,
        "memory": memory_needed(plan, workers),
        "seconds": round(calculating + (read + written) / DISK, 1),
        "notes": plan.notes,
    }


def as_text(plan: MergePlan, values: dict[str, Any]) -> str:
    """The plan in a few lines."""
    dtypes = ", ".join(f"{count} {name}" for name, count in values["dtypes"].items())
    lines = [
        f"method    {values['method']}",
        f"base      {values['base'] or 'none'}",
        *(f"model     {name}" for name in values["models"]),
        f"tensors   {values['tensors']} in {values['layers']} layers: {dtypes}",
        f"reads     {size(values['bytes_read'])}",
        f"writes    {size(values['bytes_written'])}",
        f"memory    about {values['memory'] / 1e6:.0f} MB with {values['threads']} threads",
        f"time      about {values['seconds']:.0f} s",
        *(f"note      {note}" for note in values["notes"]),
    ]
    if plan.vocabulary is not None:
        lines.insert(-3, f"tokens    {plan.vocabulary.rows} rows")
    return "\n".join(lines)
