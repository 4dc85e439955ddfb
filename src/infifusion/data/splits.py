"""The examples of a run in three splits: train, validation and held out."""

from __future__ import annotations

import random
from dataclasses import replace

from infifusion.data.examples import conversation_of, own_names, read_examples
from infifusion.data.overlap import text_of, without_duplicates, without_overlap
from infifusion.errors import DataError
from infifusion.process.runtime import log
from infifusion.recipe import DataSource, Recipe
from infifusion.store.folders import SPLITS
from infifusion.types import Example


def read_splits(
    recipe: Recipe, written: list[Example]
) -> tuple[dict[str, list[Example]], dict[str, int]]:
    """(examples of each split, how many were left out for which reason).

    `written`: answers that sources wrote; they follow the examples of data.train. Left out are
    repeated examples, those that overlap data.decontaminate, and empty responses. Raises DataError
    where no training example is left.
    """
    empty = 0

    def read(sources: list[DataSource]) -> list[Example]:
        nonlocal empty
        examples: list[Example] = []
        for number, source in enumerate(sources):
            some, none = read_examples(source, seed=recipe.seed)
            examples += [replace(example, data_set=number) for example in some]
            empty += none
        return examples

    data = recipe.data
    train = _with_own_ids([*_confirmed(read(data.train), written), *written])
    if not train:
        raise DataError(
            "The training data holds no example with a response. Look at the fields that `prompt` "
            "and `response` (or `messages`) of data.train name."
        )
    unique = without_duplicates(train)
    clean = unique
    if data.decontaminate:
        clean = without_overlap(unique, read(data.decontaminate), length=data.decontaminate_ngram)
        if not clean:
            raise DataError(
                "Every training example overlaps data.decontaminate. Give other training data, or "
                "raise data.decontaminate_ngram."
            )
    held_out = _with_own_ids(read(data.held_out))
    _warn_of_overlap(clean, held_out, data.decontaminate_ngram)
    train_and_validation = _split_validation(clean, data.validation_share, recipe.seed)
    left_out = {
        "duplicate": len(train) - len(unique),
        "contaminated": len(unique) - len(clean),
        "empty_response": empty,
    }
    return dict(zip(SPLITS, (*train_and_validation, held_out), strict=True)), left_out


def _warn_of_overlap(train: list[Example], held_out: list[Example], length: int) -> None:
    """Say how many training examples the held-out ones give away."""
    apart = {example.id for example in without_overlap(train, held_out, length=length)}
    given_away = [example for example in train if example.id not in apart]
    if given_away:
        log.warning(
            "data: %d of %d training examples share %d words in a row, or their whole prompt, with "
            "held-out ones (the first: %s). Name the held-out file under data.decontaminate, too, "
            "to leave them out.",
            len(given_away),
            len(train),
            length,
            given_away[0].called,
        )


def _confirmed(given: list[Example], written: list[Example]) -> list[Example]:
    """The given examples; those whose response a source wrote, too, say which source."""
    if not written:
        return given
    writers = {text_of(example): example.written_by for example in written}
    return [replace(example, confirmed_by=writers.get(text_of(example))) for example in given]


def _with_own_ids(examples: list[Example]) -> list[Example]:
    """The same examples; an id that stands twice gets a number."""
    names = own_names([example.id for example in examples])
    return [replace(example, id=name) for example, name in zip(examples, names, strict=True)]


def _split_validation(
    examples: list[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """(training, validation): `share` of each domain is kept apart, chosen by the seed; both lists
    keep their order. Only given responses are kept apart: what a source wrote is no yardstick. The
    turns of one conversation stay together.
    """
    apart: set[str] = set()
    for domain in sorted({example.domain for example in examples}):
        some = (e for e in examples if e.domain == domain and e.written_by is None)
        ids = list(dict.fromkeys(conversation_of(e) for e in some))
        apart |= set(random.Random(f"{seed}:{domain}").sample(ids, round(share * len(ids))))
    there = [conversation_of(example) in apart for example in examples]
    return (
        [e for e, is_apart in zip(examples, there, strict=True) if not is_apart],
        [e for e, is_apart in zip(examples, there, strict=True) if is_apart],
    )
