"""A server's answer as arrays: what it says of the tokens of a text, and which it wrote.

Axes: R positions asked about, K entries, J entries as they came, of all positions end to end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infifusion.errors import CheckpointError, NumericsError, RunError

MOST_MASS = 1.01
"""Of the probabilities of a position: rounding, and no more."""
NO_PROBABILITY = -9000.0
"""vLLM writes -9999 for the log-probability of what cannot be."""
_logprob = itemgetter("logprob")


@dataclass(frozen=True)
class Scored:
    """What a server says of R tokens: its K largest (id, log-probability) pairs before each, the
    largest first, equal ones by id; and the log-probability of the token that is there."""

    ids_RK: NDArray[np.int32]
    logprob_RK: NDArray[np.float32]
    gold_R: NDArray[np.float32]


@dataclass(frozen=True)
class Text:
    """Tokens that a server wrote, the one that ended them among them; full: whether it stopped for
    want of room; by_string: whether at one of the strings."""

    ids: list[int]
    full: bool
    by_string: bool


def scored(
    content: bytes, ids: Sequence[int], first: int, *, entries: int, vocabulary: int, name: str
) -> Scored:
    """What an answer says of the tokens ids[first:] of a text; first is at least 1.

    Raises RunError where it has another form, or fewer tokens; NumericsError where a number is
    none; CheckpointError where an id is outside the vocabulary, or the numbers are no
    log-probabilities. name: of the text.
    """
    found = _choice(content, name).get("prompt_logprobs")
    if not isinstance(found, list) or len(found) != len(ids):
        got = f"{len(found)} tokens" if isinstance(found, list) else "no prompt_logprobs"
        raise RunError(
            f"The server answers {got} for {name}, which has {len(ids)} tokens. Expected "
            "prompt_logprobs of every token, as vLLM gives them (tried with 0.32)."
        )
    rows, gold_R = found[first:], np.asarray(ids[first:], np.int64)
    try:
        size_R = np.fromiter(map(len, rows), np.int64, len(rows))
        keys = np.fromiter(map(int, chain.from_iterable(rows)), np.int64)
        values = map(_logprob, chain.from_iterable(map(dict.values, rows)))
        value_J = np.fromiter((np.nan if v is None else v for v in values), np.float64, len(keys))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RunError(
            f"The server's prompt_logprobs of {name} cannot be read ({error}). Expected a mapping "
            "of token ids to logprob for each token, as vLLM gives it (tried with 0.32)."
        ) from error
    _require_numbers(value_J, size_R, name)
    if keys.size and not 0 <= int(keys.min()) <= int(keys.max()) < vocabulary:
        raise CheckpointError(
            f"The server gives the token id {keys.max()} at {name}, but the model here has "
            f"{vocabulary} entries: it serves another model."
        )
    position_J = np.repeat(np.arange(len(rows)), size_R)
    is_gold_J = keys == gold_R[position_J]
    if np.bincount(position_J[is_gold_J], minlength=len(rows)).min(initial=1) != 1:
        raise RunError(
            f"The server does not say how likely each token of {name} is. Expected the token that "
            "is there among its prompt_logprobs."
        )
    gold_value_R = value_J[is_gold_J]
    if (gold_value_R < NO_PROBABILITY).any():
        raise NumericsError(
            f"The server gives a token of {name} probability 0 (a log-probability of -9999): some "
            "logits are -Inf. Start it with --dtype bfloat16 or float32."
        )
    # Beyond the K largest stands the token that is there, where it is none of them.
    wide_R = size_R == entries + 1
    if not (wide_R | (size_R == entries)).all():
        short = int(size_R[~(wide_R | (size_R == entries))][0])
        raise RunError(
            f"The server gives {short} entries at a token of {name}; expected {entries}, or one "
            "more where the token itself is none of the largest."
        )
    kept_J = ~(is_gold_J & wide_R[position_J])
    ids_RK = keys[kept_J].reshape(len(rows), entries).astype(np.int32)
    logprob_RK = value_J[kept_J].reshape(len(rows), entries).astype(np.float32)
    order_RK = np.lexsort((ids_RK, -logprob_RK), axis=-1)
    result = Scored(
        np.take_along_axis(ids_RK, order_RK, axis=1),
        np.take_along_axis(logprob_RK, order_RK, axis=1),
        gold_value_R.astype(np.float32),
    )
    mass_R = np.exp(result.logprob_RK.astype(np.float64)).sum(axis=1)
    if entries and (mass_R > MOST_MASS).any():
        raise CheckpointError(
            f"The server's probabilities add up to {mass_R.max():.3f} at {name}: these are no "
            "log-probabilities. Start it without --logprobs-mode raw_logits or processed_logits."
        )
    return result


def written(content: bytes, *, room: int, ends: Sequence[int], name: str) -> Text:
    """The tokens of an answer to the prompt `name`, of at most `room`. RunError where it stopped
    before its end and before its room was full."""
    choice = _choice(content, name)
    ids, why = choice.get("token_ids"), choice.get("finish_reason")
    if not isinstance(ids, list) or not all(isinstance(one, int) for one in ids):
        raise RunError(
            f"The server's answer to {name} has no token_ids. Expected vLLM's return_token_ids "
            "(from 0.10.2 on; tried with 0.32)."
        )
    ended = bool(ids) and ids[-1] in ends
    by_string = why == "stop" and not ended
    if why == "stop" and not ended and not isinstance(choice.get("stop_reason"), str):
        stop = choice.get("stop_reason")
        if not isinstance(stop, int) or stop not in ends:
            raise RunError(
                f"The server stopped its answer to {name} at {stop!r}, no end of a turn."
            )
        ids, by_string = [*ids, stop], False
    if not (ended or why == "stop") and len(ids) < room:
        raise RunError(
            f"The server wrote {len(ids)} of at most {room} tokens of its answer to {name} and "
            f"stopped ({why}). A larger --max-model-len may mend that; its log says more."
        )
    return Text(ids, full=not ended and len(ids) >= room, by_string=by_string)


def _choice(content: bytes, name: str) -> dict[str, Any]:
    try:
        return json.loads(content)["choices"][0]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise RunError(
            f"The server's answer to {name} cannot be read ({type(error).__name__}: {error}). "
            "Expected the JSON of vLLM's completions (tried with 0.32)."
        ) from error


def _require_numbers(value_J: NDArray[np.float64], size_R: NDArray[np.int64], name: str) -> None:
    """NumericsError that names the first token at which a number is none."""
    if np.isfinite(value_J).all():
        return
    place = int(np.flatnonzero(~np.isfinite(value_J))[0])
    token = int(np.searchsorted(np.cumsum(size_R), place, side="right"))
    raise NumericsError(
        f"The server gives NaN or Inf at response token {token} of {name}. Start it with --dtype "
        "bfloat16 or float32, or check the model's weights."
    )
