"""Does fusion work, which parts of it, and when not? Every sweep of benchmarks/evidence/.

    .venv/bin/python benchmarks/evidence.py [--seeds 1] [--only weighting,merging] [--jobs 2]
        [--work runs/evidence] [--docs docs/results.md] [--tables]

Makes models and data, runs the sweeps (finished steps are kept, teacher passes shared), and puts
their tables between the markers of the page of answers, docs/results.md, and of every page in the
folder beside it, docs/results/:

    <!-- table: weighting | kind=narrow -->              one setting, every arm
    <!-- end -->
    <!-- summary: confirm | sft -->                      every setting, differences from one arm
    <!-- end -->
    <!-- summary: confirm | sft | half min_ce -->        the same of these arms, in this order
    <!-- end -->
    <!-- tensors: merging | rsaf,* -->                   merges whose names fit, by layer
    <!-- end -->

Plots of the differences go to docs/results/plots/. The pages in the folder show them beside the
tables of a sweep, or beside its summary where no page has its tables. `--docs` names another page
of answers, whose folder lies beside it in the same way. `--seeds N` takes the first N seeds of
every sweep. Sweeps on real text are left out, with a message, where ../shared is absent.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "evidence"))  # methods that the sweeps name
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from evidence_suite import KINDS, make_evidence_suite
from evidence_tables import summary_table, write_sweep_plots
from evidence_tensors import tensor_table

from infifusion.report.pages.sweep import markdown_table
from infifusion.store.durable import atomic_write
from infifusion.store.records import Json, read_json
from infifusion.strict import read_yaml
from infifusion.sweep.file import load_sweep
from infifusion.sweep.run import run_sweep

HERE = Path(__file__).parent
SWEEPS = (
    *("weighting", "clean", "confirm", "fresh", "trusted", "ablation", "top_k", "calibration"),
    *("few_labels", "sequence_kd", "merging", "same_start", "real_text"),
)
SHARED = HERE.parents[1] / "shared"
MODELS = HERE.parent / "runs" / "real_text_models"
MARKER = re.compile(
    r"(<!-- (table|summary|tensors): (\w+)(?: \| ([^>]*?))? -->\n).*?(<!-- end -->)", re.DOTALL
)


def run(name: str, work: Path, *, seeds_at_most: int | None, jobs: int | None) -> None:
    """One sweep, and what it needs."""
    path = HERE / "evidence" / f"{name}.yaml"
    assignments = []
    if name == "real_text":
        if not (SHARED / "data").is_dir():
            print(f"{name}: left out, because {SHARED}/data is not here.")
            return
        script = HERE.parent / "recipes" / "real_text_models.py"
        subprocess.run([sys.executable, script, "--data", SHARED, "--out", MODELS], check=True)
    else:
        assignments = [f"settings.work=['{work / 'suite'}']"]
    seeds = read_yaml(path)["seeds"][:seeds_at_most]
    assignments.append(f"seeds={seeds}")
    if name != "real_text":
        make_evidence_suite(work / "suite", seeds=tuple(seeds), kinds=KINDS)
    sweep, worlds = load_sweep(path, assignments)
    started = time.monotonic()
    run_sweep(
        sweep,
        worlds,
        work / "sweeps" / name,
        command=f"benchmarks/evidence.py --only {name}",
        jobs=jobs,
        shared=work / "shared",
    )
    print(f"{name}: {(time.monotonic() - started) / 60:.1f} minutes")


def rebuild(docs: Path, work: Path) -> None:
    """Fill in the tables of finished sweeps on every page; the others stay as they are."""
    folder = docs.parent / docs.stem
    pages = {page: page.read_text(encoding="utf-8") for page in (docs, *folder.glob("*.md"))}
    results: dict[str, Json] = {}
    plots: dict[str, list[Path]] = {}
    for name in SWEEPS:
        path = work / "sweeps" / name / "results.json"
        if path.exists():
            results[name] = read_json(path)
            first = {**results[name], "against": results[name]["against"][:1]}
            plots[name] = write_sweep_plots(first, folder / "plots")

    def filled(match: re.Match[str], page: Path) -> str:
        start, kind, name, rest, end = match.groups()
        if name not in results:
            return match.group(0)
        wanted, _, arms = (part.strip() for part in (rest or "").partition("|"))
        drawn: list[Path] = []
        if kind == "summary":
            text = _summary(results[name], wanted, arms.split(), page)
            has_tables = any(f"<!-- table: {name}" in other for other in pages.values())
            if wanted == results[name]["against"][0] and not has_tables:
                drawn = plots[name]
        elif kind == "tensors":
            text = tensor_table(work / "sweeps" / name, wanted)
        else:
            _known(wanted, results[name]["settings"], f"setting of {name}", page)
            text = markdown_table(results[name], wanted, bases=results[name]["against"][:1])
            number = list(results[name]["settings"]).index(wanted)
            drawn = [path for path in plots[name] if path.name.startswith(f"{name}-{number}-")]
        pictures = [f"![{path.stem}](plots/{path.name})" for path in drawn if page != docs]
        seeds = ", ".join(str(seed) for seed in results[name]["seeds"])
        return f"{start}\n{text}\n\n{' '.join([f'Seeds {seeds}.', *pictures])}\n\n{end}"

    for page, before in pages.items():
        after = MARKER.sub(lambda match, page=page: filled(match, page), before)
        with atomic_write(page) as temporary:
            temporary.write_text(after, encoding="utf-8")


def _summary(results: Json, base: str, arms: list[str], page: Path) -> str:
    """Differences from `base` in every setting: of these arms, or of all where none is named."""
    for arm in (base, *arms):
        _known(arm, results["arms"], f"arm of {results['name']}", page)
    return summary_table({**results, "arms": arms or results["arms"]}, base)


def _known(name: str, names: Iterable[str], kind: str, page: Path) -> None:
    if name not in names:
        raise SystemExit(f"{page}: there is no {kind} called '{name}'; known: {', '.join(names)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--docs", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--only", help="sweeps, separated by commas")
    parser.add_argument("--seeds", type=int, help="at most so many seeds of each sweep")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--tables", action="store_true", help="run nothing, fill in the tables")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else SWEEPS
    if unknown := [name for name in wanted if name not in SWEEPS]:
        parser.error(f"there is no sweep {unknown[0]}; known: {', '.join(SWEEPS)}")
    work = arguments.work.resolve()
    started = time.monotonic()
    for name in () if arguments.tables else wanted:
        run(name, work, seeds_at_most=arguments.seeds, jobs=arguments.jobs)
    rebuild(arguments.docs, work)
    print(f"{arguments.docs} rebuilt; {(time.monotonic() - started) / 60:.0f} minutes in all")


if __name__ == "__main__":
    main()
