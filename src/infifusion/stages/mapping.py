"""Vocabulary maps between the tokenizers of a run."""

from __future__ import annotations

from functools import partial

from infifusion.align.byte_spans import token_table
from infifusion.align.first_token import first_tokens
from infifusion.align.vocabulary import VocabularyMap, identity_map, vocabulary_map
from infifusion.data.tokenizers import encode, load_tokenizer, tokenizer_identity, tokenizer_json
from infifusion.recipe import Model
from infifusion.teacher.load import vocabulary_size


def map_between(source: Model, pivot: Model, *, end_of_turn: tuple[int, int]) -> VocabularyMap:
    """The vocabulary map of a source; end_of_turn is (source id, pivot id).

    Two models with one tokenizer get the identity.
    """
    source_tokenizer = load_tokenizer(
        source.tokenizer or source.model,
        revision=source.revision,
        trust_remote_code=source.trust_remote_code,
    )
    pivot_tokenizer = load_tokenizer(
        pivot.tokenizer or pivot.model,
        revision=pivot.revision,
        trust_remote_code=pivot.trust_remote_code,
    )
    size = vocabulary_size(source)
    pivot_table = token_table(tokenizer_json(pivot_tokenizer))
    same = tokenizer_identity(source_tokenizer) == tokenizer_identity(pivot_tokenizer)
    if same and end_of_turn[0] == end_of_turn[1]:
        return identity_map(size, known=len(pivot_table))
    roles = {end_of_turn[0]: end_of_turn[1]}
    source_end, pivot_end = source_tokenizer.eos_token_id, pivot_tokenizer.eos_token_id
    if isinstance(source_end, int) and isinstance(pivot_end, int):
        roles.setdefault(source_end, pivot_end)
    return vocabulary_map(
        token_table(tokenizer_json(source_tokenizer)),
        pivot_table,
        partial(first_tokens, pivot_table, partial(encode, pivot_tokenizer)),
        roles=roles,
        size=size,
    )
