"""One source over some examples: what it believed at every response position.

Hidden states go through the head in chunks, so a full [B, T, V] float32 tensor never exists.
Axes: B batch, L tokens (padding included), U response positions, C positions of a chunk,
K kept entries, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from infifusion.errors import CheckpointError, NumericsError
from infifusion.teacher.lm_head import LanguageModelHead, check_head, split_head
from infifusion.teacher.statistics import statistics
from infifusion.types import Beliefs, Rendered

# Float32 logits that exist at once: enough rows that the cost of a call does not count.
LOGIT_BYTES = 128 << 20


@dataclass(frozen=True)
class Teacher:
    """A model ready for its pass: its body and its head apart. Its logits are divided by
    `temperature`."""

    model: PreTrainedModel
    head: LanguageModelHead
    vocabulary: int
    top_k: int
    batch_tokens: int
    head_rows: int
    temperature: float = 1.0


def make_teacher(
    model: PreTrainedModel, *, top_k: int, batch_tokens: int, head_rows: int | None
) -> Teacher:
    """Split the model, and check on a few tokens that the halves give its own logits.

    head_rows None: as many positions at once as have LOGIT_BYTES of logits.
    """
    head = split_head(model)
    size = model.config.get_text_config().vocab_size
    if top_k > size:
        raise CheckpointError(
            f"teach.top_k is {top_k}, but the model has {size} vocabulary entries. Set a smaller K."
        )
    probe = torch.arange(8, device=model.device).remainder(size)[None]
    check_head(model, head, probe, torch.ones_like(probe))
    rows = head_rows or max(1, LOGIT_BYTES // (4 * size))
    return Teacher(model, head.with_float32_logits(), size, top_k, batch_tokens, rows)


@torch.inference_mode()
def believe(
    teacher: Teacher,
    rendered: Rendered,
    begin: int,
    end: int,
    *,
    names: list[str],
    advance: Callable[[int], object] = lambda _: None,
    exact: bool = False,
) -> Beliefs:
    """Run examples [begin, end); `advance(tokens)` is told of every batch. exact: kept
    log-probabilities are float32, and not float16 as in a cache.

    Batches hold examples of like length. Row u of the result predicts response token u from the
    tokens before it; rows are in the order of the examples. Raises NumericsError naming the
    example when logits are NaN or Inf, CheckpointError when a token id is outside the embedding.
    """
    largest = int(
        rendered.ids_L[rendered.offset_N1[begin] : rendered.offset_N1[end]].max(initial=-1)
    )
    embeddings = cast(torch.Tensor, teacher.model.get_input_embeddings().weight).shape[0]
    if largest >= embeddings:
        raise CheckpointError(
            f"The tokenizer gives the id {largest}, but the model embeds only {embeddings} tokens: "
            "they do not belong together. Name the right tokenizer in the recipe."
        )
    first_row = int(rendered.row_N1[begin])
    rows = int(rendered.row_N1[end]) - first_row
    out = _empty(rows, teacher.top_k, np.float32 if exact else np.float16)
    for batch in batches(rendered, begin, end, teacher.batch_tokens):
        for logits_CV, gold_C, row_C in response_logits(teacher, rendered, batch):
            place_C = row_C - first_row
            chunk = statistics(logits_CV, gold_C, teacher.top_k)
            for field in fields(Beliefs):
                getattr(out, field.name)[place_C] = getattr(chunk, field.name)
            del logits_CV  # before the next chunk's are made
            require_finite(_sum_of(out, place_C), row_C, rendered, names, teacher)
        advance(int((rendered.offset_N1[batch + 1] - rendered.offset_N1[batch]).sum()))
    return out


def response_logits(
    teacher: Teacher, rendered: Rendered, batch: NDArray[np.int64]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, NDArray[np.int64]]]:
    """The response positions of some examples, `head_rows` at a time: float32 logits [C, V] at the
    teacher's temperature, the tokens that are there [C], and their rows in `rendered`.

    To be used under torch.inference_mode.
    """
    hidden_UD, gold_U, row_U = _forward(teacher, rendered, batch)
    for start in range(0, len(row_U), teacher.head_rows):
        chunk = slice(start, start + teacher.head_rows)
        logits_CV = teacher.head.logits(hidden_UD[chunk])
        if teacher.temperature != 1.0:  # after the model's own scale and soft cap
            logits_CV.div_(teacher.temperature)
        yield logits_CV, gold_U[chunk], row_U[chunk]
        del logits_CV  # before the next chunk's are made


def require_finite(
    value_C: NDArray[np.floating],
    row_C: NDArray[np.int64],
    rendered: Rendered,
    names: list[str],
    teacher: Teacher,
) -> None:
    """NumericsError naming the model, the example and the token of the first value that is NaN or
    Inf."""
    if np.isfinite(value_C).all():
        return
    bad = int(row_C[~np.isfinite(value_C)][0])
    example = int(np.searchsorted(rendered.row_N1, bad, side="right")) - 1
    token = bad - int(rendered.row_N1[example])
    raise NumericsError(
        f"The logits of {teacher.model.config.name_or_path} are NaN or Inf in example "
        f"{names[example]}, response token {token}. Set dtype: float32 (or bfloat16 in place of "
        "float16) for this model in the recipe, or check its weights."
    )


def batches(
    rendered: Rendered, begin: int, end: int, batch_tokens: int
) -> Iterator[NDArray[np.int64]]:
    """Example numbers in batches of at most `batch_tokens` padded tokens, longest first."""
    length_N = np.diff(rendered.offset_N1)[begin:end]
    order = begin + np.argsort(-length_N, kind="stable")
    start = 0
    while start < len(order):
        longest = int(rendered.offset_N1[order[start] + 1] - rendered.offset_N1[order[start]])
        size = max(1, batch_tokens // longest)
        yield order[start : start + size]
        start += size


def _forward(
    teacher: Teacher, rendered: Rendered, batch: NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.int64]]:
    """Hidden states that predict each response token of the batch, those tokens, their rows."""
    begin = rendered.offset_N1[batch]
    length_B = rendered.offset_N1[batch + 1] - begin
    ids_BL = np.zeros((len(batch), int(length_B.max())), dtype=np.int64)
    mask_BL = np.arange(ids_BL.shape[1])[None] < length_B[:, None]
    ids_BL[mask_BL] = np.concatenate(
        [rendered.ids_L[b : b + n] for b, n in zip(begin, length_B, strict=True)]
    )
    device = teacher.model.device
    ids = torch.from_numpy(ids_BL).to(device)
    hidden_BLD = teacher.head.hidden(ids, torch.from_numpy(mask_BL).long().to(device))
    first_B = rendered.first_N[batch].astype(np.int64)[:, None]
    place_BL = np.arange(ids_BL.shape[1])[None]
    # The last token of an example is predicted, and predicts nothing.
    predicts_BL = (place_BL >= first_B - 1) & (place_BL < length_B[:, None] - 1)
    gold_BL = (place_BL >= first_B) & mask_BL
    rows = [np.arange(int(rendered.row_N1[n]), int(rendered.row_N1[n + 1])) for n in batch]
    return (
        hidden_BLD[torch.from_numpy(predicts_BL).to(device)],
        ids[torch.from_numpy(gold_BL).to(device)],
        np.concatenate(rows),
    )


def _sum_of(out: Beliefs, row_C: NDArray[np.int64]) -> NDArray[np.float32]:
    """Finite where the log-sum-exp, the mean and the spread of the logits are: [C]."""
    return out.lse_U[row_C] + out.mean_U[row_C] + out.std_U[row_C]


def _empty(rows: int, top_k: int, dtype: type[np.floating]) -> Beliefs:
    scalars = {field.name: np.zeros(rows, np.float32) for field in fields(Beliefs)[2:]}
    ids_UK = np.zeros((rows, top_k), np.int32)
    return Beliefs(ids_UK, np.zeros((rows, top_k), dtype), **scalars)
