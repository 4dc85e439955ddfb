"""The functions of `import infifusion`: what the commands do, from Python. Nothing heavy is
imported before one of them is called.

Axes: T positions, U positions of a source, S sources, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from transformers import PreTrainedTokenizerBase

    from infifusion.api.arrays import Alignment, Carried, Fused
    from infifusion.commands.run import Run, TrainingParts
    from infifusion.recipe import Recipe

    Tokenizer = str | Path | PreTrainedTokenizerBase


def __getattr__(name: str) -> Any:
    if name == "Run":
        from infifusion.commands.run import Run

        return Run
    raise AttributeError(f"module 'infifusion.api' has no attribute {name!r}")


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    run_dir: str | Path | None = None,
    *,
    until: str = "report",
    redo: bool = False,
) -> Run:
    """Run a recipe, as `infifusion run` does: finished stages are skipped.

    recipe: a YAML file, its values as a dict (relative paths from the working directory), or a
    Recipe. run_dir: runs/NAME by default. until: the last stage. redo: remake what was made with
    other settings. Raises RecipeError that lists everything wrong before anything is written.
    """
    from infifusion.commands.run import run_from_python

    return run_from_python(recipe, run_dir, until=until, redo=redo)


def training_parts(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    run: str,
    run_dir: str | Path | None = None,
) -> TrainingParts:
    """What a training run of a recipe would train with, for a Trainer or a loop of your own: data
    set, collator, and the fused loss inside of the model (docs/trainers.md).

    recipe: as in `run`. run: the name of an entry of distill. run_dir: runs/NAME by default; what
    the run needs (teacher passes, its target) is made there where it is not yet. Raises RecipeError
    where there is no such run.
    """
    from infifusion.commands.run import parts_of_run

    return parts_of_run(recipe, run_dir, run)


def merge_models(
    config: str | Path | Mapping[str, Any],
    out: str | Path,
    *,
    base: str | None = None,
    threads: int | None = None,
    allow_nan: bool = False,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """Merge the weights of models of one architecture into the new folder `out`.

    config: a merge file (mergekit's YAML), or its values as a dict (relative paths from the working
    directory). base: in place of its base_model. Returns what merge_details.json holds: method,
    models, and figures of every tensor. Raises RecipeError or CheckpointError for what does not
    fit, before anything is written.
    """
    from functools import partial

    from infifusion.commands.merge_models import merge_with_card
    from infifusion.commands.merge_several import merge_several
    from infifusion.merge.engine.file import merge_file_of, read_merges
    from infifusion.merge.engine.plan import checked_plan

    if isinstance(config, str | Path):
        path = Path(config)
        *before, (_, file) = read_merges(path, base_override=base)
    else:
        path = Path("merge")  # models are found from its folder, the working directory
        file = merge_file_of(dict(config), where="merge", base_override=base)
        before = []
    options = {"threads": threads, "allow_nan": allow_nan}
    if before:
        merge = partial(merge_with_card, **options)
        merges = [*before, (None, file)]
        _, details = merge_several(
            merges, path, Path(out), keep=None, pickle=allow_pickle, merge=merge
        )
        return details
    plan = checked_plan(file, path, pickle=allow_pickle)
    return merge_with_card(plan, file, Path(out), **options)


def align_texts(source: Tokenizer, pivot: Tokenizer, texts: str | Sequence[str]) -> Alignment:
    """Align two tokenizers on some texts: which position of the source predicts from the same byte
    as each of the pivot's, and which pivot token each source token stands for.

    source, pivot: a tokenizer, its folder or its hub name. `.coverage.share` says how well they
    fit; `.carry(probabilities)` brings a source's next-token distributions over, for
    `fuse_beliefs`.
    """
    from infifusion.api.arrays import align_arrays

    one, other = (str(t) if isinstance(t, str | Path) else t for t in (source, pivot))
    return align_arrays(one, other, [texts] if isinstance(texts, str) else list(texts))


def fuse_beliefs(
    sources: Sequence[ArrayLike | Carried],
    *,
    function: str = "uncertainty",
    params: Mapping[str, Any] | None = None,
    gold: ArrayLike | None = None,
    lengths: Sequence[int] | None = None,
    top_k: int = 64,
    keep: int | None = None,
) -> Fused:
    """Combine S sources' next-token distributions into one per position, and say what each weighed.

    sources: arrays [T, V] of probabilities over one vocabulary (a row of NaN where a source says
    nothing), or what `align_texts(...).carry` returned. function, params: a fusion function
    (`infifusion list`) and its parameters. gold: the token that is there, [T], for functions that
    weigh by it (bayes, min_ce, avg_ce); the last row of a text, its end, does not count for them.
    lengths: rows of each text, where there are several. top_k: entries kept of each source, the
    vocabulary's size for all; time grows with its square. keep: entries of the mixture, all by
    default. Returns ids, probabilities, tail and the weights [S, T]; `.dense(V)` is the mixture
    over the whole vocabulary.
    """
    from infifusion.api.arrays import fuse_arrays

    return fuse_arrays(
        sources,
        function=function,
        params=dict(params or {}),
        gold=gold,
        lengths=lengths,
        top_k=top_k,
        keep=keep,
    )


def evaluate(
    models: str | Path | Sequence[str | Path],
    tasks: str | Sequence[str],
    *,
    tasks_from: str | None = None,
    data: str | Path | None = None,
    limit: int | None = None,
    out: str | Path | None = None,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Score models on tasks (`infifusion list`, bits_per_byte), and compare the first with each of
    the others item by item.

    tasks_from: module:TABLE with further tasks, as infifusion.demo.tasks:TASKS. data: folder with
    the tasks' files; the hub by default. limit: items per task. out: folder for
    the per-item results. Generated code runs in the sandbox or not at all. samples, temperature,
    top_p: answers per item and how they are drawn, by `seed`; greedy by default. Returns
    {models: {NAME: {path, scores, bits_per_byte}}, comparisons: [...]}.
    """
    from infifusion.commands.evaluate_models import evaluate_models

    return evaluate_models(
        [str(model) for model in ([models] if isinstance(models, str | Path) else models)],
        tasks=[tasks] if isinstance(tasks, str) else list(tasks),
        data=None if data is None else Path(data),
        limit=limit,
        out=None if out is None else Path(out),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        unsafe_code=False,
        tasks_from=tasks_from,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )


def extract_program(output: str, prompt: str | None = None) -> str:
    """The Python program in a model's answer, as the code tasks judge it.

    output: the answer as it was written: with fences or without, words around the code, the whole
    function or the rest of it, examples of use, several variants (the first counts, or the one that
    is announced as its correction), reasoning before </think> (which is no answer). prompt: what
    was asked, code that the answer continues or words that name the function, such as tests; None
    keeps all that is defined. Returns imports, helpers and the asked function, without examples and
    tests; code that does not compile as it stands; "" where there is none.
    """
    from infifusion.evals import extract_program as extracted

    return extracted(output, prompt)


def final_answer(output: str) -> str | None:
    """The final answer of what a model wrote, as it stands there; None where there is none.

    It is what the last \\boxed{} or \\fbox{} holds; else what stands behind the last `####`; behind
    the last "the answer is"; the whole output, where it is nothing but an answer; the last number
    in bold; the last number; a few words. What stands before `</think>` is not looked at, and an
    output that never leaves its reasoning has no answer. GSM8K, MATH and `agreement` use it.
    """
    from infifusion.evals.math_worker import shared_worker

    return shared_worker().final_answer(output)


def same_answer(gold: str, answer: str | None) -> bool:
    """Whether two answers say the same, in LaTeX or plain text: exactly, not nearly.

    gold: the right one; answer: a model's, or what `final_answer` found. 1/2 is 0.5, .5 and 50 %;
    3 cm is 3, but not 3 m; (1,2) is not (2,1), but 1,2 is 2,1; x > 2 is (2, oo); x+2y=3 is
    2x+4y=6. docs/answers.md has all rules. Compared in a process of its own, which is stopped
    after 15 s: what cannot be decided by then, or is not understood, is not the same. Raises
    RunError where that process does not start.
    """
    from infifusion.evals.math_worker import shared_worker

    return shared_worker().same_answer(gold, answer)


def push(model_dir: str | Path, repo: str, *, public: bool = False) -> str:
    """Upload a model folder to the hub repository ORG/NAME, private unless `public`; returns its
    address. The token is that of `hf auth login` or HF_TOKEN."""
    from infifusion.commands.upload import push_model

    return push_model(Path(model_dir), repo, public=public)
