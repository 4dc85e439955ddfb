"""Where everything lies in a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infifusion.recipe import Model, Recipe, TrainingRun

PIVOT = "pivot"
SPLITS = ("train", "validation", "held_out")


@dataclass(frozen=True)
class RunFolder:
    """Paths inside runs/NAME.

    redo:   stages made with other settings, and what is damaged, are deleted and made anew.
    shared: where teacher passes, training runs and scores lie that several runs use.
    """

    root: Path
    redo: bool = False
    shared: Path | None = None

    def respond(self, source: str) -> Path:
        """Answers of a source."""
        return self.root / "respond" / source

    @property
    def choose(self) -> Path:
        """The answers that were kept."""
        return self.root / "choose"

    @property
    def responses(self) -> Path:
        """Every prompt with the answer that was kept for it, JSONL."""
        return self.choose / "responses.jsonl"

    @property
    def prepare(self) -> Path:
        """Examples, and every model's rendering of them."""
        return self.root / "prepare"

    def examples(self, split: str) -> Path:
        """Examples of one split, JSONL."""
        return self.prepare / f"{split}.jsonl"

    @property
    def data_sets(self) -> Path:
        """Which entry of data.train each training example comes from, where these have weights."""
        return self.prepare / "data_sets.json"

    def rendered(self, model: str, split: str) -> Path:
        """The same examples as one model's tokens; model is `pivot` or a source."""
        return self.prepare / "rendered" / f"{model}-{split}.safetensors"

    def tune(self, source: str) -> Path:
        """The training run of a source that is tuned, and its model."""
        return self.root / "tune" / source

    def teach(self, source: str) -> Path:
        """A source's or the pivot's cache of beliefs."""
        return self.root / "teach" / source

    def fuse(self, target: str) -> Path:
        """A fused target."""
        return self.root / "fuse" / target

    def distill(self, run: str) -> Path:
        """A training run and its model."""
        return self.root / "distill" / run

    def trained(self, run: TrainingRun) -> Path:
        """A training run of the pivot or of a source."""
        return self.distill(run.name) if run.of == PIVOT else self.tune(run.of)

    def merge(self, name: str) -> Path:
        """A merged model."""
        return self.root / "merge" / name

    def evaluate(self, model: str) -> Path:
        """A model's scores and answers."""
        return self.root / "evaluate" / model.replace(":", "__")


def model_called(recipe: Recipe, name: str) -> Model:
    """The pivot, or the source of this name."""
    return recipe.pivot if name == PIVOT else recipe.sources[name]


def with_tuned(recipe: Recipe, folder: RunFolder) -> Recipe:
    """The recipe whose tuned sources are the copies that `tune` has made. A copy that several runs
    share is named by the place where it lies."""
    made = {
        name: source.model_copy(
            update={
                "model": str((folder.tune(name) / "model").resolve()),
                "tokenizer": None,
                "revision": None,
                "gguf_file": None,
                "tune": None,
            }
        )
        for name, source in recipe.sources.items()
        if source.tune is not None
    }
    return recipe.model_copy(update={"sources": {**recipe.sources, **made}})


def without_tune(recipe: Recipe) -> Recipe:
    """The recipe whose sources are what they were given as."""
    plain = {n: s.model_copy(update={"tune": None}) for n, s in recipe.sources.items()}
    return recipe.model_copy(update={"sources": plain})


def tuning_read(folder: RunFolder, name: str, model: Model) -> list[Path]:
    """The stage that has made a source, where it is one that was tuned here; to be verified."""
    place = folder.tune(name)
    return [place] if model.model == str((place / "model").resolve()) else []


def model_paths(recipe: Recipe, folder: RunFolder) -> dict[str, str]:
    """Every model of the run by name, and its folder or hub name."""
    resolved = recipe.resolve()
    return {
        PIVOT: recipe.pivot.model,
        **{f"source:{name}": model.model for name, model in recipe.sources.items()},
        **{f"source:{one.name}": str(folder.trained(one) / "model") for one in resolved.tuned},
        **{f"untuned:{one.name}": recipe.sources[one.name].model for one in resolved.tuned},
        **{run.name: str(folder.distill(run.name) / "model") for run in resolved.runs},
        **{merge.name: str(folder.merge(merge.name) / "model") for merge in resolved.merges},
    }
