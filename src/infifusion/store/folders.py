"""Where everything lies in a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infifusion.recipe import Recipe

PIVOT = "pivot"
SPLITS = ("train", "validation", "held_out")


@dataclass(frozen=True)
class RunFolder:
    """Paths inside runs/NAME. redo: stages made with other settings are deleted and made anew.
    shared: where teacher passes, training runs and scores lie that several runs use."""

    root: Path
    redo: bool = False
    shared: Path | None = None

    def respond(self, source: str) -> Path:
        return self.root / "respond" / source

    @property
    def choose(self) -> Path:
        return self.root / "choose"

    @property
    def responses(self) -> Path:
        """Every prompt with the answer that was kept for it, JSONL."""
        return self.choose / "responses.jsonl"

    @property
    def prepare(self) -> Path:
        return self.root / "prepare"

    def examples(self, split: str) -> Path:
        """Examples of one split, JSONL."""
        return self.prepare / f"{split}.jsonl"

    def rendered(self, model: str, split: str) -> Path:
        """The same examples as one model's tokens; model is `pivot` or a source."""
        return self.prepare / "rendered" / f"{model}-{split}.safetensors"

    def teach(self, source: str) -> Path:
        return self.root / "teach" / source

    def fuse(self, target: str) -> Path:
        return self.root / "fuse" / target

    def distill(self, run: str) -> Path:
        return self.root / "distill" / run

    def merge(self, name: str) -> Path:
        return self.root / "merge" / name

    def evaluate(self, model: str) -> Path:
        return self.root / "evaluate" / model.replace(":", "__")

    @property
    def report(self) -> Path:
        return self.root / "report"


def model_paths(recipe: Recipe, folder: RunFolder) -> dict[str, str]:
    """Every model of the run by name, and its folder or hub name."""
    plan = recipe.resolve()
    return {
        PIVOT: recipe.pivot.model,
        **{f"source:{name}": model.model for name, model in recipe.sources.items()},
        **{run.name: str(folder.distill(run.name) / "model") for run in plan.runs},
        **{merge.name: str(folder.merge(merge.name) / "model") for merge in plan.merges},
    }
