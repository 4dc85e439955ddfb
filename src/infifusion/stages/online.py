"""A fused target without a cache (`teacher: online`): the sources run while the pivot trains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infifusion.align.evidence import bits_per_byte
from infifusion.align.inside import Inside
from infifusion.align.project import Believed, Pair
from infifusion.align.vocabulary import VocabularyMap
from infifusion.data.store import load_labels, load_rendered
from infifusion.data.tokenize import end_of_turn, gold_ids, take
from infifusion.errors import CheckpointError
from infifusion.fuse.gate import better_on_response
from infifusion.recipe import FuseTarget, Model, Recipe
from infifusion.stages.combine import fuse_chunk, fusion_function, positions
from infifusion.stages.mapping import inside_between, map_between, pair_between
from infifusion.store.folders import PIVOT, RunFolder, model_called
from infifusion.teacher.calibrate import calibrated
from infifusion.teacher.forward import Teacher, believe, make_teacher
from infifusion.teacher.load import load_model, vocabulary_size
from infifusion.types import Rendered, Target


@dataclass(frozen=True)
class Source:
    """A source in memory, its map to the pivot and its alignment."""

    teacher: Teacher
    mapping: VocabularyMap
    pair: Pair
    inside: Inside | None

    def believed(self, rendered: Rendered, names: list[str], *, exact: bool = False) -> Believed:
        """What it believes of some texts; names: what they are called, for errors."""
        count = len(rendered)
        beliefs = believe(self.teacher, rendered, 0, count, names=names, exact=exact)
        here = positions(rendered, gold_ids(rendered), 0, count)
        return Believed(here, beliefs, self.mapping, self.pair, self.inside)


def load_source(
    recipe: Recipe, folder: RunFolder, target: FuseTarget, name: str, *, out: Path
) -> Source:
    """A source of a target, or the pivot as one. out: where a fitted temperature is kept."""
    model = model_called(recipe, name)
    rendered = load_rendered(folder.rendered(name, "train"))
    pivot = load_rendered(folder.rendered(PIVOT, "train"))
    ends = end_of_turn(rendered), end_of_turn(pivot)
    mapping = map_between(model, recipe.pivot, end_of_turn=ends, alignment=target.alignment)
    require_ids_fit(mapping, recipe.pivot)
    teacher = make_teacher(
        load_model(model),
        top_k=recipe.teach.top_k,
        batch_tokens=recipe.teach.batch_tokens,
        head_rows=recipe.teach.head_rows,
    )
    kept = out / f"temperature-{name}.json"
    teacher = calibrated(teacher, model, folder, name=name, kept=kept)
    pair = pair_between(model, recipe.pivot, mapping, alignment=target.alignment)
    inside = inside_between(model, recipe.pivot, floor=target.inside)
    return Source(teacher, mapping, pair, inside)


class OnlineTarget:
    """The rows that `fuse` would have written, made when a batch asks for them.

    Nothing is kept: a second epoch runs the sources again. The same teacher pass, alignment and
    fusion function as with a cache, so the rows are the same up to the rounding of the sources'
    batches.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        target: FuseTarget,
        out: Path,
        *,
        zscores: bool = True,
    ) -> None:
        """out: where fitted temperatures are kept, one file per source. zscores: whether the loss
        reads the standardised logits."""
        self._zscores = zscores
        self._target, self._combine = target, fusion_function(target)
        self._pivot = load_rendered(folder.rendered(PIVOT, "train"))
        self._names = [label.id for label in load_labels(folder.examples("train"))]
        names = [*target.sources, *([PIVOT] if target.pivot_as_source else [])]
        gated = target.gate == "bits_per_byte"
        wanted: list[str] = [*names, PIVOT] if gated else names
        load = partial(load_source, recipe, folder, target, out=out)
        self.loaded = {name: load(name) for name in dict.fromkeys(wanted)}
        self._rendered = {
            name: load_rendered(folder.rendered(name, "train")) for name in self.loaded
        }
        self._sources, self._judge = names, PIVOT if gated else None
        self.temperatures = {n: self.loaded[n].teacher.temperature for n in target.sources}

    def _believed(self, name: str, numbers: NDArray[np.int64], names: list[str]) -> Believed:
        return self.loaded[name].believed(take(self._rendered[name], numbers), names)

    def __call__(self, numbers: NDArray[np.int64]) -> Target:
        """The rows of these examples of the training data, in this order."""
        names = [self._names[n] for n in numbers]
        pivot = take(self._pivot, numbers)
        here = positions(pivot, gold_ids(pivot), 0, len(numbers))
        believed = [self._believed(source, numbers, names) for source in self._sources]
        open_SN = None
        if self._judge is not None:
            bits_SN = np.stack([_bits(one) for one in believed])
            judged = self._believed(self._judge, numbers, names)
            open_SN = better_on_response(bits_SN, _bits(judged))
        return fuse_chunk(
            self._target, self._combine, believed, here, open_SN, zscores=self._zscores
        )[2]


def _bits(believed: Believed) -> NDArray[np.float32]:
    """Bits per byte of each response: [N]."""
    here, beliefs, *_ = believed
    return bits_per_byte(beliefs.gold_U, here.start_R, here.row_N1)


def require_ids_fit(mapping: VocabularyMap, pivot: Model) -> None:
    """CheckpointError where the map names a token that the pivot's head does not have."""
    largest, width = int(mapping.pivot_V.max(initial=-1)), vocabulary_size(pivot)
    if largest >= width:
        raise CheckpointError(
            f"The pivot's tokenizer has the token id {largest}, but the model at {pivot.model} has "
            f"{width} entries in its head: tokenizer and model do not belong together. Remove "
            "`tokenizer:` from the model, or give the one it was trained with."
        )
