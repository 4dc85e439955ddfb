"""Carrying out a merge plan: from a plan to a folder that from_pretrained loads."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.blocks.blocks import Blocks, NotFinite, Parallel, Raw
from infifusion.merge.blocks.result import Merged
from infifusion.merge.blocks.stored import encode, encode_checked, not_finite
from infifusion.merge.checkpoints.dtypes import FLOATS
from infifusion.merge.checkpoints.views import as_float32
from infifusion.merge.checkpoints.writer import SHARD_BYTES
from infifusion.merge.engine.beside import (
    chat_template_of,
    copy_side_files,
    write_chat_template,
)
from infifusion.merge.engine.model import Model
from infifusion.merge.engine.planner import MergePlan, fit_threads
from infifusion.merge.engine.result_config import config_of
from infifusion.merge.engine.tensors import Part, Planned
from infifusion.merge.engine.walker import Put, Task, carry_out, seed_of
from infifusion.process import VERSION
from infifusion.store.records import write_json
from infifusion.strict import Strict, as_json

DETAILS = "merge_details.json"
TOO_LARGE = {
    "F16": "float16 holds no number beyond 65504. Write out_dtype: bfloat16 (or float32), lower "
    "the weights or lambda"
}
COPIED = 16_000_000  # elements of a tensor that is only copied, at once


def run_plan(
    plan: MergePlan,
    out: Path,
    *,
    threads: int | None = None,
    memory: int | None = None,
    allow_nan: bool = False,
    shard_bytes: int = SHARD_BYTES,
    beside: Callable[[Path], None] = lambda folder: None,
) -> dict[str, Any]:
    """Merge into the new folder `out`; returns what merge_details.json holds, seconds and threads.
    beside: writes what else belongs into the folder.

    threads: at most so many; memory: bytes of anonymous memory at most. Raises CheckpointError for
    NaN or Inf in an input or in the result (unless allow_nan), naming tensor and model, and
    RecipeError when the method does not fit the models, or the memory holds not even one block.
    """
    started = time.monotonic()
    workers = fit_threads(plan, threads=threads, memory=memory)
    runner = _Runner(plan, allow_nan)
    params = runner.params_of_all()
    # All that can be wrong with the small files is found before the large ones are written.
    config, template = plan.config or config_of(plan), chat_template_of(plan)
    tasks = {
        name: Task(
            planned.spec,
            runner.task(name, planned, params[name]),
            tuple((model.checkpoint, inner) for model, inner in planned.parts),
        )
        for name, planned in plan.tensors.items()
    }
    found: dict[str, Any] = {}

    def finish(folder: Path, details: dict[str, dict[str, Any]]) -> None:
        copy_side_files(plan, folder)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if template is not None:
            write_chat_template(template, folder)
        found.update(_report(plan, details))
        write_json(folder / DETAILS, found)
        beside(folder)

    carry_out(
        tasks,
        out,
        identity=_identity(plan, params, allow_nan),
        finish=finish,
        threads=workers,
        shard_bytes=shard_bytes,
    )
    seconds = round(time.monotonic() - started, 3)
    return found | {"seconds": seconds, "threads": workers}


def _report(plan: MergePlan, details: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What merge_details.json holds: the same for the same merge."""
    return {
        "method": plan.name,
        "params": as_json(next(iter(plan.tensors.values())).params) if plan.tensors else {},
        "base": str(plan.base.folder) if plan.base else None,
        "models": [model.name for model in plan.models],
        "tensors": [
            {"name": name, "numel": int(np.prod(plan.tensors[name].spec.shape)), **one}
            for name, one in details.items()
        ],
    }


class _Runner:
    """Makes the function that merges one tensor."""

    def __init__(self, plan: MergePlan, allow_nan: bool) -> None:
        self.plan = plan
        self.method = plan.method
        self.allow_nan = allow_nan

    def params_of_all(self) -> dict[str, Strict]:
        """The parameters of every tensor; a method may settle them by a look at all tensors."""
        tensors = self.plan.tensors
        params = {name: planned.params for name, planned in tensors.items()}
        measure, settle = self.method.measure, self.method.settle
        if measure is None or settle is None or not params:
            return params
        measured = {}
        for name, planned in tensors.items():
            if planned.spec.dtype in FLOATS and not planned.kept:
                with self._errors_named(name, planned):
                    measured[name] = measure(self._blocks(name, planned, map), planned.params)
        return {**params, **settle(measured, next(iter(params.values())))}

    def task(self, name: str, planned: Planned, params: Strict):
        """merge(parallel, put) of one tensor."""

        def merge(parallel: Parallel, put: Put) -> dict[str, Any]:
            if planned.kept:
                return self._copy(planned, put)
            if planned.spec.dtype not in FLOATS:
                return self._copy_equal(name, planned, put)
            if self._is_plain_copy(planned, params):
                return self._copy(planned, put)
            with self._errors_named(name, planned):
                return self._merge(name, planned, params, parallel, put)

        return merge

    def _merge(
        self, name: str, planned: Planned, params: Strict, parallel: Parallel, put: Put
    ) -> dict[str, Any]:
        blocks = self._blocks(name, planned, parallel)
        merged = self.method.function(blocks, params)
        if not isinstance(merged, Merged):
            raise RecipeError(
                f"merge: {self.plan.name} did not return a Merged. A merge method is "
                "method(blocks, params) -> Merged (infifusion.merge.blocks.result)."
            )
        dtype = planned.spec.dtype

        def write(span: range) -> int:
            bad = 0
            for index in span:
                block = merged.blocks.block(index)
                stored, found = encode_checked(merged.apply(block), dtype)
                bad += 0 if self.allow_nan else found
                put(block.start, stored)
            return bad

        if sum(merged.blocks.parallel(write, merged.blocks.spans())):
            raise CheckpointError(
                f"The merged tensor {name} holds NaN or Inf as {dtype}, though its inputs do not: "
                f"{TOO_LARGE.get(dtype, 'the weights or lambda are too large. Lower them')}, or "
                "give --allow-nan."
            )
        return dict(merged.details)

    @contextlib.contextmanager
    def _errors_named(self, name: str, planned: Planned) -> Iterator[None]:
        """Errors of the method with the tensor's name, and the model's where it is known."""
        try:
            yield
        except NotFinite as error:
            parts = planned.parts if planned.base else [None, *planned.models]
            raise _names_the_bad(name, parts[error.source]) from None
        except ValueError as error:
            if isinstance(error, CheckpointError | RecipeError):
                raise
            raise RecipeError(f"merge, tensor {name}: {error}") from error

    def _blocks(self, name: str, planned: Planned, parallel: Parallel) -> Blocks:
        return Blocks(
            base=self._raw(planned.base, planned) if planned.base else None,
            models=[self._raw(part, planned) for part in planned.models],
            shape=planned.spec.shape,
            seed=seed_of(self.plan.seed, name),
            parallel=parallel,
            allow_not_finite=self.allow_nan,
        )

    def _raw(self, part: Part, planned: Planned) -> Raw:
        model, name = part
        if planned.by_token and self.plan.vocabulary is not None:
            parts = {m.name: m.read(n) for m, n in planned.parts}
            # A model of the merge may have no part in this tensor's slice.
            for other in self.plan.vocabulary.models:
                parts.setdefault(other.name, other.read(other.source_of(name)))
            width = int(np.prod(planned.spec.shape[1:], dtype=np.int64))
            return Raw(self.plan.vocabulary.view(model, parts, width), "F32")  # type: ignore[arg-type]
        return Raw(*model.read(name))

    def _is_plain_copy(self, planned: Planned, params: Strict) -> bool:
        copies = self.method.copies
        if copies is None or planned.by_token or len(planned.models) != 1:
            return False
        model, name = planned.models[0]
        return (
            self.allow_nan is False
            and copies(params)
            and model.adapter is None
            and model.checkpoint.dtype(name) == planned.spec.dtype
        )

    def _copy(self, planned: Planned, put: Put) -> dict[str, Any]:
        model, name = planned.models[0]
        array, dtype = model.read(name)
        size = math.prod(model.shape(name))
        for start in range(0, size, COPIED):
            part = array[start : min(start + COPIED, size)]
            if dtype in FLOATS and not self.allow_nan and not_finite(part, dtype):
                raise _names_the_bad(name, planned.models[0])
            same = dtype == planned.spec.dtype
            put(start, part if same else encode(as_float32(part, dtype), planned.spec.dtype))
        return {"copied_from": model.name} if planned.kept else {}

    def _copy_equal(self, name: str, planned: Planned, put: Put) -> dict[str, Any]:
        (first, first_name), *others = planned.parts
        array = first.checkpoint.array(first_name)
        for model, inner in others:
            if not np.array_equal(model.checkpoint.array(inner), array):
                raise CheckpointError(
                    f"The tensor {name} ({planned.spec.dtype}) differs in {model.name}; tensors "
                    "that are no floats cannot be merged and must be equal: leave the model out."
                )
        put(0, array)
        return {}


def _names_the_bad(name: str, part: Part | None) -> CheckpointError:
    assert part is not None
    model, inner = part
    array = model.checkpoint.array(inner)
    bad = not_finite(array, model.checkpoint.dtype(inner))
    if not bad:
        return CheckpointError(
            f"The tensor {inner} of {model.name} holds values beyond what float32 can hold, in "
            "which merging calculates. Scale it down, or give --allow-nan."
        )
    return CheckpointError(
        f"The tensor {inner} of {model.name} holds {bad} NaN or Inf of {len(array)} values. That "
        "checkpoint is broken; take an earlier one, or give --allow-nan."
    )


def _identity(plan: MergePlan, params: Mapping[str, Strict], allow_nan: bool) -> dict[str, Any]:
    """Everything that decides the bytes of the result."""
    models = {str(m.folder): m for m in [plan.donor, *plan.models]}
    for planned in plan.tensors.values():
        models |= {str(model.folder): model for model, _ in planned.parts}
    return {
        "version": VERSION,
        "method": plan.name,
        "seed": plan.seed,
        "allow_nan": allow_nan,
        "road": "compiled",  # so that a merge that an older version began goes on
        "vocabulary": plan.vocabulary.identity if plan.vocabulary else None,
        "files": {folder: stamps(model) for folder, model in sorted(models.items())},
        "tensors": {
            name: [
                planned.spec.dtype,
                list(planned.spec.shape),
                [f"{model.name}:{inner}" for model, inner in planned.parts],
                as_json(params[name]),
            ]
            for name, planned in plan.tensors.items()
        },
    }


def stamps(model: Model) -> dict[str, list[int]]:
    """Size and time of every file of a model and its adapter."""
    folders = [model.folder, *model.adapters]
    files = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
    return {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
