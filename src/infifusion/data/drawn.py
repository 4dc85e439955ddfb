"""An answer as the tokens that were drawn, which need not be those that its text is cut into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from infifusion.data.tokenize import Tokenized


def as_drawn(
    text: Tokenized,
    drawn: Sequence[int],
    *,
    finished: bool,
    sizes_V: NDArray[np.integer],
    special_V: NDArray[np.bool_],
) -> Tokenized | None:
    """The conversation `text` with the tokens that a model drew in place of those that its
    tokenizer makes of the same text.

    drawn: what follows the prompt, with the token that ended the turn where it is finished; where
    it is not, the end of the turn is that of `text`. sizes_V, special_V: bytes of each token, and
    whether it is a special one. None where a special token stands inside of the answer, which no
    text can give to another model. As it is where the tokens do not say their bytes.
    """
    prompt, own = text.ids[: text.first], text.ids[text.first :]
    length = int(text.starts[-1])
    way = own[text.starts == length].tolist()
    body, tail = (list(drawn[:-1]), [drawn[-1]]) if finished else (list(drawn), way)
    before_end = len(way) - 1
    if finished and before_end and body[-before_end:] == way[:-1]:
        body, tail = body[:-before_end], [*way[:-1], *tail]
    lead = own[text.starts < 0].tolist()
    said = body[len(lead) :] if body[: len(lead)] == lead else body
    if any(token >= len(special_V) or special_V[token] for token in said):
        return None
    ids = np.array([*prompt, *body, *tail], np.int32)
    if np.array_equal(ids, text.ids):
        return text
    if text.private is not None:
        return text  # the text is not written as it is
    size_R = sizes_V[body].astype(np.int64)
    first = int(size_R.sum()) - length
    if first < 0 or (first > 0 and (text.starts >= 0).all()):
        return text
    starts = np.concatenate([np.cumsum(size_R) - size_R - first, np.full(len(tail), length)])
    if len(said) < len(body):  # special tokens of the lead have no bytes of their own
        starts[: len(lead)] = text.starts[: len(lead)]
    return replace(text, ids=ids, starts=starts.astype(np.int32), straddles=False)
