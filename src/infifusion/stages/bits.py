"""Bits per byte of reference responses: comparable across tokenizers, no generation needed."""

from __future__ import annotations

import math

import numpy as np

from infifusion.errors import DataError
from infifusion.recipe import Model
from infifusion.runtime import progress_bar
from infifusion.teacher.forward import believe, make_teacher
from infifusion.teacher.load import load_model
from infifusion.types import Rendered


def bits_per_byte_by_domain(
    model: Model, rendered: Rendered, domains: list[str], *, names: list[str], title: str
) -> dict[str, float]:
    """Minus the sum of log2 p over all response tokens of a domain, over their bytes.

    The end of the turn is apart. rendered must be the model's own rendering; domains and names
    (for errors) are per example.
    """
    if not len(rendered):
        raise DataError("There are no held-out examples to score in bits per byte.")
    teacher = make_teacher(load_model(model), top_k=1, batch_tokens=8192, head_rows=1024)
    with progress_bar(title, len(rendered.ids_L)) as progress:
        gold_U = np.zeros(0, dtype=np.float32)
        for tokens, beliefs in believe(teacher, rendered, 0, len(rendered), names=names):
            progress.advance(progress.task_ids[0], tokens)
            if beliefs is not None:
                gold_U = beliefs.gold_U
    last_N = rendered.row_N1[1:] - 1
    without_end = gold_U.astype(np.float64)
    without_end[last_N] = 0
    nats_N = -np.add.reduceat(without_end, rendered.row_N1[:-1])
    bytes_N = rendered.start_R[last_N] - rendered.start_R[rendered.row_N1[:-1]]
    of = np.asarray(domains)
    return {
        domain: round(
            float(nats_N[of == domain].sum() / bytes_N[of == domain].sum() / math.log(2)), 5
        )
        for domain in sorted(set(domains))
    }
