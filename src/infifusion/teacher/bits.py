"""Bits per byte of reference responses: comparable across tokenizers, no generation needed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from infifusion.data.tokenize import without_end
from infifusion.engine.beliefs import gold_log_probabilities
from infifusion.engine.engine import Remote
from infifusion.errors import DataError
from infifusion.process.bar import progress_bar
from infifusion.process.memory import BatchSize
from infifusion.recipe import Model
from infifusion.teacher.forward import believe, make_teacher
from infifusion.teacher.load import load_model
from infifusion.types import Rendered

BATCH_TOKENS = 8192


def bits_per_byte_by_domain(
    model: Model, rendered: Rendered, domains: list[str], *, names: list[str], title: str
) -> dict[str, float]:
    """Minus the sum of log2 p over all response tokens of a domain, over their bytes.

    The end of the turn is left out. rendered must be the model's own rendering; domains and names
    (for errors) are per example.
    """
    if not len(rendered):
        raise DataError(
            "There are no held-out examples to score in bits per byte. Give data.held_out a file."
        )
    nats_N = response_nats(model, rendered, 0, len(rendered), names=names, title=title)
    return by_domain(nats_N, response_bytes(rendered), domains)


def response_nats(
    model: Model,
    rendered: Rendered,
    begin: int,
    end: int,
    *,
    names: list[str],
    title: str,
    remote: Remote | None = None,
) -> NDArray[np.float64]:
    """Minus the log-probability (nats) of each response of examples [begin, end): [N]. remote: the
    model in its engine, which is asked in its place."""
    if begin == end:
        return np.zeros(0)
    row_N1 = rendered.row_N1[begin : end + 1]
    start_U = rendered.start_R[row_N1[0] : row_N1[-1]]
    if remote is not None:
        with progress_bar(title, end - begin, "texts") as meter:
            gold_U = gold_log_probabilities(
                remote, rendered, begin, end, names=names, advance=lambda _: meter.advance(1)
            )
        return -without_end(gold_U, start_U, row_N1 - row_N1[0])
    teacher = make_teacher(load_model(model), top_k=1, batch_tokens=BATCH_TOKENS, head_rows=None)
    tokens = BatchSize(
        BATCH_TOKENS, setting="tokens at once (bits per byte)", less="a smaller data.max_length"
    )
    tokens_in_all = int(rendered.offset_N1[end] - rendered.offset_N1[begin])
    with progress_bar(title, tokens_in_all, "tokens") as meter:
        beliefs = tokens.fit(
            lambda size: believe(
                replace(teacher, batch_tokens=size),
                rendered,
                begin,
                end,
                names=names,
                advance=meter.advance,
            )
        )
    return -without_end(beliefs.gold_U, start_U, row_N1 - row_N1[0])


def response_bytes(rendered: Rendered) -> NDArray[np.int32]:
    """Bytes of each response: [N]."""
    first_N = np.maximum(rendered.start_R[rendered.row_N1[:-1]], 0)
    return rendered.start_R[rendered.row_N1[1:] - 1] - first_N


def by_domain(
    nats_N: NDArray[np.float64], bytes_N: NDArray[np.int32], domains: list[str]
) -> dict[str, float]:
    """Bits per byte of each domain."""
    of = np.asarray(domains)
    return {
        domain: round(
            float(nats_N[of == domain].sum() / bytes_N[of == domain].sum() / math.log(2)), 5
        )
        for domain in sorted(set(domains))
    }
