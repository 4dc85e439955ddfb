"""A model of a recipe in its engine: what the engine must be, by the model's own files here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from infifusion.data.tokenizers import encode, tokenizer_of
from infifusion.engine.engine import Remote, open_engine
from infifusion.engine.probe import Expected, served_from
from infifusion.engine.tail import KIND
from infifusion.recipe import Model
from infifusion.store.records import read_record, write_record
from infifusion.teacher.load import vocabulary_size

ENGINE = "engine.json"
"""What served a stage: written before any shard, so that a stage that goes on finds it."""
MOST_SPECIAL = 100
"""Special tokens whose ids are compared, in texts of SPECIAL_TOGETHER."""


@contextlib.contextmanager
def in_engine(
    model: Model, *, where: str, top_k: int = 1, longest: int = 0, kept: Path | None = None
) -> Iterator[Remote]:
    """The model in its engine, compared with its tokenizer and config here.

    top_k: entries of a position that are needed. longest: tokens of the longest text. kept: the
    file that says what served the part that is done, written where it is missing.
    """
    assert model.engine is not None
    tokenizer = tokenizer_of(model)
    special = [str(token) for token in tokenizer.all_special_tokens[:MOST_SPECIAL]]
    expected = Expected(
        vocabulary=vocabulary_size(model),
        encode=lambda text: encode(tokenizer, [text])[0],
        special=["".join(special)] if special else [],
        longest=longest,
        entries=max(model.engine.logprobs, top_k),
        least=top_k,
    )
    before = served_from(read_record(kept)) if kept is not None and kept.exists() else None
    with open_engine(model, expected, where=where, kept=before) as remote:
        if kept is not None and before is None:
            write_record(kept, remote.served.as_json())
        yield remote


def estimate_in_words() -> str:
    """What a cache made through an engine says of its entropies."""
    return KIND
