"""Rendered conversations as token ids with byte positions, for one tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from infifusion.data.render import Conversation
from infifusion.data.tokenizers import encode, end_of_text, leading_ids
from infifusion.errors import TokenizerError
from infifusion.types import Rendered

# ids and text of one conversation -> byte at which each token starts, and the text's length.
ByteStarts = Callable[[list[int], str], NDArray[np.int64]]
NOTHING = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, eq=False)
class Tokenized:
    """One conversation: ids up to and including the end of the turn; index of the first response
    token; start bytes of the response tokens and of the end of the turn; `straddles` when a token
    covers both the last bytes of the prompt and the first of the response (it counts as prompt);
    `control` the first token of the response that is a special one (an end of turn, a role), which
    text must not hold, or None. Arrays, because all of a data set are in memory at once."""

    ids: NDArray[np.int32]
    first: int
    starts: NDArray[np.int32]
    straddles: bool
    control: int | None


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[Conversation],
    byte_starts: ByteStarts,
    *,
    templated: bool,
    names: list[str],
) -> list[Tokenized]:
    """Tokenize whole conversations and find the response tokens by their bytes.

    `byte_starts` (align.byte_spans) tiles the text. templated says that a chat template wrote the
    text, so that nothing is put before it. The token after the response is the end of the turn;
    where the text ends with the response it is the tokenizer's end of text. Raises TokenizerError
    naming the example whose text is not tiled.
    """
    before = [] if templated else leading_ids(tokenizer)
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    all_ids = encode(tokenizer, [one.text for one in conversations])
    done = []
    for conversation, ids, name in zip(conversations, all_ids, names, strict=True):
        try:
            starts = byte_starts(ids, conversation.text)
        except TokenizerError as error:
            raise TokenizerError(f"{tokenizer.name_or_path}, {name}: {error}") from None
        first = int(np.searchsorted(starts[:-1], conversation.start))
        last = int(np.searchsorted(starts[:-1], conversation.end))
        if last <= first:
            raise TokenizerError(
                f"{tokenizer.name_or_path}, {name}: no token starts inside the response. Use a "
                "prompt or template that ends where a token ends, for instance in a new line."
            )
        end = ids[last] if last < len(ids) else end_of_text(tokenizer, tokenizer.name_or_path)
        offset = conversation.start - conversation.lead
        done.append(
            Tokenized(
                ids=np.array([*before, *ids[:last], end], dtype=np.int32),
                first=len(before) + first,
                starts=np.append(starts[first:last] - offset, conversation.length).astype(np.int32),
                straddles=int(starts[first]) > conversation.start,
                control=next((i for i in ids[first:last] if i in special), None),
            )
        )
    return done


def as_rendered(tokenized: list[Tokenized]) -> Rendered:
    """Lay the examples end to end."""
    lengths = [len(one.ids) for one in tokenized]
    rows = [len(one.starts) for one in tokenized]
    return Rendered(
        ids_L=np.concatenate([NOTHING, *(one.ids for one in tokenized)]),
        offset_N1=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        first_N=np.asarray([one.first for one in tokenized], dtype=np.int32),
        start_R=np.concatenate([NOTHING, *(one.starts for one in tokenized)]),
        row_N1=np.concatenate([[0], np.cumsum(rows)]).astype(np.int64),
    )


def take(rendered: Rendered, numbers: NDArray[np.int64]) -> Rendered:
    """These examples alone, in this order."""

    def gather(values: NDArray, bound_N1: NDArray[np.int64]) -> tuple[NDArray, NDArray[np.int64]]:
        parts = [values[bound_N1[n] : bound_N1[n + 1]] for n in numbers]
        bounds = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return np.concatenate(parts), bounds

    ids_L, offset_N1 = gather(rendered.ids_L, rendered.offset_N1)
    start_R, row_N1 = gather(rendered.start_R, rendered.row_N1)
    return Rendered(ids_L, offset_N1, rendered.first_N[numbers], start_R, row_N1)


def end_of_turn(rendered: Rendered) -> int:
    """The token that ends every response."""
    return int(rendered.ids_L[rendered.offset_N1[1] - 1])


def without_end(value_R: NDArray[np.float32], row_N1: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over each response, the end of the turn apart: [N]."""
    summed_R = value_R.astype(np.float64)
    summed_R[row_N1[1:] - 1] = 0
    return np.add.reduceat(summed_R, row_N1[:-1])


def gold_ids(rendered: Rendered) -> NDArray[np.int32]:
    """The token of each response row: [R]. A response is a run of ids, so that no index of all
    rows, twice as long as they are, has to be made."""
    begin_N = rendered.offset_N1[:-1] + rendered.first_N
    end_N = begin_N + np.diff(rendered.row_N1)
    runs = zip(begin_N.tolist(), end_N.tolist(), strict=True)
    return np.concatenate([NOTHING, *(rendered.ids_L[begin:end] for begin, end in runs)])
