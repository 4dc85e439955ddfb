"""The sources of a fused target, read from the caches of their teacher passes.

Axes: S sources, N examples, U source positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infifusion.align.evidence import bits_per_byte
from infifusion.align.inside import Inside
from infifusion.align.project import Believed, Pair
from infifusion.align.vocabulary import VocabularyMap
from infifusion.data.store import load_rendered
from infifusion.data.tokenize import end_of_turn, gold_ids
from infifusion.fuse.gate import better_in_domain, better_on_response
from infifusion.recipe import FuseTarget, Recipe
from infifusion.stages.combine import positions
from infifusion.stages.mapping import inside_between, map_between, pair_between
from infifusion.store.folders import RunFolder, model_called
from infifusion.teacher.cache import BeliefReader
from infifusion.teacher.load import vocabulary_size
from infifusion.types import Example, Rendered

READ_EXAMPLES = 128
"""Examples read at once."""


@dataclass(frozen=True)
class Source:
    """A source's cache, its rendering, its map to the pivot's vocabulary and its alignment."""

    name: str
    rendered: Rendered
    gold_U: NDArray[np.int32]
    reader: BeliefReader
    mapping: VocabularyMap
    pair: Pair
    inside: Inside | None

    def examples(self, begin: int, end: int) -> Believed:
        """What it believed on examples [begin, end)."""
        here = positions(self.rendered, self.gold_U, begin, end)
        return Believed(
            here, self.reader.examples(begin, end), self.mapping, self.pair, self.inside
        )


def open_source(
    recipe: Recipe,
    folder: RunFolder,
    name: str,
    pivot: Rendered,
    alignment: str,
    inside: float | None = None,
) -> Source:
    """A source's cache, ready to be read; pivot: the training examples as the pivot sees them."""
    model = model_called(recipe, name)
    rendered = load_rendered(folder.rendered(name, "train"))
    ends = end_of_turn(rendered), end_of_turn(pivot)
    mapping = map_between(model, recipe.pivot, end_of_turn=ends, alignment=alignment)
    return Source(
        name=name,
        rendered=rendered,
        gold_U=gold_ids(rendered),
        reader=BeliefReader(
            folder.teach(name),
            rendered.row_N1,
            recipe.teach.shard_examples,
            vocabulary=vocabulary_size(model),
        ),
        mapping=mapping,
        pair=pair_between(model, recipe.pivot, mapping, alignment=alignment),
        inside=inside_between(model, recipe.pivot, floor=inside),
    )


def gate(
    target: FuseTarget, sources: list[Source], pivot: Source, examples: list[Example]
) -> NDArray[np.bool_]:
    """Which source may teach which example, [S, N]: those that beat the pivot in bits per byte, on
    the example or on its domain, as the target's gate says."""
    bits_SN = np.stack([_bits(source, len(examples)) for source in sources])
    pivot_bits_N = _bits(pivot, len(examples))
    if target.gate == "domain":
        return better_in_domain(bits_SN, pivot_bits_N, [example.domain for example in examples])
    return better_on_response(bits_SN, pivot_bits_N)


def _bits(source: Source, examples: int) -> NDArray[np.float32]:
    """A source's bits per byte on each response: [N]."""
    found = []
    for begin in range(0, examples, READ_EXAMPLES):
        here, beliefs, *_ = source.examples(begin, min(begin + READ_EXAMPLES, examples))
        found.append(bits_per_byte(beliefs.gold_U, here.start_R, here.row_N1))
    return np.concatenate(found)
