"""Everything the report needs of a run folder, read once, in the recipe's order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from infifusion.data.lines import read_lines
from infifusion.errors import ArtifactError, InfiFusionError
from infifusion.recipe import STAGES
from infifusion.store.artifacts import MANIFEST, verify_files
from infifusion.store.records import Json, read_json

PIVOT = "pivot"
KINDS = {
    "pivot": "pivot",
    "source": "source",
    "tuned": "fine-tuned on the gold text alone",
    "fused": "fused",
}
"""What a model of a run is, in words: it decides its colour and where it is named."""
SCORE = ("n", "correct", "accuracy", "ci95")
COMPARISON = ("a", "b", "task", "difference", "ci95", "p_value", "gained", "lost")
SINGLE = ("choose", "prepare")
"""Stages that write one folder; the others write one per model, target, run or merge."""


@dataclass(frozen=True)
class Run:
    """The JSON of a run; what a run does not have is an empty mapping."""

    folder: Path
    resolved: Json
    """resolved.json: recipe, plan, command, versions."""
    manifests: dict[str, Json]
    """`prepare`, `teach/NAME`, ... -> manifest.json."""
    weights: dict[str, Json]
    """Target -> fuse/TARGET/weights.json."""
    histories: dict[str, Json]
    """Training run -> distill/RUN/history.json."""
    merges: dict[str, Json]
    """Merge -> merge/MERGE/merge_details.json."""
    deltas: dict[str, Json]
    """Merge -> merge/MERGE/deltas.json."""
    answered: list[Json]
    """Sample prompts with every source's answer: choose/samples.json."""
    scores: dict[str, Json]
    """Model -> evaluate/MODEL/scores.json."""
    comparisons: list[Json]
    own_texts: dict[str, Json] = field(default_factory=dict)
    """Training run -> distill/RUN/on_policy.json, where the pivot wrote text of its own."""
    tuned: dict[str, Json] = field(default_factory=dict)
    """Source that is tuned -> tune/SOURCE/history.json."""

    @property
    def plan(self) -> Json:
        """The recipe written out: names of targets, runs, merges and scored models."""
        return self.resolved.get("plan", {})

    @property
    def counts(self) -> dict[str, Json]:
        """Stage -> what its manifest counted."""
        return {stage: manifest.get("counts", {}) for stage, manifest in self.manifests.items()}

    @property
    def name(self) -> str:
        """The recipe's name, or the folder's where the recipe is not known."""
        return self.resolved.get("recipe", {}).get("name") or self.folder.resolve().name

    @property
    def summary(self) -> Json:
        """What summary.json holds."""
        return {
            "models": {
                name: {
                    "path": result["path"],
                    "scores": {
                        task: {key: score[key] for key in SCORE}
                        for task, score in result["scores"].items()
                    },
                    "bits_per_byte": dict(result["bits_per_byte"]),
                }
                for name, result in self.scores.items()
            },
            "comparisons": [{key: pair[key] for key in COMPARISON} for pair in self.comparisons],
            "stages": {
                stage: {"seconds": manifest.get("seconds"), **manifest.get("counts", {})}
                for stage, manifest in self.manifests.items()
            },
            "versions": dict(self.resolved.get("versions", {})),
        }

    def kind_of(self, model: str) -> str:
        """pivot, source, tuned (on gold alone) or fused: one of KINDS."""
        kind = model.partition(":")[0]
        if model == PIVOT or kind in ("source", "untuned"):
            return PIVOT if model == PIVOT else "source"
        tuned = {run["name"] for run in self.plan.get("runs", []) if run.get("target") is None}
        return "tuned" if model in tuned or model == "sft" else "fused"

    def counts_of(self, stage: str) -> dict[str, Json]:
        """Name -> what was counted, for a stage that has one folder per model, target or run."""
        return {
            name: counts
            for key, counts in self.counts.items()
            for kind, _, name in [key.partition("/")]
            if kind == stage and name
        }

    def bytes_of(self, stage: str) -> int:
        """How much the files that a stage vouches for take up, as far as they are there."""
        folder = self.folder / Path(*map(folder_name, stage.split("/", 1)))
        paths = [folder / name for name in self.manifests[stage].get("files", {})]
        return sum(path.stat().st_size for path in paths if path.is_file())

    def items(self, model: str, task: str) -> list[Json]:
        """The answers of one model to one task; empty where they were not kept."""
        path = self.folder / "evaluate" / folder_name(model) / f"{task}.jsonl"
        return list(read_lines(path)) if path.exists() else []


def read_run(run_dir: Path) -> Run:
    """Read a run folder, finished or not.

    Raises ArtifactError when it is no run folder or when a file in it is damaged.
    """
    settings = run_dir / "resolved.json"
    if not settings.exists() and not any((run_dir / stage).is_dir() for stage in STAGES[:-1]):
        raise ArtifactError(
            f"{run_dir} is not a run folder: expected resolved.json, or a folder of a stage "
            f"({', '.join(STAGES[:-1])}). Give the folder that `infifusion run` wrote."
        )
    resolved = read_json(settings) if settings.exists() else {}
    comparisons = run_dir / "evaluate" / "comparisons.json"
    answered = run_dir / "choose" / "samples.json"
    return Run(
        folder=run_dir,
        resolved=resolved,
        manifests=_manifests(run_dir, resolved),
        weights=_read_each(run_dir, resolved, "fuse", "weights.json"),
        histories=_read_each(run_dir, resolved, "distill", "history.json"),
        merges=_read_each(run_dir, resolved, "merge", "merge_details.json"),
        deltas=_read_each(run_dir, resolved, "merge", "deltas.json"),
        answered=_read(answered)["samples"] if answered.exists() else [],
        scores=_read_each(run_dir, resolved, "evaluate", "scores.json"),
        comparisons=read_json(comparisons)["comparisons"] if comparisons.exists() else [],
        own_texts=_read_each(run_dir, resolved, "distill", "on_policy.json"),
        tuned=_read_each(run_dir, resolved, "tune", "history.json"),
    )


def read_runs(run_dirs: Sequence[Path]) -> dict[str, Run]:
    """Each run under a name of its own: the recipe's, the folder's, or the whole path."""
    if len({path.resolve() for path in run_dirs}) < len(run_dirs):
        raise ArtifactError("One run folder is named twice; name each run once.")
    runs = [read_run(path) for path in run_dirs]
    candidates = (
        [run.name for run in runs],
        [run.folder.resolve().name for run in runs],
        [str(run.folder) for run in runs],
    )
    names = next(names for names in candidates if len(set(names)) == len(names))
    return dict(zip(names, runs, strict=True))


@contextmanager
def run_as_written(where: str) -> Iterator[None]:
    """ArtifactError in place of what a missing or mistyped field raises; `where` names the run."""
    try:
        yield
    except InfiFusionError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, jinja2.TemplateError) as error:
        raise ArtifactError(
            f"{where}: a file of the run does not hold what a run writes ({error!r:.200}): it is "
            "damaged, or of another version. Run the recipe again with --redo."
        ) from error


def folder_name(model: str) -> str:
    """The folder of a model under evaluate/."""
    return model.replace(":", "__")


def model_name(folder: str) -> str:
    """The model of a folder under evaluate/: only sources have a colon in their names."""
    of_source = folder.startswith(("source__", "untuned__"))
    return folder.replace("__", ":", 1) if of_source else folder


def _manifests(run_dir: Path, resolved: Json) -> dict[str, Json]:
    manifests = {}
    for stage in STAGES[:-1]:
        if stage not in SINGLE:
            each = _read_each(run_dir, resolved, stage, MANIFEST)
            manifests |= {f"{stage}/{name}": manifest for name, manifest in each.items()}
        elif (run_dir / stage / MANIFEST).exists():
            manifests[stage] = read_json(run_dir / stage / MANIFEST)
    return manifests


def _read_each(run_dir: Path, resolved: Json, stage: str, file: str) -> dict[str, Json]:
    """NAME -> the file of that name in STAGE/NAME, in the plan's order, then by name."""
    paths = {
        model_name(path.parent.name) if stage == "evaluate" else path.parent.name: path
        for path in sorted((run_dir / stage).glob(f"*/{file}"))
    }
    order = [name for name in _planned(resolved, stage) if name in paths]
    return {name: _read(paths[name]) for name in dict.fromkeys([*order, *paths])}


def _read(path: Path) -> Json:
    """A file of a stage's folder; ArtifactError where a finished stage wrote another."""
    signed = path.parent / MANIFEST
    if path.name != MANIFEST and signed.exists():
        manifest = read_json(signed)
        if path.name in manifest.get("files", {}):
            verify_files(path.parent, manifest, only=[path])
    return read_json(path)


def _planned(resolved: Json, stage: str) -> Iterable[str]:
    """Names in the order in which the recipe makes them."""
    plan, sources = resolved.get("plan", {}), resolved.get("recipe", {}).get("sources", {})
    named = {
        "fuse": [target["name"] for target in plan.get("targets", [])],
        "distill": [run["name"] for run in plan.get("runs", [])],
        "merge": [merge["name"] for merge in plan.get("merges", [])],
        "tune": list(sources),
        "teach": list(sources),
        "respond": list(sources),
    }
    return named.get(stage, [*plan.get("scored", []), *named["distill"]])
