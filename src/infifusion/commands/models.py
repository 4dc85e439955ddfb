"""Commands that take models: merge, diff, align, evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from infifusion.commands.options import (
    AllowPickle,
    AsJson,
    ShardSize,
    Threads,
    show,
    work_offline_without_hub,
)
from infifusion.commands.push import PushResult, upload


def merge(
    merge_file: Annotated[Path, Argument(metavar="MERGE.yaml", help="The merge.")],
    out: Annotated[
        Path | None, Argument(metavar="OUT_DIR", help="New folder of the result.")
    ] = None,
    base: Annotated[
        str | None, Option(help="Base model, in place of the file's base_model.")
    ] = None,
    plan: Annotated[
        bool, Option("--plan", help="Print what would be read, written and needed; stop.")
    ] = False,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Check every tensor by the headers alone; stop.")
    ] = False,
    memory: Annotated[str | None, Option(help="Memory to stay under, such as 1GB.")] = None,
    threads: Threads = None,
    shard_size: ShardSize = "5GB",
    allow_nan: Annotated[
        bool, Option("--allow-nan", help="Go on where a tensor holds NaN or Inf.")
    ] = False,
    allow_pickle: AllowPickle = False,
    intermediates: Annotated[
        Path | None,
        Option(help="Keep here the results that later merges of the file take."),
    ] = None,
    push_to_hub: PushResult = None,
    as_json: AsJson = False,
) -> None:
    """Merge weights of models of one architecture. MERGE.yaml is mergekit's format."""
    from infifusion.commands.merge_models import merge_command

    if push_to_hub and (plan or dry_run):
        raise typer.BadParameter("--push-to-hub uploads a merge: leave out --plan and --dry-run.")
    if push_to_hub:
        from infifusion.commands.upload import check_login, check_repo

        check_repo(push_to_hub)
        check_login()
    text, values = merge_command(
        merge_file,
        out,
        base=base,
        plan_only=plan,
        dry_run=dry_run,
        memory=memory,
        threads=threads,
        shard_size=shard_size,
        allow_nan=allow_nan,
        allow_pickle=allow_pickle,
        intermediates=intermediates,
    )
    if push_to_hub and out:
        values["uploaded"] = upload(out, push_to_hub)
        text = f"{text}\n{values['uploaded']}"
    typer.echo(json.dumps(values) if as_json else text)


def moe(
    moe_file: Annotated[Path, Argument(metavar="MOE.yaml", help="Base, experts and prompts.")],
    out: Annotated[Path, Argument(metavar="OUT_DIR", help="New folder of the result.")],
    threads: Threads = None,
    shard_size: ShardSize = "5GB",
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
) -> None:
    """Make a mixture of experts of dense models. MOE.yaml is mergekit-moe's format."""
    from infifusion.commands.merge_models import moe_command

    text, values = moe_command(
        moe_file, out, threads=threads, shard_size=shard_size, allow_pickle=allow_pickle
    )
    typer.echo(json.dumps(values) if as_json else text)


def extract_lora(
    base: Annotated[str, Argument(metavar="BASE", help="The model that the adapter will fit.")],
    tuned: Annotated[str, Argument(metavar="TUNED", help="The model that it leads to.")],
    out: Annotated[Path, Argument(metavar="OUT_DIR", help="New folder of the adapter.")],
    rank: Annotated[int, Option(min=1, help="Rank of every matrix's change.")] = 16,
    seed: Annotated[int, Option(help="Decides the random vectors of the search.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a LoRA adapter of what two models differ in."""
    work_offline_without_hub([base, tuned])
    from infifusion.commands.merge_models import extract_command

    text, values = extract_command(base, tuned, out, rank=rank, seed=seed)
    typer.echo(json.dumps(values) if as_json else text)


def transplant_tokenizer(
    model: Annotated[str, Argument(metavar="MODEL", help="The model that gets other tokens.")],
    donor: Annotated[str, Argument(metavar="DONOR", help="The model whose tokens it gets.")],
    out: Annotated[Path, Argument(metavar="OUT_DIR", help="New folder of the result.")],
    method: Annotated[
        str, Option(help="omp: of shared tokens as in the donor; pieces: of its own tokens.")
    ] = "omp",
    count: Annotated[
        int | None, Option(min=1, help="omp: shared tokens that a new one is made of; 64.")
    ] = None,
    threads: Threads = None,
    shard_size: ShardSize = "5GB",
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
) -> None:
    """Give a model another's tokenizer, without training."""
    from infifusion.commands.merge_models import bytes_from
    from infifusion.commands.transplant import transplant_command

    text, values = transplant_command(
        model,
        donor,
        out,
        method=method,
        count=count,
        threads=threads,
        shard_bytes=bytes_from(shard_size, "--shard-size"),
        allow_pickle=allow_pickle,
    )
    typer.echo(json.dumps(values) if as_json else text)


def diff(
    models: Annotated[
        list[str], Argument(metavar="BASE MODEL", help="The base, then changed models.")
    ],
    html: Annotated[Path | None, Option(help="Write a page with heat maps here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say how models differ from a base. What to know before choosing a merge."""
    work_offline_without_hub(models)
    from infifusion.commands.diff_models import diff_command

    text, values = diff_command(models, html=html)
    typer.echo(json.dumps(values) if as_json else text)


def align(
    source: Annotated[str, Option(help="Tokenizer folder of the source.")],
    pivot: Annotated[str, Option(help="Tokenizer folder of the pivot.")],
    text: Annotated[Path, Option(help="A text file, or JSONL.")],
    field: Annotated[str | None, Option(help="Field of a JSONL file that holds the text.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say how well two tokenizers fit. Before any GPU is paid."""
    work_offline_without_hub([source, pivot])
    from infifusion.commands.align_tokenizers import align_table, align_tokenizers

    result = align_tokenizers(source=source, pivot=pivot, text=text, field=field)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        show(align_table(result))


def evaluate(
    models: Annotated[list[str], Argument(metavar="MODEL", help="Folders or hub names.")],
    tasks: Annotated[str, Option(help="Tasks, separated by commas (infifusion list).")],
    tasks_from: Annotated[
        str | None,
        Option(metavar="MODULE:TABLE", help="Further tasks, as evaluate.tasks_from."),
    ] = None,
    data: Annotated[
        Path | None, Option(help="Folder with the tasks' files; the hub by default.")
    ] = None,
    limit: Annotated[int | None, Option(min=1, help="Items per task.")] = None,
    out: Annotated[Path | None, Option(help="Folder for the per-item results.")] = None,
    batch_size: Annotated[int, Option(min=1, help="Prompts generated at once.")] = 16,
    max_new_tokens: Annotated[
        int | None, Option(min=1, help="Longest generation; each task's own by default.")
    ] = None,
    samples: Annotated[int, Option(min=1, help="Answers per item: pass@k, maj@k.")] = 1,
    temperature: Annotated[
        float, Option(min=0, help="0 is greedy; above, tokens are drawn by --seed.")
    ] = 0.0,
    top_p: Annotated[
        float, Option(max=1, help="Draw from the likeliest tokens that hold this share.")
    ] = 1.0,
    seed: Annotated[int, Option(min=0, help="Draws the items of --limit, and the tokens.")] = 0,
    unsafe_code: Annotated[
        bool, Option("--unsafe-code", help="Run generated code without a sandbox.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Score models on tasks. The first is compared with each of the others item by item."""
    work_offline_without_hub(models)
    from infifusion.commands.evaluate_models import evaluate_models
    from infifusion.process.runtime import set_up_logging
    from infifusion.process.threads import use_free_cores
    from infifusion.report.table import console_table, metrics_table

    set_up_logging()
    use_free_cores()
    result = evaluate_models(
        models,
        tasks=[task.strip() for task in tasks.split(",") if task.strip()],
        data=data,
        limit=limit,
        out=out,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        unsafe_code=unsafe_code,
        tasks_from=tasks_from,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    if as_json:
        typer.echo(json.dumps(result))
    else:
        show(console_table(result))
        if any(model["scores"] for model in result["models"].values()):
            show(metrics_table(result))
