"""The state of a run under way: RUN_DIR/progress.json.

Written by progress/follow.py about once a second, whole or not at all; read by `infifusion watch`,
on this machine or another one that sees the folder. It is for display alone: what is finished
stands in the manifests, and no stage reads this file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from infifusion.errors import ArtifactError
from infifusion.process.meter import Work
from infifusion.store.records import Json, read_json

PROGRESS = "progress.json"
LOG = "log.txt"


class Status(StrEnum):
    """Status of a step or of the whole run."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass
class Step:
    """One step of the run. seconds: worked on it so far; expected: by the plan, in seconds of the
    machine that the plan knows, so that only their ratio to other steps' counts. curve: losses."""

    name: str
    status: str = Status.WAITING
    seconds: float = 0.0
    expected: float | None = None
    curve: list[float] = field(default_factory=list)


@dataclass
class RunState:
    """The whole run. updated: when the file was last written; moved: when work last advanced
    (seconds since 1970 by the clock of the run's machine). disk_free: bytes."""

    name: str
    machine: str
    pid: int
    started: float
    updated: float
    moved: float
    steps: list[Step]
    status: str = Status.RUNNING
    message: str = ""
    current: int | None = None
    work: Work | None = None
    disk_free: int | None = None

    @classmethod
    def from_json(cls, values: Json, *, where: Path) -> RunState:
        """The state that `write_state` wrote; ArtifactError for anything else."""
        try:
            steps = [Step(**step) for step in values["steps"]]
            work = None if values["work"] is None else Work(**values["work"])
            if (current := values["current"]) is not None:
                steps[current]
            return cls(**{**values, "steps": steps, "work": work})
        except (KeyError, TypeError, IndexError) as error:
            raise ArtifactError(
                f"{where} was written by another version of infifusion ({error!r}). Watch the run "
                "with the version that runs it (infifusion --version)."
            ) from None

    @property
    def step(self) -> Step | None:
        """The step under way."""
        return None if self.current is None else self.steps[self.current]

    def left(self) -> float | None:
        """Seconds until the run is done, or None while nothing is known.

        The plan's seconds of what is still to do, times how much longer than planned the work of
        this run took until it last advanced, less the time since then: between two steps of a
        training run it falls. Without a plan (or before the first second of work) None.
        """
        if any(step.expected is None for step in self.steps):
            return None
        worked = planned = to_do = since = 0.0
        for step in self.steps:
            expected = step.expected or 0.0
            if step.status == Status.DONE:
                worked, planned = worked + step.seconds, planned + expected * (step.seconds > 0)
            elif step is self.step and self.work is not None:
                since = min(step.seconds, max(0.0, self.updated - self.moved))
                worked += step.seconds - since
                planned += expected * self.work.share
                to_do += expected * (1 - self.work.share)
            else:
                to_do += expected
        if worked <= 1 or planned <= 0:
            return None
        return max(0.0, to_do * worked / planned - since)


def read_state(folder: Path) -> RunState:
    """progress.json of a run folder; ArtifactError where there is none."""
    path = folder / PROGRESS
    if not path.is_file():
        what = "There is no folder" if not folder.is_dir() else f"There is no {PROGRESS} in"
        raise ArtifactError(
            f"{what} {folder}: no run was started there, or not by this version. Give the folder "
            "of a run or of a whole sweep (runs/NAME, or what --run-dir said), or start one: "
            "infifusion run RECIPE.yaml"
        )
    return RunState.from_json(read_json(path), where=path)


def write_state(folder: Path, state: RunState) -> None:
    """Replace progress.json at once. Without fsync: after a power cut it is not needed."""
    temporary = folder / f".{PROGRESS}.tmp"
    temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")
    temporary.replace(folder / PROGRESS)
