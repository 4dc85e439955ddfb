"""summary.json: the figures of a run that other programs read."""

from __future__ import annotations

from pathlib import Path

from infifusion.report.run_folder import Json, Run, read_run
from infifusion.store.records import write_json


def summarise(run_dir: Path) -> Json:
    """models, comparisons, stages and versions of a run folder, finished or not.

    `difference` is the accuracy of b minus that of a; `gained` counts the items that b answers
    and a does not. Shares are in [0, 1]; bits per byte is lower for a better model. Raises
    ArtifactError when `run_dir` is no run folder or a file in it is damaged.
    """
    return read_run(run_dir).summary


def write_summary(run: Run) -> None:
    """Write summary.json into the run's folder, whole or not at all."""
    write_json(run.folder / "summary.json", run.summary)


def tasks_of(summary: Json) -> list[str]:
    """Every task that some model answered, in the order they were first met."""
    return list(dict.fromkeys(t for m in summary["models"].values() for t in m["scores"]))


def domains_of(summary: Json) -> list[str]:
    """Every domain that some model was scored on in bits per byte."""
    return list(dict.fromkeys(d for m in summary["models"].values() for d in m["bits_per_byte"]))


def mean_accuracies(summary: Json) -> dict[str, float]:
    """Model -> its mean accuracy over the tasks that it answered, where there are any."""
    return {
        name: sum(s["accuracy"] for s in model["scores"].values()) / len(model["scores"])
        for name, model in summary["models"].items()
        if model["scores"]
    }
