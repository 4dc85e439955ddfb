"""Alignment and fusion of plain arrays: what a run does with caches on disk, for a notebook.

Axes: T pivot positions, U source positions (both of all texts, end to end), S sources, K kept
entries, V vocabulary. A position is named by the token it predicts; the last of each text predicts
the end of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from transformers import PreTrainedTokenizerBase

from infifusion.align.byte_spans import byte_starts, token_table
from infifusion.align.coverage import Coverage, coverage
from infifusion.align.first_token import first_tokens
from infifusion.align.project import Believed, Pair, Positions, align_sources, by_bytes
from infifusion.align.vocabulary import VocabularyMap, identity_map, vocabulary_map
from infifusion.api.distributions import beliefs_of, checked
from infifusion.data.tokenizers import (
    encode,
    end_of_text,
    load_tokenizer,
    tokenizer_identity,
    tokenizer_json,
)
from infifusion.errors import DataError, RecipeError
from infifusion.fuse import FUSION_FUNCTIONS, PARAMS
from infifusion.named import function_and_params

NEEDS_GOLD = ("bayes", "min_ce", "avg_ce")


@dataclass(frozen=True, eq=False)
class Carried:
    """One source's distributions, with what carries them to the pivot."""

    believed: Believed
    pivot: Positions


@dataclass(frozen=True, eq=False, repr=False)
class Alignment:
    """Two tokenizers on the same texts.

    source_ids, pivot_ids: the tokens of each text, its end of text last. source_T: int64, the
    source position that predicts from the same byte as each pivot position, or -1. vocabulary:
    which pivot token a source token stands for. coverage: counts, and the pivot tokens most often
    unaligned.
    """

    source_ids: list[list[int]]
    pivot_ids: list[list[int]]
    source_T: NDArray[np.int64]
    vocabulary: VocabularyMap
    coverage: Coverage
    source: Positions
    pivot: Positions

    def __repr__(self) -> str:
        aligned, positions = int((self.source_T >= 0).sum()), len(self.source_T)
        return (
            f"Alignment({len(self.pivot_ids)} texts, {aligned:,} of {positions:,} pivot positions "
            "aligned)"
        )

    def carry(self, probabilities_UV: ArrayLike, *, top_k: int = 64) -> Carried:
        """What the source believed, ready for `fuse_beliefs`: row u says what it gave to every
        token of its own vocabulary just before its token u (source_ids, text after text). Its
        `top_k` most probable tokens are carried over. Raises DataError for rows that are no
        probabilities, or not as many as the source has positions.
        """
        prob_UV, known_U = checked(probabilities_UV, len(self.source.start_R), "carry")
        if self.source.gold_R.max() >= prob_UV.shape[1]:
            raise DataError(
                f"carry: the source's text holds token {self.source.gold_R.max()}, but the rows "
                f"have {prob_UV.shape[1]} entries: model and tokenizer do not belong together."
            )
        mapping, extra = self.vocabulary, prob_UV.shape[1] - len(self.vocabulary.pivot_V)
        if extra > 0:  # the padding of a model's head stands for nothing
            mapping = VocabularyMap(
                np.pad(mapping.pivot_V, (0, extra), constant_values=-1),
                np.pad(mapping.how_V, (0, extra)),
            )
        beliefs = beliefs_of(prob_UV, self.source.gold_R, top_k)
        believed = Believed(self.source, beliefs, mapping, _where(known_U, by_bytes))
        return Carried(believed, self.pivot)


@dataclass(frozen=True, eq=False)
class Fused:
    """A mixture of S sources at T positions.

    ids_TK, prob_TK: its entries, most probable first; -1 and 0 in unused places. tail_T: the
    probability of everything else; 1 where no source teaches. weight_ST: what each source
    contributed; columns sum to 1, or to 0 where no source teaches.
    """

    ids_TK: NDArray[np.int32]
    prob_TK: NDArray[np.float32]
    tail_T: NDArray[np.float32]
    weight_ST: NDArray[np.float32]

    def dense(self, vocabulary: int) -> NDArray[np.float32]:
        """The mixture over a whole vocabulary, [T, V]; the tail is spread evenly over the tokens
        that have no entry."""
        used_TK = self.ids_TK >= 0
        places = np.broadcast_to(np.arange(len(self.ids_TK))[:, None], used_TK.shape)[used_TK]
        prob_TV = np.full((len(self.ids_TK), vocabulary), np.nan, np.float32)
        prob_TV[places, self.ids_TK[used_TK]] = self.prob_TK[used_TK]
        open_TV = np.isnan(prob_TV)
        share_T = self.tail_T / np.maximum(open_TV.sum(axis=1), 1)
        return np.where(open_TV, share_T[:, None], prob_TV).astype(np.float32)


def align_arrays(
    source: str | PreTrainedTokenizerBase, pivot: str | PreTrainedTokenizerBase, texts: list[str]
) -> Alignment:
    """Tokenize the texts both ways and align them by bytes. Raises TokenizerError for a tokenizer
    that does not keep every byte of its text, and DataError where there is no text."""
    if not any(texts):
        raise DataError("align: there is no text. Give one, or a list of them.")
    mine, other = (load_tokenizer(one) if isinstance(one, str) else one for one in (source, pivot))
    source_positions, source_ids = _positions(mine, texts)
    pivot_positions, pivot_ids = _positions(other, texts)
    source_T = by_bytes(source_positions, pivot_positions)
    return Alignment(
        source_ids=source_ids,
        pivot_ids=pivot_ids,
        source_T=source_T,
        vocabulary=_vocabulary(mine, other),
        coverage=coverage(source_T, pivot_positions.gold_R),
        source=source_positions,
        pivot=pivot_positions,
    )


def fuse_arrays(
    sources: Sequence[ArrayLike | Carried],
    *,
    function: str,
    params: dict[str, Any],
    gold: ArrayLike | None,
    lengths: Sequence[int] | None,
    top_k: int,
    keep: int | None,
) -> Fused:
    """`infifusion.fuse_beliefs`."""
    if not len(sources):
        raise RecipeError("fuse: give at least one source.")
    for name, value in (("top_k", top_k), ("keep", keep)):
        if value is not None and value < 1:
            raise RecipeError(f"fuse: {name} is {value}; expected a whole number from 1 on.")
    carried = [one for one in sources if isinstance(one, Carried)]
    if carried and (gold is not None or lengths is not None):
        raise RecipeError("fuse: an alignment says gold and lengths; leave them out.")
    if not carried and gold is None and function in NEEDS_GOLD:
        raise RecipeError(
            f"fuse: {function} weighs sources by how well they predict the text: give gold, the "
            "token that is there at each position."
        )
    shapes = [np.shape(one) for one in sources if not isinstance(one, Carried)]
    for shape in shapes:
        if len(shape) != 2 or 0 in shape:
            raise DataError(
                "fuse: expected arrays [positions, vocabulary] with a row or more; found the shape "
                f"{list(shape)}."
            )
    if len({shape[1] for shape in shapes}) > 1:
        raise DataError(
            f"fuse: arrays over vocabularies of {sorted({shape[1] for shape in shapes})} tokens. "
            "Plain arrays must be in the pivot's; infifusion.align_texts(source, pivot, "
            "texts).carry(array) brings them there."
        )
    pivot = carried[0].pivot if carried else _plain_positions(shapes[0][0], gold, lengths)
    parts = [_part(one, pivot, top_k, number) for number, one in enumerate(sources)]
    width = max(one.beliefs.ids_UK.shape[1] for one in parts)
    aligned, _ = align_sources(parts, pivot)
    chosen, values = function_and_params(
        FUSION_FUNCTIONS, PARAMS, function, params, kind="fusion function", where="fuse"
    )
    try:
        target = chosen(aligned, values, keep=keep or len(parts) * (width + 1))
    except ValueError as error:
        raise RecipeError(f"fuse: {error}") from error
    tail_T = np.clip(1 - target.prob_TK.sum(axis=1), 0, 1).astype(np.float32)
    return Fused(target.ids_TK, target.prob_TK, tail_T, target.weight_ST)


def _part(one: ArrayLike | Carried, pivot: Positions, top_k: int, number: int) -> Believed:
    """A source as `align_sources` takes it; a plain array is at the pivot's positions already."""
    if isinstance(one, Carried):
        if not _equal(one.pivot, pivot):
            raise RecipeError(
                f"fuse: source {number} is aligned with another pivot or other texts than the ones "
                "before it. Align all sources with one pivot on the same texts."
            )
        return one.believed
    prob_TV, known_T = checked(one, len(pivot.start_R), f"fuse, source {number}")
    size = prob_TV.shape[1]
    if not 0 <= pivot.gold_R.min() <= pivot.gold_R.max() < size:
        raise DataError(
            f"fuse, source {number}: the tokens that are there (gold) go from {pivot.gold_R.min()} "
            f"to {pivot.gold_R.max()}, but the rows have {size} entries, from 0 on."
        )
    beliefs = beliefs_of(prob_TV, pivot.gold_R, top_k)
    return Believed(pivot, beliefs, identity_map(size, known=size), _where(known_T, by_bytes))


def _equal(one: Positions, other: Positions) -> bool:
    pairs = ((getattr(one, name), getattr(other, name)) for name in ("start_R", "row_N1", "gold_R"))
    return all(np.array_equal(a, b) for a, b in pairs)


def _where(known_U: NDArray[np.bool_], pair: Pair) -> Pair:
    """The same pairing without the source positions whose row is not known."""

    def paired(source: Positions, pivot: Positions) -> NDArray[np.int64]:
        source_T = pair(source, pivot)
        return np.where((source_T >= 0) & known_U[source_T], source_T, -1)

    return paired


def _positions(
    tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> tuple[Positions, list[list[int]]]:
    """The positions of some texts, the end of each included, and the tokens that are there."""
    table = token_table(tokenizer_json(tokenizer))
    end = end_of_text(tokenizer, tokenizer.name_or_path)
    ids = encode(tokenizer, texts)
    starts = [byte_starts(table, one, text) for one, text in zip(ids, texts, strict=True)]
    whole = [[*one, end] for one in ids]
    positions = Positions(
        start_R=np.concatenate(starts).astype(np.int32),
        row_N1=np.cumsum([0, *(len(one) for one in whole)]).astype(np.int64),
        gold_R=np.concatenate(whole).astype(np.int32),
    )
    return positions, whole


def _plain_positions(rows: int, gold: ArrayLike | None, lengths: Sequence[int] | None) -> Positions:
    """Positions of which nothing is known but their order: a token counts as one byte."""
    lengths = [rows] if lengths is None else list(lengths)
    if sum(lengths) != rows or min(lengths) < 1:
        raise DataError(
            f"fuse: lengths are {lengths}; expected whole numbers from 1 on whose sum is the "
            f"{rows} rows of the sources."
        )
    gold_R = np.zeros(rows, np.int32) if gold is None else np.asarray(gold, np.int32)
    if gold_R.shape != (rows,):
        raise DataError(f"fuse: expected {rows} gold tokens; found the shape {list(gold_R.shape)}.")
    return Positions(
        start_R=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        row_N1=np.cumsum([0, *lengths]).astype(np.int64),
        gold_R=gold_R,
    )


def _vocabulary(source: PreTrainedTokenizerBase, pivot: PreTrainedTokenizerBase) -> VocabularyMap:
    mine, other = (token_table(tokenizer_json(one)) for one in (source, pivot))
    if tokenizer_identity(source) == tokenizer_identity(pivot):
        return identity_map(len(mine), known=len(mine))
    roles = {end_of_text(source, source.name_or_path): end_of_text(pivot, pivot.name_or_path)}
    first = partial(first_tokens, other, partial(encode, pivot))
    return vocabulary_map(mine, other, first, roles=roles, size=len(mine))
