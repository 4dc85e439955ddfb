"""sweep: every arm with every setting and seed, in parallel processes; then one table.

Each setting and seed is an ordinary run folder whose recipe holds all arms. Its steps are handed
to worker processes as soon as the steps they need are done. Teacher passes, training runs and their
scores are kept in one shared folder, so none is made twice: fine-tuning alone is the same whatever
the sources are.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from infifusion.errors import BusyError, InfiFusionError, RunError
from infifusion.process.bar import progress_bar
from infifusion.process.runtime import RedactedFormatter, log, quiet_libraries, set_up_logging
from infifusion.progress.follow import follow
from infifusion.progress.state import LOG
from infifusion.recipe import Recipe, as_written
from infifusion.report.pages.sweep import write_sweep_report
from infifusion.stages.check import check_recipe
from infifusion.stages.run import Step, in_folders, settled, steps_of, write_settings
from infifusion.store.artifacts import MANIFEST
from infifusion.store.durable import atomic_write
from infifusion.store.folders import RunFolder
from infifusion.store.lock import hold, release_claims
from infifusion.store.records import Json
from infifusion.sweep.file import Sweep, SweepRun
from infifusion.sweep.results import collect

SHARED = "shared"
LOOK_EVERY = 5.0  # seconds between looks at what another sweep makes
SWEEP = "sweep"
"""The one step that a sweep shows of itself; its meter counts the steps of all runs."""


@dataclass(frozen=True)
class Task:
    """One step of one run, as a worker gets it."""

    run: int
    step: Step

    @property
    def key(self) -> tuple[int, str]:
        """Its name among the tasks of the sweep."""
        return self.run, self.step.key


@dataclass
class Board:
    """The tasks that wait, run, are done or failed. postponed: another process makes the same; they
    are tried again when a task is done or after LOOK_EVERY."""

    waiting: list[Task]
    running: dict[Future[float], Task] = field(default_factory=dict)
    done: set[tuple[int, str]] = field(default_factory=set)
    failed: dict[tuple[int, str], str] = field(default_factory=dict)
    postponed: set[tuple[int, str]] = field(default_factory=set)

    def next_task(self) -> Task | None:
        """The first waiting task that may start; those that need a failed one fail with it."""
        for task in list(self.waiting):
            needs = [(task.run, need) for need in task.step.needs]
            if lost := next((need for need in needs if need in self.failed), None):
                self.waiting.remove(task)
                self.failed[task.key] = f"needs {lost[1]}, which failed"
            elif task.key not in self.postponed and all(need in self.done for need in needs):
                self.waiting.remove(task)
                return task
        return None


def run_sweep(
    sweep: Sweep,
    runs: list[SweepRun],
    out: Path,
    *,
    command: str,
    jobs: int | None = None,
    shared: Path | None = None,
    redo: bool = False,
) -> Path:
    """Run what is not done yet; returns the page with the results.

    Raises RecipeError before anything is written for whatever can be known beforehand, and RunError
    at the end when steps failed: what could be done without them is done and reported.
    """
    set_up_logging()
    quiet_libraries()
    runs = [replace(run, recipe=in_folders(run.recipe)) for run in runs]
    for run in runs:
        try:
            check_recipe(run.recipe, ask_hub=False)
        except InfiFusionError as error:
            raise type(error)(f"{run.folder}: {error}") from None
    out = out.resolve()
    roots = [out / run.folder for run in runs]
    runs = [replace(run, recipe=settled(run.recipe, *roots)) for run in runs]
    with hold(out):
        return _run(sweep, runs, out, command, jobs=jobs, shared=shared, redo=redo)


def _run(
    sweep: Sweep,
    runs: list[SweepRun],
    out: Path,
    command: str,
    *,
    jobs: int | None,
    shared: Path | None,
    redo: bool,
) -> Path:
    """Write the recipes and settings, do every step, collect the results."""
    store = (shared or out / SHARED).resolve()
    tasks = []
    for number, run in enumerate(runs):
        folder = RunFolder(out / run.folder, redo, store)
        recipe_file = folder.root / "recipe.yaml"
        text = yaml.safe_dump(as_written(run.recipe), sort_keys=False, allow_unicode=True)
        with atomic_write(recipe_file) as temporary:
            temporary.write_text(text, encoding="utf-8")
        write_settings(run.recipe, folder, recipe_file, command)
        tasks += [Task(number, step) for step in steps_of(run.recipe, folder)]
    jobs = jobs or os.cpu_count() or 1
    made = sum((task.step.place / MANIFEST).exists() for task in tasks)
    log.info(
        "sweep %s: %d runs (settings x seeds), %d arms each, %d steps, %d of them made before; "
        "%d at a time",
        *(sweep.name, len(runs), len(runs[0].arms), len(tasks), made, jobs),
    )
    with follow(out, name=sweep.name, steps=[SWEEP], command=command) as followed:
        with followed.step(SWEEP, made=False):
            failed = _run_tasks(tasks, runs, out, store, jobs=jobs, redo=redo)
        page = write_sweep_report(collect(sweep, runs, out), out)
        log.info("Results: %s (and results.md, results.csv, results.json beside it)", page)
        if failed:
            listed = "\n".join(
                f"  {runs[number].folder}: {key}: {why}" for (number, key), why in failed.items()
            )
            raise RunError(
                f"{len(failed)} of {len(tasks)} steps failed:\n{listed}\nThe rest is done. Mend "
                "the cause and run the same command again; it goes on with what is missing."
            )
    return page


def _run_tasks(
    tasks: list[Task], runs: list[SweepRun], out: Path, store: Path, *, jobs: int, redo: bool
) -> dict[tuple[int, str], str]:
    """Do every task; returns failed task -> why."""
    board = Board(list(tasks))
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    recipes = [as_written(run.recipe) for run in runs]
    started = time.monotonic()
    with (
        progress_bar(SWEEP, len(tasks), "steps") as meter,
        ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_start_worker, initargs=(threads, str(out))
        ) as pool,
        _workers_ended(out, jobs),
    ):
        while board.waiting or board.running:
            while len(board.running) < jobs and (task := board.next_task()) is not None:
                root, step = out / runs[task.run].folder, task.step
                future = pool.submit(
                    do_step, recipes[task.run], root, store, step.stage, step.name, redo
                )
                board.running[future] = task
            if not board.running:
                # What was waiting needed a step that failed, or another sweep makes it.
                time.sleep(LOOK_EVERY if board.postponed else 0)
                board.postponed.clear()
                continue
            # What was postponed may be done by another sweep long before anything of this one is.
            patience = LOOK_EVERY if board.postponed else None
            finished = wait(board.running, timeout=patience, return_when=FIRST_COMPLETED).done
            if not finished:
                board.postponed.clear()
            for future in finished:
                task = board.running.pop(future)
                _note(board, task, future)
                count = len(board.done) + len(board.failed)
                if task.key in board.postponed:
                    continue
                if task.key in board.failed or future.result() >= 1:
                    log.info(
                        "[%d/%d, %.0f s] %s: %s%s",
                        *(count, len(tasks), time.monotonic() - started),
                        *(runs[task.run].folder, task.step.key),
                        f" FAILED: {board.failed[task.key]}" if task.key in board.failed else "",
                    )
                meter.reach(count)
    return board.failed


@contextlib.contextmanager
def _workers_ended(out: Path, jobs: int) -> Iterator[None]:
    """End the workers when the sweep is stopped; their steps resume in the next run. RunError where
    a worker was killed."""
    try:
        yield
    except BaseException as error:
        for child in multiprocessing.active_children():
            child.terminate()
        if not isinstance(error, BrokenProcessPool):
            raise
        raise RunError(
            "A worker process was killed, as the system does when memory runs out. Run the same "
            f"command again with --jobs below {jobs}; what was finished is kept. {out / LOG} says "
            "what was under way."
        ) from None


def _note(board: Board, task: Task, future: Future[float]) -> None:
    error = future.exception()
    if isinstance(error, BusyError):
        board.waiting.append(task)
        board.postponed.add(task.key)
        return
    board.postponed.clear()
    if error is None:
        board.done.add(task.key)
    elif isinstance(error, Exception) and not isinstance(error, BrokenProcessPool):
        board.failed[task.key] = f"{type(error).__name__}: {error}"
    else:
        raise error


def _start_worker(threads: int, out: str) -> None:
    """Threads, quiet libraries, and messages to OUT/log.txt: the terminal shows whole steps."""
    import torch

    torch.set_num_threads(threads)
    set_up_logging()
    quiet_libraries()
    handler = logging.FileHandler(Path(out) / LOG, encoding="utf-8")
    handler.setFormatter(RedactedFormatter("%(asctime)s %(process)d %(message)s"))
    log.handlers = [handler]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the sweep dies: a worker that goes on would hold its claims."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def do_step(values: Json, root: Path, store: Path, stage: str, name: str, redo: bool) -> float:
    """In a worker: one step of one run; returns the seconds it took."""
    started = time.monotonic()
    recipe = Recipe.model_validate(values)
    steps = steps_of(recipe, RunFolder(root, redo, store))
    step = next(step for step in steps if (step.stage, step.name) == (stage, name))
    log.info("%s: %s", root, step.key)
    try:
        step.work()
    finally:
        release_claims()
    return time.monotonic() - started
