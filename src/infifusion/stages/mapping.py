"""Vocabulary maps between the tokenizers of a run, and how their positions are aligned."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from infifusion.align import byte_spans, edit_distance, first_token, vocabulary
from infifusion.align.byte_spans import token_table
from infifusion.align.edit_distance import nearest_tokens
from infifusion.align.first_token import first_tokens
from infifusion.align.inside import Inside
from infifusion.align.min_ed import pair_by_edit_distance
from infifusion.align.project import Pair, by_bytes
from infifusion.align.vocabulary import (
    How,
    VocabularyMap,
    identity_map,
    ids_by_bytes,
    vocabulary_map,
)
from infifusion.data.tokenizers import encode, tokenizer_identity, tokenizer_json, tokenizer_of
from infifusion.recipe import Model
from infifusion.store.artifacts import cache_folder
from infifusion.store.durable import atomic_write
from infifusion.store.hashes import sha256_of, sha256_of_text
from infifusion.teacher.load import vocabulary_size

Way = tuple[int, ...]


def pair_between(source: Model, pivot: Model, mapping: VocabularyMap, *, alignment: str) -> Pair:
    """The function that aligns a source's positions with the pivot's: bytes or min_ed."""
    if alignment == "bytes":
        return by_bytes
    return partial(
        pair_by_edit_distance,
        source_table=token_table(tokenizer_json(tokenizer_of(source))),
        pivot_table=token_table(tokenizer_json(tokenizer_of(pivot))),
        mapping=mapping,
    )


def inside_between(source: Model, pivot: Model, *, floor: float | None) -> Inside | None:
    """What carries the rest of a source's token to the pivot's vocabulary; None without a floor."""
    if floor is None:
        return None
    tokenizer = tokenizer_of(pivot)
    pivot_table = token_table(tokenizer_json(tokenizer))
    of_bytes = ids_by_bytes(pivot_table)

    def pivot_ids(rests: list[bytes]) -> list[int]:
        ids = [of_bytes.get(rest, -1) for rest in rests]
        others = [place for place, id in enumerate(ids) if id < 0]
        made = first_tokens(pivot_table, partial(encode, tokenizer), [rests[n] for n in others])
        for place, id in zip(others, made, strict=True):
            ids[place] = id
        return ids

    return Inside(token_table(tokenizer_json(tokenizer_of(source))), pivot_ids, floor)


def map_between(
    source: Model, pivot: Model, *, end_of_turn: tuple[Way, Way], alignment: str
) -> VocabularyMap:
    """The vocabulary map of a source.

    end_of_turn: the tokens that end the source's turn, and those that end the pivot's. A special
    token that begins or ends the former stands for the first of the latter; an ordinary one (a
    line break) stands for its text.

    Two models with one tokenizer get the identity. A map is kept in the user's cache by the
    identity of both tokenizers, the kind of alignment and the code that makes it.
    """
    source_tokenizer, pivot_tokenizer = tokenizer_of(source), tokenizer_of(pivot)
    size = vocabulary_size(source)
    pivot_table = token_table(tokenizer_json(pivot_tokenizer))
    same = tokenizer_identity(source_tokenizer) == tokenizer_identity(pivot_tokenizer)
    if same and end_of_turn[0] == end_of_turn[1]:
        return identity_map(size, known=len(pivot_table))
    source_way, pivot_way = end_of_turn
    roles = {source_way[-1]: pivot_way[0]}
    if len(source_way) > 1:
        special_V = token_table(tokenizer_json(source_tokenizer)).special_V
        roles |= {one: pivot_way[0] for one in source_way[:1] if special_V[one]}
    source_end, pivot_end = source_tokenizer.eos_token_id, pivot_tokenizer.eos_token_id
    if isinstance(source_end, int) and isinstance(pivot_end, int):
        roles.setdefault(source_end, pivot_end)
    key = sha256_of_text(
        tokenizer_identity(source_tokenizer),
        tokenizer_identity(pivot_tokenizer),
        *(f"{one} {other}" for one, other in sorted(roles.items())),
        str(size),
        alignment,
        *(
            sha256_of(Path(str(module.__file__)))
            for module in (byte_spans, edit_distance, first_token, vocabulary)
        ),
    )
    return _cached(
        cache_folder() / "vocabulary" / f"{key}.safetensors",
        lambda: vocabulary_map(
            token_table(tokenizer_json(source_tokenizer)),
            pivot_table,
            partial(nearest_tokens, pivot_table)
            if alignment == "min_ed"
            else partial(first_tokens, pivot_table, partial(encode, pivot_tokenizer)),
            roles=roles,
            size=size,
            how=How.NEAREST if alignment == "min_ed" else How.FIRST_TOKEN,
        ),
    )


def _cached(path: Path, make: Callable[[], VocabularyMap]) -> VocabularyMap:
    """The map in the file; or a new one, which is written there if that is possible. A file that
    cannot be read is replaced."""
    with contextlib.suppress(OSError, SafetensorError, TypeError):
        return VocabularyMap(**load_file(path))
    made = make()
    with contextlib.suppress(OSError), atomic_write(path) as temporary:
        save_file({"pivot_V": made.pivot_V, "how_V": made.how_V}, temporary)
    return made
