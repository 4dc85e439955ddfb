"""Commands that take a recipe: check, plan, run, sweep, demo."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from infifusion.commands.options import (
    AsJson,
    Assignments,
    RecipePath,
    run_command,
    say_loading,
    show,
    this_command,
    work_offline_for,
)
from infifusion.commands.push import PushModels, push_models_of, ready_to_push


def check(
    recipe: RecipePath,
    offline: Annotated[
        bool,
        Option("--offline", help="Do not ask the hub; say what of its data was not looked at."),
    ] = False,
    assignments: Assignments = None,
) -> None:
    """Say what a recipe would do and what is wrong. Models and training are tried on small copies;
    no stage is run."""
    from infifusion.recipe import load_recipe

    loaded = load_recipe(recipe, assignments or [])
    say_loading()
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    work_offline_for(loaded)
    from infifusion.process.runtime import quiet_libraries, set_up_logging
    from infifusion.stages.check import check_recipe
    from infifusion.teacher.gguf import in_folders

    set_up_logging()
    quiet_libraries()
    typer.echo(check_recipe(in_folders(loaded), offline=offline))
    typer.echo(f"Nothing is wrong. Next: {run_command(recipe, assignments)}")


def plan(
    recipe: RecipePath,
    run_dir: Annotated[
        Path | None, Option(help="Folder of the run; what is prepared there is counted.")
    ] = None,
    device: Annotated[
        str, Option(help="cpu, or an accelerator: h200, h100, a100-80, l40s, rtx4090, ...")
    ] = "cpu",
    count: Annotated[int, Option(help="Devices per machine.")] = 1,
    nodes: Annotated[int, Option(help="Machines.")] = 1,
    examples: Annotated[
        int | None, Option(help="Training examples, in place of reading the data.")
    ] = None,
    tokens_per_example: Annotated[
        int | None, Option(help="Mean tokens of an example, prompt and response.")
    ] = None,
    response_tokens: Annotated[
        int | None, Option(help="Mean tokens of a response; 3/4 of an example by default.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        Option(
            "--shape",
            metavar="NAME=SHAPE",
            help="A model's size without its files: pivot=8b-llama; repeatable.",
        ),
    ] = None,
    calibrate: Annotated[
        bool, Option("--calibrate", help="Measure this machine first, about 40 s; kept.")
    ] = False,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Estimate tokens, memory, disk, hours of every stage. No weights are loaded."""
    from infifusion.recipe import load_recipe

    loaded = load_recipe(recipe, assignments or [])
    from infifusion.estimate.plan import plan_recipe
    from infifusion.estimate.table import plan_lines, plan_table
    from infifusion.estimate.tokens import given_sizes

    given = given_sizes(examples, tokens_per_example, response_tokens)
    if calibrate:
        from infifusion.setup.calibrate import calibrate_here

        calibrate_here()
    planned = plan_recipe(
        loaded,
        run_dir=run_dir or Path("runs") / loaded.name,
        device=device,
        count=count,
        nodes=nodes,
        given=given,
        shapes=shape or [],
    )
    if as_json:
        typer.echo(json.dumps(planned))
    else:
        show(plan_table(planned))
        typer.echo("\n".join(plan_lines(planned)))
        typer.echo(f"Next: {run_command(recipe, assignments, run_dir)}")


def run(
    recipe: RecipePath,
    run_dir: Annotated[Path | None, Option(help="Folder of the run; runs/NAME by default.")] = None,
    until: Annotated[str | None, Option(help="Last stage to run.")] = None,
    redo: Annotated[
        bool, Option("--redo", help="Delete and remake stages made with other settings.")
    ] = False,
    push_to_hub: PushModels = None,
    assignments: Assignments = None,
) -> None:
    """Run a recipe, or go on with it. Finished stages are skipped."""
    from infifusion.recipe import load_recipe, require_stage

    loaded = load_recipe(recipe, assignments or [])
    last = require_stage(until) if until else "report"
    if push_to_hub and last != "report":
        raise typer.BadParameter("--push-to-hub uploads what a whole run made: leave out --until.")
    wanted = ready_to_push(push_to_hub, loaded)
    work_offline_for(loaded)
    say_loading()
    from infifusion.stages.run import run_recipe

    run_recipe(
        loaded,
        run_dir or Path("runs") / loaded.name,
        until=last,
        recipe_file=recipe,
        redo=redo,
        command=this_command(),
    )
    push_models_of(run_dir or Path("runs") / loaded.name, loaded, wanted)


def sweep(
    sweep_file: Annotated[Path, Argument(metavar="SWEEP.yaml", help="The sweep.")],
    run_dir: Annotated[
        Path | None, Option(help="Folder of the sweep; runs/NAME by default.")
    ] = None,
    jobs: Annotated[
        int | None, Option(min=1, help="Steps at a time; one per processor by default.")
    ] = None,
    shared: Annotated[
        Path | None, Option(help="Folder of teacher passes that several sweeps share.")
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Say what would be run and compared; stop.")
    ] = False,
    redo: Annotated[
        bool, Option("--redo", help="Delete and remake stages made with other settings.")
    ] = False,
    assignments: Annotated[
        list[str] | None,
        Option("--set", metavar="a.b=c", help="Override one key of the sweep file; repeatable."),
    ] = None,
) -> None:
    """Compare arms over settings and seeds. A recipe with lists in place of values."""
    from infifusion.sweep.file import load_sweep

    loaded, runs = load_sweep(sweep_file, assignments or [])
    if dry_run:
        for run in runs:
            typer.echo(f"{run.folder}: {', '.join(run.arms)}")
        typer.echo(f"Compared with {', '.join(runs[0].against) or 'nothing'}.")
        typer.echo("Next: the same command without --dry-run.")
        return
    for run in runs:
        work_offline_for(run.recipe)
    from infifusion.sweep.run import run_sweep

    run_sweep(
        loaded,
        runs,
        run_dir or Path("runs") / loaded.name,
        command=this_command(),
        jobs=jobs,
        shared=shared,
        redo=redo,
    )


def demo(
    run_dir: Annotated[Path, Option(help="Folder of the demo.")] = Path("runs/demo"),
    seed: Annotated[int, Option(help="Decides every random choice.")] = 0,
) -> None:
    """Make four tiny models, fuse them, report; offline. Takes about five minutes on two cores."""
    from infifusion.recipe import load_recipe
    from infifusion.setup.suite import make_suite
    from infifusion.stages.run import run_recipe

    recipe = make_suite(run_dir / "suite", seed=seed)
    run_recipe(
        load_recipe(recipe),
        run_dir,
        until="report",
        recipe_file=recipe,
        command=this_command(),
    )
