"""The command line: parse, validate, then import the stage that does the work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from infifusion import __version__
from infifusion.disk import FULL, errno_of
from infifusion.errors import InfiFusionError

app = typer.Typer(
    name="infifusion",
    help="Fuse several LLMs of any architecture and tokenizer into one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Override one key of the recipe; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


class Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not a KeyboardInterrupt, which typer would answer itself."""

    def __init__(self, number: int) -> None:
        self.exit_status = 128 + number


def main() -> None:
    """Entry point of the console script."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    with _exit_statuses():
        app()


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)


@contextmanager
def _exit_statuses() -> Iterator[None]:
    """2 when the input is at fault, 130 on Ctrl-C, 143 on SIGTERM, 1 for anything else."""
    try:
        yield
    except InfiFusionError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_status)
    except Stopped as stopped:
        typer.echo(
            "Stopped. What was finished is kept. Run the same command again: it goes on where it "
            "was.",
            err=True,
        )
        sys.exit(stopped.exit_status)
    except Exception as error:
        if errno_of(error) not in FULL:
            raise
        typer.echo(f"Error: {_of_disk(error)}", err=True)
        sys.exit(1)


def _of_disk(error: Exception) -> str:
    name = error.filename if isinstance(error, OSError) else None
    place = Path(name or ".").absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return (
        f"{os.strerror(errno_of(error) or 0)}: {name or 'a file could not be written'}; {free:,} "
        f"bytes are free on the disk of {place}. Make space (infifusion plan says how much a "
        "recipe needs), or give another --run-dir; then run the same command again: it goes on "
        "where it was."
    )


@app.callback(invoke_without_command=True)
def version_or_help(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Nothing but --version."""
    if version:
        typer.echo(f"infifusion {__version__}")
        raise typer.Exit


@app.command()
def run(
    recipe: RecipePath,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the run; runs/NAME by default.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Last stage to run.")] = None,
    redo: Annotated[
        bool, typer.Option("--redo", help="Delete and remake stages made with other settings.")
    ] = False,
    assignments: Assignments = None,
) -> None:
    """Run all stages of a recipe; finished ones are skipped, an interrupted one goes on."""
    from infifusion.recipe import load_recipe, require_stage

    loaded = load_recipe(recipe, assignments or [])
    last = require_stage(until) if until else "report"
    from infifusion.stages.run import run_recipe

    run_recipe(
        loaded,
        run_dir or Path("runs") / loaded.name,
        until=last,
        recipe_file=recipe,
        redo=redo,
        command=" ".join(["infifusion", *sys.argv[1:]]),
    )


@app.command()
def sweep(
    sweep_file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="The sweep.")],
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the sweep; runs/NAME by default.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Steps at a time; one per processor by default.")
    ] = None,
    shared: Annotated[
        Path | None, typer.Option(help="Folder of teacher passes that several sweeps share.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be run and compared; stop.")
    ] = False,
    redo: Annotated[
        bool, typer.Option("--redo", help="Delete and remake stages made with other settings.")
    ] = False,
    assignments: Assignments = None,
) -> None:
    """Compare arms over settings and seeds: one recipe with lists in place of values."""
    from infifusion.sweep import load_sweep

    loaded, worlds = load_sweep(sweep_file, assignments or [])
    if dry_run:
        for world in worlds:
            typer.echo(f"{world.folder}: {', '.join(world.arms)}")
        typer.echo(f"Compared with {', '.join(worlds[0].against) or 'nothing'}.")
        typer.echo(f"Next: infifusion sweep {sweep_file}")
        return
    from infifusion.stages.sweep import run_sweep

    run_sweep(
        loaded,
        worlds,
        run_dir or Path("runs") / loaded.name,
        command=" ".join(["infifusion", *sys.argv[1:]]),
        jobs=jobs,
        shared=shared,
        redo=redo,
    )


@app.command()
def demo(
    run_dir: Annotated[Path, typer.Option(help="Folder of the demo.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Decides every random choice.")] = 0,
) -> None:
    """Train three tiny specialists and a weak pivot, fuse them, evaluate, report. Offline."""
    from infifusion.demo import make_suite
    from infifusion.recipe import load_recipe
    from infifusion.stages.run import run_recipe

    recipe = make_suite(run_dir / "suite", seed=seed)
    run_recipe(
        load_recipe(recipe),
        run_dir,
        until="report",
        recipe_file=recipe,
        command=" ".join(["infifusion", *sys.argv[1:]]),
    )


@app.command()
def check(recipe: RecipePath, assignments: Assignments = None) -> None:
    """Say what a recipe would do, and everything that is wrong with it, without running it."""
    from infifusion.recipe import load_recipe

    loaded = load_recipe(recipe, assignments or [])
    from infifusion.stages.check import check_recipe

    typer.echo(check_recipe(loaded))
    typer.echo(f"Nothing is wrong. Next: infifusion run {recipe}")


@app.command()
def plan(
    recipe: RecipePath,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of the run; what is prepared there is counted.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, or an accelerator: h200, h100, a100-80, l40s, rtx4090, ...")
    ] = "cpu",
    count: Annotated[int, typer.Option(help="Devices per machine.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    examples: Annotated[
        int | None, typer.Option(help="Training examples, in place of reading the data.")
    ] = None,
    tokens_per_example: Annotated[
        int | None, typer.Option(help="Mean tokens of an example, prompt and response.")
    ] = None,
    response_tokens: Annotated[
        int | None, typer.Option(help="Mean tokens of a response; 3/4 of an example by default.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="NAME=SHAPE",
            help="A model's size without its files: pivot=8b-llama; repeatable.",
        ),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure this machine first, about 40 s; kept.")
    ] = False,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Tokens, FLOPs, bytes, memory and hours of every stage, before anything is loaded."""
    from infifusion.recipe import load_recipe

    loaded = load_recipe(recipe, assignments or [])
    from infifusion.stages.plan import plan_recipe
    from infifusion.stages.plan_table import plan_lines, plan_table
    from infifusion.stages.plan_tokens import given_sizes

    given = given_sizes(examples, tokens_per_example, response_tokens)
    if calibrate:
        from infifusion.stages.plan_calibrate import calibrate_here

        calibrate_here()
    found = plan_recipe(
        loaded,
        run_dir=run_dir or Path("runs") / loaded.name,
        device=device,
        count=count,
        nodes=nodes,
        given=given,
        shapes=shape or [],
    )
    if as_json:
        typer.echo(json.dumps(found))
    else:
        _show(plan_table(found))
        typer.echo("\n".join([*plan_lines(found), f"Next: infifusion run {recipe}"]))


@app.command()
def merge(
    merge_file: Annotated[Path, typer.Argument(metavar="MERGE.yaml", help="The merge.")],
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT_DIR", help="New folder of the result.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Base model, in place of the file's base_model.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be read, written and needed; stop.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every tensor by the headers alone; stop.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="cpu (compiled loops), cuda, or cuda:1 for the second GPU.")
    ] = "cpu",
    memory: Annotated[
        str | None, typer.Option(help="Memory to stay under, such as 1GB; the device's with cuda.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; by default one per processor.")
    ] = None,
    shard_size: Annotated[str, typer.Option(help="Largest file of the result.")] = "5GB",
    allow_nan: Annotated[
        bool, typer.Option("--allow-nan", help="Go on where a tensor holds NaN or Inf.")
    ] = False,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Read .bin and .pt files, tensors alone."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Merge the weights of models that share an architecture; reads mergekit's YAML."""
    from infifusion.stages.merge_command import merge_command

    text, values = merge_command(
        merge_file,
        out,
        base=base,
        plan_only=plan,
        dry_run=dry_run,
        device=device,
        memory=memory,
        threads=threads,
        shard_size=shard_size,
        allow_nan=allow_nan,
        allow_pickle=allow_pickle,
    )
    typer.echo(json.dumps(values) if as_json else text)


@app.command()
def diff(
    models: Annotated[
        list[str], typer.Argument(metavar="A B [C ...]", help="The base, then changed models.")
    ],
    html: Annotated[Path | None, typer.Option(help="Write a page with heat maps here.")] = None,
    as_json: AsJson = False,
) -> None:
    """How models differ from a base, tensor by tensor: what to know before choosing a merge."""
    from infifusion.stages.diff import diff_command

    text, values = diff_command(models, html=html)
    typer.echo(json.dumps(values) if as_json else text)


@app.command()
def align(
    source: Annotated[str, typer.Option(help="Tokenizer folder of the source.")],
    pivot: Annotated[str, typer.Option(help="Tokenizer folder of the pivot.")],
    text: Annotated[Path, typer.Option(help="A text file, or JSONL.")],
    field: Annotated[
        str | None, typer.Option(help="Field of a JSONL file that holds the text.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How well two tokenizers fit, before any GPU is paid."""
    from infifusion.stages.align import align_table, align_tokenizers

    result = align_tokenizers(source=source, pivot=pivot, text=text, field=field)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _show(align_table(result))


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Folders or hub names.")],
    tasks: Annotated[str, typer.Option(help="Tasks, separated by commas (infifusion list).")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with the tasks' files; the hub by default.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items per task.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the per-item results.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts generated at once.")] = 16,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest generation; each task's own by default.")
    ] = None,
    unsafe_code: Annotated[
        bool, typer.Option("--unsafe-code", help="Run generated code without a sandbox.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Score models on tasks, and compare the first with each of the others item by item."""
    from infifusion.report.table import console_table
    from infifusion.stages.evaluate import evaluate_models

    result = evaluate_models(
        models,
        tasks=[task.strip() for task in tasks.split(",") if task.strip()],
        data=data,
        limit=limit,
        out=out,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        unsafe_code=unsafe_code,
    )
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _show(console_table(result))


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run.")],
) -> None:
    """Write the report of a run again: index.html and summary.json."""
    from infifusion.report.page import write_report

    page = write_report(run_dir)
    typer.echo(f"Report: {page}")


@app.command(name="list")
def list_methods(as_json: AsJson = False) -> None:
    """Every fusion function, loss, merge method, chooser and task, one line each."""
    from infifusion.stages.catalogue import catalogue

    table = catalogue()
    if as_json:
        typer.echo(json.dumps(table))
        return
    for kind, entries in table.items():
        typer.echo(f"\n{kind}")
        for name, entry in entries.items():
            typer.echo(f"  {name:<20} {entry['line']}")
            typer.echo(f"  {'':<20} {entry['file']}")


def _show(table: Any) -> None:
    from rich.console import Console

    Console().print(table)
