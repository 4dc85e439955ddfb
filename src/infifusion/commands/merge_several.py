"""Several merges in one file, of which one takes the result of another for a model."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infifusion.errors import ArtifactError
from infifusion.merge.engine.file import MergeFile
from infifusion.merge.engine.plan import checked_plan
from infifusion.merge.engine.planner import MergePlan
from infifusion.process.wording import counted
from infifusion.recipe import as_written
from infifusion.report.card import public_names
from infifusion.store.records import read_record, write_record

SIGNED = ".made_from.json"  # beside an intermediate result: what it was made from


def merge_several(
    merges: list[tuple[str | None, MergeFile]],
    path: Path,
    out: Path,
    *,
    keep: Path | None,
    pickle: bool,
    merge: Callable[[MergePlan, MergeFile, Path], dict[str, Any]],
) -> tuple[str, dict[str, Any]]:
    """Carry them out in their order, the last one into `out`; what to print, and it as values.

    Intermediate results lie in `keep`, or beside `out` until it is whole. One that is there and was
    made of the same merge and the same files is not made again. Raises ArtifactError where `out` is
    not free, where `keep` lies in it, and for a folder of an intermediate's name that no such merge
    made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(f"{out} exists already. Give another folder, or delete this one.")
    place = keep or out.parent / f".{out.name}.intermediates"
    _require_room_of_their_own(place, out, [name for name, _ in merges if name])
    places: dict[str, Path] = {}
    lines: list[str] = []
    details: dict[str, Any] = {}
    for name, file in merges:
        folder = out if name is None else place / name
        plan = checked_plan(file, path, pickle=pickle, places=places)
        notes = "".join(f"\nNote: {note}" for note in plan.notes)
        said = f"{models_in_words(file)} by {plan.name} into {folder}"
        if name is not None:
            made_from = _signature(plan, file)
            record = place / f"{name}{SIGNED}"
            places[name] = folder
            if _is_made(folder, record, made_from):
                lines.append(f"Found {said}.{notes}")
                continue
            shutil.rmtree(folder, ignore_errors=True)
            write_record(record, {"made_from": ""})  # whose folder it is, until it is whole
            details = merge(plan, file, folder)
            write_record(record, {"made_from": made_from})
        else:
            details = merge(plan, file, folder)
        lines.append(f"Merged {said} ({details['seconds']:.1f} s).{notes}")
    if keep is None:
        shutil.rmtree(place, ignore_errors=True)
    return "\n".join(lines), {"out": str(out), **details}


def _require_room_of_their_own(place: Path, out: Path, names: list[str]) -> None:
    if place.resolve().is_relative_to(out.resolve()):
        raise ArtifactError(
            f"--intermediates {place} lies in {out}, which appears whole or not at all. Give a "
            "folder beside it."
        )
    for name in names:
        folder = place / name
        if folder.exists() and not (place / f"{name}{SIGNED}").is_file():
            raise ArtifactError(
                f"{folder} is there and is no intermediate result of infifusion: the merge "
                f"{name!r} would overwrite it. Give another folder for --intermediates, or that "
                "merge another name."
            )


def models_in_words(file: MergeFile) -> str:
    """2 models (math, code) over the base pivot: what a merge file merges, by names that differ."""
    listed = []
    for module in file.parts().values():
        listed += [one.model for one in module.models or []]
        listed += [one.model for part in module.slices or [] for one in part.sources]
    listed = list(dict.fromkeys(listed))
    apart = file.base_model if file.base_model not in listed else None
    names = public_names([*listed, *([apart] if apart else [])])
    said = f"{counted(len(listed), 'model')} ({', '.join(names[one] for one in listed)})"
    return f"{said} over the base {names[apart]}" if apart else said


def _is_made(folder: Path, record: Path, made_from: str) -> bool:
    if not (folder.is_dir() and record.is_file()):
        return False
    try:
        return read_record(record).get("made_from") == made_from
    except ArtifactError:  # a damaged record is of no merge
        return False


def _signature(plan: MergePlan, file: MergeFile) -> str:
    """SHA-256 of the merge and of the names, sizes and times of the files that it reads."""
    files = [
        (str(path), path.stat().st_size, path.stat().st_mtime_ns)
        for model in plan.everyone
        for folder in (model.folder, *model.adapters)
        for path in sorted(folder.iterdir())
        if path.is_file()
    ]
    text = json.dumps([as_written(file), files], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
