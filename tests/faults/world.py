"""One recipe, its undisturbed run, and a place where runs are disturbed."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import launcher
from launcher import Child
from small_run import write_small_run
from trees import differences

STAGES = ("prepare", "teach", "fuse", "distill", "merge", "evaluate", "report")


@dataclass
class Count:
    """One row of the table. survived: went on and gave the bytes of the undisturbed run.
    lost: one line for each that did not. where: the stages hit. cut_short: the time was up."""

    kind: str
    injected: int = 0
    survived: int = 0
    lost: list[str] = field(default_factory=list)
    where: Counter[str] = field(default_factory=Counter)
    cut_short: bool = False

    def end(self, faults: int, problems: list[str]) -> None:
        """One folder that was disturbed `faults` times and then left to finish."""
        self.injected += faults
        if problems:
            self.lost += [f"{problems[0]} (and {len(problems) - 1} more)"] * faults
        else:
            self.survived += faults


class World:
    """Models, data and a recipe in a folder; every run is made at `run`: paths are equal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "suite").mkdir(parents=True)
        self.recipe = write_small_run(folder / "suite")
        self.run = folder / "run"
        self.said = folder / "said.txt"
        os.environ["INFIFUSION_CACHE"] = str(folder / "cache")
        launcher.freeze()
        self.expected = folder / "expected"
        # The first run compiles the loops of the merge; the second is the measure, and the same.
        for _ in range(2):
            begin = time.monotonic()
            status = self.start().wait(600)
            self.seconds = time.monotonic() - begin
            if status:
                raise RuntimeError(f"the undisturbed run failed: {self.words()}")
            if self.expected.exists() and (problems := differences(self.expected, self.run)):
                raise RuntimeError(f"two undisturbed runs differ: {problems}")
            shutil.rmtree(self.expected, ignore_errors=True)
            self.run.rename(self.expected)

    def start(
        self, *arguments: str, before: Callable[[], None] = lambda: None, **environment: str
    ) -> Child:
        """`infifusion run` on the recipe, in `run`."""
        return launcher.start(
            ["run", str(self.recipe), "--run-dir", str(self.run), *arguments],
            self.said,
            before=before,
            environment=environment,
        )

    def words(self) -> str:
        """What the last run said."""
        return self.said.read_text(encoding="utf-8", errors="replace")

    def clear(self) -> None:
        """Remove the disturbed run."""
        shutil.rmtree(self.run, ignore_errors=True)

    def prepare_until(self, stage: str) -> None:
        """Put there what an undisturbed run has when it begins a stage."""
        if stage == STAGES[0]:
            return
        shutil.copytree(self.expected, self.run)
        for later in STAGES[STAGES.index(stage) :]:
            shutil.rmtree(self.run / later)
        (self.run / "summary.json").unlink()

    def finish(self, *, keep: bool = False) -> list[str]:
        """Let the run end in peace; what differs from the undisturbed one. Clears it, or keeps."""
        status = self.start().wait()
        problems = differences(self.expected, self.run) if status == 0 else []
        if status:
            problems = [f"the restart ended with {status}: {self.words()[-3000:]}"]
        if not keep:
            self.clear()
        return problems

    def stage(self) -> str:
        """The stage that is under way: the last folder with started.json and without manifest."""
        begun = [
            path.parent
            for path in self.run.glob("*/**/started.json")
            if not (path.parent / "manifest.json").exists()
        ]
        names = {str(path.relative_to(self.run)).split("/")[0] for path in begun}
        return sorted(names)[0] if names else "between"
