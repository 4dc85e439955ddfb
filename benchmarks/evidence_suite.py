"""The micro suite of `make evidence`: sources of three kinds, pivots, data with wrong labels.

    WORK/sources/KIND/{word,sym,code}/model   narrow: own domain alone; foreign: 15 % of other
                                              domains; general: half of its problems
    WORK/pivots/SEED/pivot/model
    WORK/data/noise-N/SEED/DOMAIN.jsonl       300 problems per domain, a share N wrong
    WORK/data/few-N/SEED/...                  N labelled problems and 600 prompts per domain
    WORK/data/{validation,test}/SEED/demo_DOMAIN.jsonl

Settings are chosen on validation keys with the seeds DEVELOPMENT; what is claimed is measured on
test keys with the seeds FRESH.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from infifusion.data.store import write_lines
from infifusion.demo.domains import DOMAINS, problems
from infifusion.demo.models import PIVOT, SOURCES, Settings
from infifusion.setup.suite import as_record, train_from_scratch, write_problems

DEVELOPMENT = (50, 51)
FRESH = (100, 101, 102, 103, 104)
KINDS = ("narrow", "foreign", "general")
NOISE = (0.0, 0.2, 0.4)
LABELLED = (30, 100, 300, 1000)
PROMPTS = 600
TRAIN_PER_DOMAIN = 300
TEST_PER_DOMAIN = 300
SOURCE_SEED = 7


def make_evidence_suite(work: Path, *, seeds: tuple[int, ...], kinds: tuple[str, ...]) -> None:
    """Models (two at a time) and data that are not there yet."""
    for seed in seeds:
        _write_data(work / "data", seed)
    jobs = [
        (work / "sources" / kind, name, kind, SOURCE_SEED) for kind in kinds for name in SOURCES
    ]
    jobs += [(work / "pivots" / str(seed), "pivot", "pivot", seed) for seed in seeds]
    missing = [job for job in jobs if not (job[0] / job[1] / "manifest.json").exists()]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=2, mp_context=context) as pool:
        for done in [pool.submit(_make, *job) for job in missing]:
            done.result()


def settings_of(kind: str, name: str) -> Settings:
    """A model of the demo with other data: how much of it is of its own domain."""
    if kind == "pivot":
        return PIVOT
    settings = SOURCES[name]
    own = settings.counts[name]
    drilled = sum(settings.drills.values())
    if kind == "narrow":
        counts = {name: own}
    elif kind == "foreign":  # 15 % of all problems
        each = round((own + drilled) * 0.15 / 0.85 / 2)
        counts = {domain: own if domain == name else each for domain in DOMAINS}
    else:
        each = round((own + drilled) / 2)
        counts = {domain: own if domain == name else each for domain in DOMAINS}
    return replace(settings, counts=counts)


def _make(folder: Path, name: str, kind: str, seed: int) -> None:
    train_from_scratch(folder, name, settings_of(kind, name), seed)


def _write_data(folder: Path, seed: int) -> None:
    for domain in DOMAINS:
        for noise in NOISE:
            path = folder / f"noise-{noise}" / str(seed) / f"{domain}.jsonl"
            made = problems(domain, "train", TRAIN_PER_DOMAIN, seed=40_000 + seed, noise=noise)
            write_problems(path, made)
        _write_few(folder, domain, seed)
        for split, first in (("validation", 50_000), ("test", 60_000)):
            made = problems(domain, split, TEST_PER_DOMAIN, seed=first + seed)  # type: ignore[arg-type]
            write_problems(folder / split / str(seed) / f"demo_{domain}.jsonl", made)


def _write_few(folder: Path, domain: str, seed: int) -> None:
    """Labelled problems and prompts whose keys are drawn evenly before any repeats."""
    made = problems(domain, "train", max(LABELLED) + PROMPTS, seed=70_000 + seed)
    records = [as_record(problem, number) for number, problem in enumerate(made)]
    asked = [{"id": one["id"], "prompt": one["prompt"]} for one in records[max(LABELLED) :]]
    for labelled in LABELLED:
        place = folder / f"few-{labelled}" / str(seed)
        write_lines(place / f"{domain}.jsonl", records[:labelled])
        write_lines(place / "prompts" / f"{domain}.jsonl", asked)
