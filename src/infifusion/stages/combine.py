"""Some examples, from what the sources believed (and their caches hold) to the rows of a target;
and what a training run names, its loss and its callbacks, as functions.

Axes: S sources, N examples, U source positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from infifusion.align.evidence import bits_per_byte
from infifusion.align.inside import Inside
from infifusion.align.project import Believed, Origins, Pair, Positions, align_sources
from infifusion.align.vocabulary import VocabularyMap
from infifusion.data.store import load_examples, load_rendered
from infifusion.data.tokenize import end_of_turn, gold_ids
from infifusion.errors import RecipeError
from infifusion.fuse import FUSION_FUNCTIONS, PARAMS
from infifusion.fuse.gate import better_in_domain, better_on_response, shut
from infifusion.losses import LOSSES, WITHOUT_ZSCORES, policy_gradient
from infifusion.losses import PARAMS as LOSS_PARAMS
from infifusion.named import function_and_params
from infifusion.recipe import FuseTarget, Recipe, TrainingRun
from infifusion.registry import look_up
from infifusion.stages.mapping import inside_between, map_between, pair_between
from infifusion.store.folders import PIVOT, RunFolder, model_called
from infifusion.teacher.cache import BeliefReader
from infifusion.teacher.load import vocabulary_size
from infifusion.train.callbacks import CallbackMaker
from infifusion.train.chunked import PositionLoss
from infifusion.types import Aligned, Example, Rendered, SparseTarget, Target

READ_EXAMPLES = 128
"""Examples read at once."""


def positions(rendered: Rendered, gold_R: NDArray[np.int32], begin: int, end: int) -> Positions:
    """The response positions of examples [begin, end), numbered from 0."""
    rows = slice(int(rendered.row_N1[begin]), int(rendered.row_N1[end]))
    return Positions(
        start_R=rendered.start_R[rows],
        row_N1=rendered.row_N1[begin : end + 1] - rendered.row_N1[begin],
        gold_R=gold_R[rows],
        private_R=None if rendered.private_R is None else rendered.private_R[rows],
    )


def fusion_function(target: FuseTarget) -> Callable[[Aligned], Target]:
    """The target's fusion function with its parameters. It raises RecipeError where they do not
    fit the sources."""
    function, params = function_and_params(
        FUSION_FUNCTIONS,
        PARAMS,
        target.function,
        target.params,
        kind="fusion function",
        where=f"fuse.{target.name}",
    )

    def combine(aligned: Aligned) -> Target:
        try:
            return function(aligned, params, keep=target.keep)
        except ValueError as error:
            raise RecipeError(f"fuse.{target.name}: {error}") from error

    return combine


def check_target(target: FuseTarget) -> None:
    """RecipeError when the function or its parameters do not fit, or the number of sources. For
    that one of our functions combines one position: before the teacher pass, not after it."""
    combine = fusion_function(target)
    if target.function not in FUSION_FUNCTIONS:
        return
    shape = (len(target.sources) + target.pivot_as_source, 1)
    ones_ST = np.ones(shape, np.float32)
    combine(
        Aligned(
            ids_STK=np.zeros((*shape, 1), np.int32),
            prob_STK=ones_ST[:, :, None],
            tail_ST=0 * ones_ST,
            aligned_ST=ones_ST > 0,
            entropy_ST=ones_ST,
            top_ST=ones_ST,
            zscore_STK=None,
            bits_SN=ones_ST,
            evidence=lambda forgetting: ones_ST,
            example_T=np.zeros(1, np.int64),
        )
    )


def require_rows(recipe: Recipe, run: TrainingRun) -> None:
    """RecipeError where the run's loss reads logits and its target has rows that come of none."""
    targets = recipe.resolve().targets
    taught = {s for t in targets if t.name == run.target for s in t.sources}
    pivot = any(t.name == run.target and t.pivot_as_source for t in targets)
    models = {**recipe.sources, **({PIVOT: recipe.pivot} if pivot else {})}
    behind = [n for n, one in models.items() if n in {*taught, PIVOT} and one.engine is not None]
    if behind and run.loss not in WITHOUT_ZSCORES:
        raise RecipeError(
            f"distill.{run.name}: the loss {run.loss} reads the mean and the spread of all logits, "
            f"which no server gives, and {behind[0]} has an engine. Take another loss (kl, "
            "reverse_kl, jsd), or run that source without its engine."
        )
    inside = any(t.name == run.target and t.inside is not None for t in targets)
    if inside and run.loss not in WITHOUT_ZSCORES:
        raise RecipeError(
            f"distill.{run.name}: the loss {run.loss} reads the sources' logits, and positions "
            f"inside of a source's token (fuse.{run.target}.inside) have none. Leave out `inside`, "
            "or take another loss."
        )


def fuse_chunk(
    target: FuseTarget,
    combine: Callable[[Aligned], Target],
    believed: list[Believed],
    pivot: Positions,
    open_SN: NDArray[np.bool_] | None,
    *,
    zscores: bool = True,
) -> tuple[Aligned, Origins, Target]:
    """Some examples from the sources' beliefs to the target's rows.

    combine: what `fusion_function` gave. open_SN: which source may teach which example, where the
    target has a gate; the pivot as a source comes last and is never shut. zscores: whether the loss
    that will read the rows reads the standardised logits.
    """
    aligned, origins = align_sources(believed, pivot, gold_path=target.gold_path, zscores=zscores)
    if open_SN is not None:
        exempt = len(believed) - 1 if target.pivot_as_source else None
        aligned = shut(aligned, open_SN, exempt=exempt)
    return aligned, origins, combine(aligned)


def position_loss_of(run: TrainingRun) -> PositionLoss:
    """The loss that the run names, as the trainer calls it."""
    function, params = function_and_params(
        LOSSES, LOSS_PARAMS, run.loss, run.params, kind="loss", where=f"distill.{run.name}"
    )

    def position_loss(log_CV: torch.Tensor, rows: SparseTarget) -> torch.Tensor:
        return function(log_CV, rows, params)

    return _with_own_text(run, position_loss)


def _with_own_text(run: TrainingRun, given: PositionLoss) -> PositionLoss:
    """The run's loss on given text, and on the pivot's own what `on_policy.form` says."""
    own = run.on_policy
    if own is None or own.form == "distribution":
        return given
    params = policy_gradient.Params(**({} if own.clip is None else {"clip": own.clip}))

    def loss(log_CV: torch.Tensor, rows: SparseTarget) -> torch.Tensor:
        drawn_C = policy_gradient.policy_gradient(log_CV, rows, params)
        assert rows.own_R is not None
        if rows.own_R.all():
            return drawn_C
        return torch.where(rows.own_R, drawn_C, given(log_CV, rows))

    return loss


def find_callbacks(names: Sequence[str]) -> list[CallbackMaker]:
    """The class or function that each module:name stands for, imported and not yet called.

    RecipeError where one cannot be imported or is neither.
    """
    makers = []
    for name in names:
        if ":" not in name:
            raise RecipeError(
                f"callbacks: expected module:name, found {name!r}. Name a transformers."
                "TrainerCallback class, or a function that returns one, such as "
                "my_callbacks:StopEarly; put the folder of my_callbacks.py on PYTHONPATH."
            )
        make = look_up({}, name, kind="callback", where="callbacks")
        if not callable(make) or (isinstance(make, type) and not issubclass(make, TrainerCallback)):
            raise RecipeError(
                f"callbacks: {name} is a {type(make).__name__}; expected a "
                "transformers.TrainerCallback class, or a function without arguments that returns "
                "a callback."
            )
        makers.append((name, make))
    return makers


@dataclass(frozen=True)
class CachedSource:
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
) -> CachedSource:
    """A source's cache, ready to be read; pivot: the training examples as the pivot sees them."""
    model = model_called(recipe, name)
    rendered = load_rendered(folder.rendered(name, "train"))
    ends = end_of_turn(rendered), end_of_turn(pivot)
    mapping = map_between(model, recipe.pivot, end_of_turn=ends, alignment=alignment)
    return CachedSource(
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
    target: FuseTarget, sources: list[CachedSource], pivot: CachedSource, examples: list[Example]
) -> NDArray[np.bool_]:
    """Which source may teach which example, [S, N]: those that beat the pivot in bits per byte, on
    the example or on its domain, as the target's gate says."""
    bits_SN = np.stack([_bits(source, len(examples)) for source in sources])
    pivot_bits_N = _bits(pivot, len(examples))
    if target.gate == "domain":
        return better_in_domain(bits_SN, pivot_bits_N, [example.domain for example in examples])
    return better_on_response(bits_SN, pivot_bits_N)


def _bits(source: CachedSource, examples: int) -> NDArray[np.float32]:
    """A source's bits per byte on each response: [N]."""
    found = []
    for begin in range(0, examples, READ_EXAMPLES):
        here, beliefs, *_ = source.examples(begin, min(begin + READ_EXAMPLES, examples))
        found.append(bits_per_byte(beliefs.gold_U, here.start_R, here.row_N1))
    return np.concatenate(found)


def open_domains(
    recipe: Recipe, folder: RunFolder, target: FuseTarget
) -> dict[str, NDArray[np.bool_]]:
    """Which sources teach each domain of the training examples, by the target's gate: [S]; the
    pivot as a source comes last."""
    pivot = load_rendered(folder.rendered(PIVOT, "train"))
    examples = load_examples(folder.examples("train"))
    opened = partial(open_source, recipe, folder, pivot=pivot, alignment=target.alignment)
    open_SN = gate(target, [opened(name) for name in target.sources], opened(PIVOT), examples)
    if target.pivot_as_source:
        open_SN = np.concatenate([open_SN, np.ones((1, len(examples)), bool)])
    return {example.domain: open_SN[:, n] for n, example in enumerate(examples)}
