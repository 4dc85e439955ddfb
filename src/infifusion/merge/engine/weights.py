"""Carrying out a merge plan: from a plan to a folder that from_pretrained loads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.blocks.arrays import Arrays, not_finite
from infifusion.merge.blocks.blocks import Blocks, NotFinite, Raw
from infifusion.merge.blocks.result import Merged
from infifusion.merge.checkpoints.dtypes import FLOATS
from infifusion.merge.checkpoints.views import WithLowRank
from infifusion.merge.checkpoints.writer import SHARD_BYTES
from infifusion.merge.engine.beside import config_of, copy_side_files
from infifusion.merge.engine.chat import chat_template_of, write_chat_template
from infifusion.merge.engine.device import choose_place
from infifusion.merge.engine.models import Model
from infifusion.merge.engine.plan import MergePlan
from infifusion.merge.engine.tensors import Part, Planned
from infifusion.merge.engine.walker import Parallel, Put, Task, carry_out, seed_of
from infifusion.merge.methods import METHODS
from infifusion.merge.methods.rsaf import Params as RsafParams
from infifusion.merge.methods.rsaf import across_tensors, measure
from infifusion.process import VERSION
from infifusion.recipe import as_json
from infifusion.registry import look_up
from infifusion.store.records import write_json
from infifusion.strict import Strict

DETAILS = "merge_details.json"
COPIED = 16_000_000  # elements of a tensor that is only copied, at once


def run_plan(
    plan: MergePlan,
    out: Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    memory: int | None = None,
    allow_nan: bool = False,
    shard_bytes: int = SHARD_BYTES,
    beside: Callable[[Path], None] = lambda folder: None,
) -> dict[str, Any]:
    """Merge into the new folder `out`; returns what merge_details.json holds, seconds and threads.
    beside: writes what else belongs into the folder.

    device: as for `choose_place`; threads: at most so many; memory: bytes at most, of anonymous
    memory or of the device's. Raises CheckpointError for NaN or Inf in an input or in the result
    (unless allow_nan), naming tensor and model, and RecipeError when the method does not fit the
    models, or the device is not there.
    """
    started = time.monotonic()
    place = choose_place(plan, device, threads=threads, memory=memory)
    runner = _Runner(plan, allow_nan, place.arrays)
    params = runner.params_of_all()
    # All that can be wrong with the small files is found before the large ones are written.
    config, template = config_of(plan), chat_template_of(plan)
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
        identity=_identity(plan, params, allow_nan, place.arrays.road),
        finish=finish,
        threads=place.threads,
        shard_bytes=shard_bytes,
    )
    seconds = round(time.monotonic() - started, 3)
    return found | {"seconds": seconds, "threads": place.threads}


def _report(plan: MergePlan, details: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What merge_details.json holds: the same for the same merge."""
    return {
        "method": plan.method,
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

    def __init__(self, plan: MergePlan, allow_nan: bool, arrays: Arrays) -> None:
        self.plan = plan
        self.allow_nan = allow_nan
        self.arrays = arrays
        self.method = look_up(METHODS, plan.method, kind="merge method")

    def params_of_all(self) -> dict[str, Strict]:
        """The parameters of every tensor; RSAF's may depend on all tensors together."""
        params = {name: planned.params for name, planned in self.plan.tensors.items()}
        first = next(iter(params.values()), None)
        if not isinstance(first, RsafParams):
            return params
        if first.granularity == "tensor" and first.control == "none":
            return params
        measured = {}
        for name, planned in self.plan.tensors.items():
            if planned.spec.dtype in FLOATS and isinstance(planned.params, RsafParams):
                blocks = self._blocks(name, planned, map)
                measured[name] = self._named(
                    name, planned, lambda b=blocks, p=planned.params: measure(b, p)
                )
        return params | across_tensors(measured, first)

    def task(self, name: str, planned: Planned, params: Strict):
        """merge(parallel, put) of one tensor."""

        def merge(parallel: Parallel, put: Put) -> dict[str, Any]:
            if planned.spec.dtype not in FLOATS:
                return self._copy_equal(name, planned, put)
            if self._is_plain_copy(planned, params):
                return self._copy(planned, put)
            return self._named(
                name, planned, lambda: self._merge(name, planned, params, parallel, put)
            )

        return merge

    def _merge(
        self, name: str, planned: Planned, params: Strict, parallel: Parallel, put: Put
    ) -> dict[str, Any]:
        blocks = self._blocks(name, planned, parallel)
        merged: Merged = self.method(blocks, params)
        merged = merged if isinstance(merged, Merged) else _bad_method(self.plan.method)
        dtype = planned.spec.dtype

        def write(span: range) -> int:
            bad = 0
            for index in span:
                block = merged.blocks.block(index)
                stored, found = self.arrays.encode(merged.apply(block), dtype)
                bad += 0 if self.allow_nan else found
                put(block.start, stored)
            return bad

        if sum(merged.blocks.parallel(write, merged.blocks.spans())):
            raise CheckpointError(
                f"The merged tensor {name} holds NaN or Inf as {dtype}, though its inputs do not: "
                "the weights or lambda are too large. Lower them, or give --allow-nan."
            )
        return dict(merged.details)

    def _named(self, name: str, planned: Planned, call):
        try:
            return call()
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
            arrays=self.arrays,
        )

    def _raw(self, part: Part, planned: Planned) -> Raw:
        model, name = part
        if planned.by_token and self.plan.vocabulary is not None:
            parts = {m.name: _with_adapter(m, n) for m, n in planned.parts}
            # A model of the merge may have no part in this tensor's slice.
            for other in self.plan.vocabulary.models:
                parts.setdefault(other.name, _with_adapter(other, other.source_of(name)))
            width = int(np.prod(planned.spec.shape[1:], dtype=np.int64))
            return Raw(self.plan.vocabulary.view(model, parts, width), "F32")  # type: ignore[arg-type]
        array, dtype = _with_adapter(model, name)
        return Raw(array, dtype)

    def _is_plain_copy(self, planned: Planned, params: Strict) -> bool:
        if self.plan.method != "passthrough" or planned.by_token or len(planned.models) != 1:
            return False
        model, name = planned.models[0]
        scale = params.scale  # type: ignore[attr-defined]
        return (
            self.allow_nan is False
            and (scale is None or scale == [None])
            and model.adapter is None
            and model.checkpoint.dtype(name) == planned.spec.dtype
        )

    def _copy(self, planned: Planned, put: Put) -> dict[str, Any]:
        model, name = planned.models[0]
        array = model.checkpoint.array(name)
        for start in range(0, len(array), COPIED):
            part = array[start : start + COPIED]
            if not_finite(part, planned.spec.dtype):
                raise _names_the_bad(name, planned.models[0])
            put(start, part)
        return {}

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


def _with_adapter(model: Model, name: str) -> tuple[Any, str]:
    """A tensor as it is read: flat array or view, and the dtype of what it gives."""
    array, dtype = model.checkpoint.array(name), model.checkpoint.dtype(name)
    if model.adapter is None or name not in model.adapter.changed:
        return array, dtype
    left, right = model.adapter.factors(name)
    if (left.shape[0], right.shape[1]) != model.checkpoint.shape(name):
        raise CheckpointError(
            f"{model.adapter.folder} changes {name} by [{left.shape[0]}, {right.shape[1]}], but "
            f"{model.folder} has it as {list(model.checkpoint.shape(name))}. Give the "
            "model that the "
            "adapter was trained on (base_model_name_or_path in its adapter_config.json)."
        )
    return WithLowRank(array, dtype, left, right), "F32"


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


def _bad_method(name: str) -> Merged:
    raise RecipeError(
        f"merge: {name} did not return a Merged. A merge method is method(blocks, params) -> Merged"
        " (infifusion.merge.blocks.result)."
    )


def _identity(
    plan: MergePlan, params: Mapping[str, Strict], allow_nan: bool, road: str
) -> dict[str, Any]:
    """Everything that decides the bytes of the result."""
    models = {str(m.folder): m for m in [plan.donor, *plan.models]}
    for planned in plan.tensors.values():
        models |= {str(model.folder): model for model, _ in planned.parts}
    return {
        "version": VERSION,
        "method": plan.method,
        "seed": plan.seed,
        "allow_nan": allow_nan,
        "road": road,
        "vocabulary": plan.vocabulary.identity if plan.vocabulary else None,
        "files": {folder: _stamps(model) for folder, model in sorted(models.items())},
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


def _stamps(model: Model) -> dict[str, list[int]]:
    """Size and time of every file of a model and its adapter."""
    folders = [model.folder, *([model.adapter.folder] if model.adapter else [])]
    files = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
    return {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
