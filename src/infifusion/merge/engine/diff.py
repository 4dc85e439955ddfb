"""`infifusion diff`: how models differ from a base, tensor by tensor.

Axes: S models.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.blocks import kernels
from infifusion.merge.blocks.blocks import Block, Blocks, NotFinite, Raw
from infifusion.merge.checkpoints.dtypes import FLOATS
from infifusion.merge.engine.models import Model, open_model
from infifusion.merge.engine.walker import usable_threads
from infifusion.merge.methods.rsaf import raw_powers, skewness
from infifusion.merge.methods.sce import survey
from infifusion.process.bar import progress_bar
from infifusion.store.durable import atomic_write

WORST = 20
MEASURES = {
    "changed": "share of the weights that differ from the base",
    "rms": "RMS of the change relative to the RMS of the base",
    "sign_agreement": "share of the positions several models changed in which all signs agree",
    "cosine": "mean cosine between the models' changes",
    "skewness": "skewness of the standard deviation over the models (RSAF's gamma)",
}


def diff_command(names: list[str], *, html: Path | None) -> tuple[str, dict[str, Any]]:
    """The table to print, and all of it as values; a page with heat maps where asked for."""
    if len(names) < 2:
        raise RecipeError("diff compares a base with one model or more: infifusion diff BASE A B.")
    base, *models = [open_model(name, Path()) for name in names]
    values = {
        "base": names[0],
        "models": names[1:],
        "measures": MEASURES,
        "tensors": measure_tensors(base, models, compare, title="diff (tensors)"),
    }
    if html is not None:
        from infifusion.report.pages.diff_page import diff_page

        with atomic_write(html) as temporary:
            temporary.write_text(diff_page(values), encoding="utf-8")
    return _as_text(values, html), values


def measure_tensors(
    base: Model,
    models: list[Model],
    measure: Callable[[Blocks], dict[str, Any]],
    *,
    title: str,
) -> list[dict[str, Any]]:
    """`measure` of every floating-point tensor of the base, with its name and elements.

    Raises CheckpointError where a model lacks a tensor, has it in another shape, or holds NaN or
    Inf in it.
    """
    names = [name for name in base.checkpoint.names if base.checkpoint.dtype(name) in FLOATS]
    for model in models:
        for name in names:
            inner = model.source_of(name)
            if inner not in model.checkpoint:
                raise CheckpointError(
                    f"{model.folder} lacks the tensor {name} of {base.folder}. Give models of one "
                    "architecture, the base first."
                )
            if model.checkpoint.shape(inner) != base.checkpoint.shape(name):
                raise CheckpointError(
                    f"The tensor {name} has shape {list(model.checkpoint.shape(inner))} in "
                    f"{model.folder}, but {list(base.checkpoint.shape(name))} in {base.folder}. "
                    "Give models of one architecture and vocabulary, the base first."
                )
    found = []
    with (
        ThreadPoolExecutor(usable_threads()) as pool,
        progress_bar(title, len(names), "tensors") as meter,
    ):
        for name in names:
            blocks = Blocks(
                Raw(base.checkpoint.array(name), base.checkpoint.dtype(name)),
                [
                    Raw(
                        m.checkpoint.array(m.source_of(name)), m.checkpoint.dtype(m.source_of(name))
                    )
                    for m in models
                ],
                base.checkpoint.shape(name),
                parallel=pool.map,
            )
            try:
                found.append({"name": name, "numel": blocks.size, **measure(blocks)})
            except NotFinite as error:
                which = base if error.source == 0 else models[error.source - 1]
                raise CheckpointError(
                    f"The tensor {name} of {which.folder} holds NaN or Inf. That checkpoint is "
                    "broken; take an earlier one."
                ) from None
            meter.advance()
    return found


def compare(blocks: Blocks) -> dict[str, Any]:
    """The measures of one tensor; `changed` and `rms` have one value per model. None where a
    measure has no meaning: one model, or nothing changed."""
    models = len(blocks.models)

    def add(block: Block, sums: np.ndarray) -> None:
        delta_SP = block.delta_SP
        sums[:models] += np.count_nonzero(delta_SP, axis=1)
        several_P = np.count_nonzero(delta_SP, axis=0) > 1
        signs_SP = np.sign(delta_SP)
        agree_P = np.abs(signs_SP.sum(axis=0)) == np.abs(signs_SP).sum(axis=0)
        sums[models] += np.count_nonzero(several_P)
        sums[models + 1] += np.count_nonzero(several_P & agree_P)
        sums[models + 2] += kernels.sum_of_products(block.base_P, block.base_P)
        kernels.gram(delta_SP, sums[models + 3 :].reshape(models, models))

    sums = blocks.total(add, np.zeros(models + 3 + models**2))
    products = sums[models + 3 :].reshape(models, models)
    squares = np.diag(products)
    several, agreeing, base = (float(value) for value in sums[models : models + 3])
    pairs = [
        products[a, b] / np.sqrt(squares[a] * squares[b])
        for a, b in combinations(range(models), 2)
        if squares[a] > 0 and squares[b] > 0
    ]
    spread = survey(blocks) if models > 1 else None
    size = max(blocks.size, 1)
    return {
        "changed": [float(count) / size for count in sums[:models]],
        "rms": [float(np.sqrt(square / base)) if base > 0 else None for square in squares],
        "sign_agreement": agreeing / several if several else None,
        "cosine": float(np.mean(pairs)) if pairs else None,
        "skewness": skewness(raw_powers(spread)) if spread and spread.positive else None,
    }


def _as_text(values: dict[str, Any], html: Path | None) -> str:
    """The tensors that changed most, and the mean over all."""
    tensors = values["tensors"]
    table = Table(title=f"{', '.join(values['models'])} against {values['base']}")
    table.add_column("tensor")
    for key in MEASURES:
        table.add_column(key.replace("_", " "), justify="right")

    def most(tensor: dict[str, Any]) -> float:
        return -max((value or 0.0 for value in tensor["rms"]), default=0.0)

    for tensor in sorted(tensors, key=most)[:WORST]:
        table.add_row(tensor["name"], *(_cell(tensor[key]) for key in MEASURES))
    table.add_section()
    table.add_row(f"all {len(tensors)}, by weights", *(_cell(_mean(tensors, k)) for k in MEASURES))
    console = Console(width=140)
    with console.capture() as capture:
        console.print(table)
        for key, meaning in MEASURES.items():
            console.print(f"{key.replace('_', ' ')}: {meaning}")
        if html is None:
            console.print("Heat maps: add --html diff.html; every tensor: --json.")
        else:
            console.print(f"Heat maps: {html}")
    return capture.get().rstrip()


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_cell(one) for one in value)
    return "–" if value is None else f"{value:.3g}"


def _mean(tensors: list[dict[str, Any]], key: str) -> Any:
    """Mean over the tensors, each counting as much as it has weights."""
    values = [t[key] for t in tensors]
    if values and isinstance(values[0], list):
        columns = range(len(values[0]))
        return [_mean([{**t, key: t[key][n]} for t in tensors], key) for n in columns]
    known = [(v, t["numel"]) for v, t in zip(values, tensors, strict=True) if v is not None]
    total = sum(weight for _, weight in known)
    return sum(v * weight for v, weight in known) / total if total else None
