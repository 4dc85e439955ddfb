"""What training will see of each data set, and whether its runs have steps enough to learn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from infifusion.data.files import is_local
from infifusion.errors import DataError
from infifusion.estimate.costs.case import PIVOT, Case, schedule
from infifusion.estimate.costs.schedule import advice, schedule_of
from infifusion.estimate.tokens import examples_of
from infifusion.recipe import Recipe, TrainingRun


@dataclass(frozen=True)
class Part:
    """One data set: examples that are left of it for training, and how often an epoch goes over
    them."""

    domain: str
    examples: int
    weight: float

    @property
    def trained(self) -> float:
        """Examples of an epoch."""
        return self.examples * self.weight


def parts_of_training(recipe: Recipe) -> list[Part] | None:
    """The entries of data.train, repeated examples and the validation share left out; of a data set
    of the hub `limit` is taken. None where that shows only in the run."""
    sources = recipe.data.train
    of_hub = {n: s.limit for n, s in enumerate(sources) if not is_local(s)}
    if recipe.write_responses is not None or None in of_hub.values():
        return None
    here = {"train": [source for source in sources if is_local(source)]}
    places = [n for n in range(len(sources)) if n not in of_hub]
    try:
        found = examples_of(recipe.model_copy(update={"data": recipe.data.model_copy(update=here)}))
    except DataError:  # said where the data is looked at
        return None
    count = Counter(places[example.data_set or 0] for example in found)
    count.update({n: limit or 0 for n, limit in of_hub.items()})
    apart = recipe.data.validation_share
    return [
        Part(source.domain, count[n] - round(apart * count[n]), source.weight)
        for n, source in enumerate(sources)
    ]


def mix_in_words(parts: list[Part]) -> str:
    """math 2 x 300 (67 %), code 300 (33 %)."""
    total = max(1.0, sum(part.trained for part in parts))
    return ", ".join(
        f"{part.domain} {'' if part.weight == 1 else f'{part.weight:g} x '}{part.examples:,} "
        f"({100 * part.trained / total:.0f} %)"
        for part in parts
    )


def advice_on(recipe: Recipe, parts: list[Part]) -> list[str]:
    """A sentence for whatever keeps a run from learning, or from showing it."""

    def of_run(run: TrainingRun) -> list[str]:
        seen = [p.trained for p in parts if run.domains is None or p.domain in run.domains]
        examples = round(sum(seen))
        return advice(
            run.training, schedule_of(run.training, examples=examples, devices=1), examples=examples
        )

    return _said(recipe, of_run)


def advice_in(case: Case) -> list[str]:
    """The same of what is planned."""

    def of_run(run: TrainingRun) -> list[str]:
        examples = case.trained(run.of, run).examples
        return advice(run.training, schedule(case, run), examples=examples)

    return _said(case.recipe, of_run)


def _said(recipe: Recipe, of_run: Callable[[TrainingRun], list[str]]) -> list[str]:
    """Each sentence once, with the names of the runs that it is about."""
    runs: dict[str, list[str]] = {}
    resolved = recipe.resolve()
    for run in [*resolved.tuned, *resolved.runs]:
        if _by_prompts(recipe, run):
            continue
        for sentence in of_run(run):
            named = runs.setdefault(sentence, [])
            named.append(run.where if run.of != PIVOT or not named else run.name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in runs.items()]


def _by_prompts(recipe: Recipe, run: TrainingRun) -> bool:
    """Whether a run has as many steps as data.prompts ask for, which are not counted here."""
    own = run.on_policy
    all_own = own is not None and own.share == 1 and bool(recipe.data.prompts)
    return all_own and int(run.training.get("max_steps", -1)) <= 0
