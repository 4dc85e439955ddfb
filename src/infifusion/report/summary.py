"""summary.json: the figures of a run that other programs read."""

from __future__ import annotations

from pathlib import Path

from infifusion.report.run_folder import Run, read_run
from infifusion.store.records import Json

SCORE = ("n", "correct", "accuracy", "ci95")
COMPARISON = ("a", "b", "task", "difference", "ci95", "p_value", "gained", "lost")


def summarise(run_dir: Path) -> Json:
    """models, comparisons, stages and versions of a run folder, finished or not.

    `difference` is the accuracy of b minus that of a; `gained` counts the items that b answers
    and a does not. Shares are in [0, 1]; bits per byte is lower for a better model. Raises
    ArtifactError when `run_dir` is no run folder or a file in it is damaged.
    """
    return summary_of(read_run(run_dir))


def summary_of(run: Run) -> Json:
    """The summary of a run that has been read."""
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
            for name, result in run.scores.items()
        },
        "comparisons": [{key: pair[key] for key in COMPARISON} for pair in run.comparisons],
        "stages": {
            stage: {"seconds": manifest.get("seconds"), **manifest.get("counts", {})}
            for stage, manifest in run.manifests.items()
        },
        "versions": dict(run.resolved.get("versions", {})),
    }


def tasks_of(summary: Json) -> list[str]:
    """Every task that some model answered, in the order they were first met."""
    return list(dict.fromkeys(t for m in summary["models"].values() for t in m["scores"]))


def domains_of(summary: Json) -> list[str]:
    """Every domain that some model was scored on in bits per byte."""
    return list(dict.fromkeys(d for m in summary["models"].values() for d in m["bits_per_byte"]))
