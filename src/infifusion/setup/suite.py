"""The demo's folder: data, three specialists, a weak pivot and the recipe that fuses them."""

from __future__ import annotations

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from infifusion.data.lines import write_lines
from infifusion.data.tokenize import as_rendered
from infifusion.demo.domains import DOMAINS, Problem, code_test, drills, problems
from infifusion.demo.models import PIVOT, SOURCES, Settings, new_model
from infifusion.process.bar import progress_bar
from infifusion.process.runtime import log, quiet_libraries, set_up_logging
from infifusion.recipe import Model
from infifusion.stages.rendering import tokenize_examples
from infifusion.store.artifacts import State, close_stage, open_stage
from infifusion.store.durable import atomic_write
from infifusion.store.hashes import sha256_of_text
from infifusion.train.job import Job
from infifusion.train.run import train
from infifusion.types import Example, Message

DISTILL_PER_DOMAIN = 600
WRONG_LABELS = 0.4
TEST_PER_DOMAIN = 300


def make_suite(folder: Path, *, seed: int) -> Path:
    """Write data, models and recipe.yaml into `folder`; returns the recipe's path.

    Finished models are kept, so an interrupted demo goes on.
    """
    set_up_logging()
    quiet_libraries()
    folder.mkdir(parents=True, exist_ok=True)
    _write_data(folder / "data", seed)
    wanted = {"pivot": PIVOT, **SOURCES}
    missing = [name for name in wanted if not (folder / name / "manifest.json").exists()]
    missing.sort(key=lambda name: -wanted[name].steps)  # the longest first: two end together
    if missing:
        log.info("Training %s from scratch, two at a time.", ", ".join(missing))
        context = multiprocessing.get_context("spawn")
        with (
            progress_bar("demo models", len(missing), "models") as meter,
            ProcessPoolExecutor(max_workers=2, mp_context=context) as pool,
        ):
            jobs = [pool.submit(make_model, folder, name, seed) for name in missing]
            for job in as_completed(jobs):
                job.result()
                meter.advance()
    recipe = folder / "recipe.yaml"
    text = files("infifusion.demo").joinpath("recipe.yaml").read_text(encoding="utf-8")
    with atomic_write(recipe) as temporary:
        temporary.write_text(text.replace("seed: 0", f"seed: {seed}"), encoding="utf-8")
    return recipe


def make_model(folder: Path, name: str, seed: int) -> None:
    """In a worker: one of the demo's models."""
    train_from_scratch(folder, name, PIVOT if name == "pivot" else SOURCES[name], seed)


def train_from_scratch(folder: Path, name: str, settings: Settings, seed: int) -> None:
    """Train one model on clean problems, on one thread, and write it to folder/name/model.

    A finished one is kept. The model's weights and problems are drawn by its name and the seed.
    """
    import torch

    torch.set_num_threads(1)
    set_up_logging()
    quiet_libraries()
    out = folder / name
    fingerprint = {"settings": sha256_of_text(_settings_text(settings)), "seed": seed}
    if open_stage(out, fingerprint) is State.DONE:
        return
    # Every model draws its own problems: sources and pivot share no training set.
    own_seed = int(sha256_of_text(name, str(seed))[:8], 16)
    made = [
        problem
        for domain, count in settings.counts.items()
        for problem in problems(domain, "train", count, seed=own_seed)
    ]
    for domain, count in settings.drills.items():
        made += drills(domain, count, seed=own_seed)
    examples = [as_example(problem, n) for n, problem in enumerate(made)]
    texts = [problem.prompt + problem.response for problem in made]
    tokenizer = settings.tokenizer(texts, size=settings.vocabulary)
    start = out / "start"
    tokenizer.save_pretrained(start)
    new_model(settings, tokenizer, own_seed).save_pretrained(start)
    tokenized = tokenize_examples(
        Model(model=str(start)),
        examples,
        plain_template="{prompt}{response}",
        title=f"tokenize {name}",
    )
    history = train(
        Job(
            title=f"demo {name}",
            model=Model(model=str(start)),
            tokenizer=tokenizer,
            rendered=as_rendered(tokenized),
            target=None,
            loss=None,
            gold_weight=1.0,
            loss_rows=4096,
            training={
                "max_steps": settings.steps,
                "per_device_train_batch_size": settings.batch,
                "learning_rate": settings.learning_rate,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 20,
                "weight_decay": 0.1,
                "adam_beta2": 0.98,
                "logging_steps": 50,
            },
            lora=None,
            seed=own_seed % 2**31,
        ),
        out,
        name_of=lambda n: examples[n].id,
    )
    shutil.rmtree(start)
    seconds = history.pop("seconds")
    model_files = list((out / "model").iterdir())
    close_stage(out, fingerprint, counts=history, seconds=seconds, files=model_files)
    log.info("%s: %d parameters, %.0f s", name, history["parameters"], seconds)


def as_example(problem: Problem, number: int) -> Example:
    """A problem as a training example."""
    prompt = (Message(role="user", content=problem.prompt),)
    return Example(f"{problem.domain}/{number}", problem.domain, prompt, problem.response)


def _settings_text(settings: Settings) -> str:
    plain = replace(settings, make=str, tokenizer=str)  # type: ignore[arg-type]
    return f"{plain} {settings.make(100)} {settings.tokenizer.__name__}"


def _write_data(folder: Path, seed: int) -> None:
    """train/: noisy problems to distil on; test/: clean ones whose keys nobody was trained on."""
    for domain in DOMAINS:
        noisy = problems(
            domain, "train", DISTILL_PER_DOMAIN, seed=10_000 + seed, noise=WRONG_LABELS
        )
        write_problems(folder / "train" / f"{domain}.jsonl", noisy)
        clean = problems(domain, "test", TEST_PER_DOMAIN, seed=20_000 + seed)
        write_problems(folder / "test" / f"demo_{domain}.jsonl", clean)


def write_problems(path: Path, made: list[Problem]) -> None:
    """One problem per line."""
    write_lines(path, (as_record(problem, number) for number, problem in enumerate(made)))


def as_record(problem: Problem, number: int) -> dict[str, str]:
    """A problem as a line of a data file; code comes with its test."""
    record = {
        "id": f"{problem.domain}-{number}",
        "key": problem.key,
        "prompt": problem.prompt,
        "response": problem.response,
        "answer": problem.answer,
    }
    return record | ({"test": code_test(problem)} if problem.domain == "code" else {})
