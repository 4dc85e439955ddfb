"""choose: of the answers that the sources wrote to a prompt, one is kept to train on."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from infifusion.data.prompts import read_prompts
from infifusion.data.questions import prompt_files, responding_sources, write_responses_of
from infifusion.data.store import load_answers, write_lines
from infifusion.errors import ArtifactError, DataError
from infifusion.process.bar import track
from infifusion.process.runtime import log, rank
from infifusion.recipe import Recipe, WriteResponses, as_json
from infifusion.stages.decide import Decided, Verifiers, choosers_of, decided
from infifusion.stages.rendering import open_renderer
from infifusion.store.artifacts import (
    STARTED,
    State,
    close_stage,
    open_stage,
    read_manifest,
    verify_files,
)
from infifusion.store.folders import PIVOT, RunFolder
from infifusion.store.identity import stage_identity, tokenizer_of
from infifusion.store.records import Json, write_json
from infifusion.types import Example, Prompt, Written

SAMPLES_PER_DOMAIN = 4


def choose(recipe: Recipe, folder: RunFolder) -> None:
    """Write choose/responses.jsonl (every prompt, its winner, all scores and votes), samples.json.

    Left out and counted: prompts without a usable answer, those for which the chooser keeps none,
    and winners that the pivot's or another source's tokenizer cannot give back.
    """
    asked = write_responses_of(recipe)
    names = responding_sources(recipe)
    models = {PIVOT: recipe.pivot, **recipe.sources}
    fingerprint = {
        "write_responses": as_json(asked),
        "sources": names,
        "files": prompt_files(asked),
        "respond": {name: stage_identity(folder.respond(name)) for name in names},
        "tokenizers": {name: tokenizer_of(model) for name, model in models.items()},
        "plain_template": recipe.data.plain_template,
        "seed": recipe.seed,
    }
    if open_stage(folder.choose, fingerprint, redo=folder.redo) is State.DONE or rank() != 0:
        return
    started = time.monotonic()
    prompts, left_out = read_prompts(asked.prompts, seed=recipe.seed)
    answers = {name: _answers_of(folder, name, prompts) for name in names}
    with Verifiers(unsafe_code=asked.unsafe_code) as judges:
        choosers = choosers_of(asked)

        def work(prompt: Prompt) -> Decided:
            return decided(prompt, answers, asked, choosers[prompt.part], judges)

        # Sandboxes run side by side; all else is quick, or has one process anyway.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            every = list(track(pool.map(work, prompts), "choose", len(prompts), "prompts"))
    every = _without_unreadable(every, recipe)
    lines = [_line(one, asked) for one in every]
    counts = {**_counts(lines, names), "left_out": left_out}
    if not any(line["winner"] for line in lines):
        (folder.choose / STARTED).unlink()  # nothing lies here: another recipe may begin
        raise DataError(
            f"write_responses: none of {len(prompts)} prompts got an answer that could be kept. "
            f"Dropped: {counts['dropped']}; answers that took no part: {counts['no_part']}. Raise "
            "max_new_tokens, set unfinished: keep, or choose otherwise."
        )
    write_lines(folder.responses, lines)
    write_json(folder.choose / "samples.json", {"samples": _samples(every)})
    close_stage(
        folder.choose,
        fingerprint,
        counts=counts,
        seconds=time.monotonic() - started,
        files=[folder.responses, folder.choose / "samples.json"],
    )
    log.info("choose: %s", _in_words(counts))


def _answers_of(folder: RunFolder, name: str, prompts: list[Prompt]) -> dict[str, list[Written]]:
    """The verified answers of one source by prompt; ArtifactError where the prompts are others."""
    out = folder.respond(name)
    manifest = read_manifest(out, made_by="respond")
    verify_files(out, manifest)
    found: dict[str, list[Written]] = defaultdict(list)
    for shard in sorted(manifest["files"]):
        for one in load_answers(out / shard):
            found[one.prompt].append(one)
    if list(found) != [prompt.id for prompt in prompts]:
        raise ArtifactError(
            f"{out} answers other prompts than the recipe's; a data set on the hub may have "
            f"changed meanwhile. Delete {out} and run again."
        )
    return found


def _without_unreadable(every: list[Decided], recipe: Recipe) -> list[Decided]:
    """Winners that some model of the run cannot mark in its own rendering are dropped.

    Data that people wrote stops the run there; what a model wrote may be anything.
    """
    found = [_example(one) for one in every]
    examples = {place: example for place, example in enumerate(found) if example is not None}
    unreadable: set[int] = set()
    for model in (recipe.pivot, *recipe.sources.values()):
        renderer = open_renderer(model, plain_template=recipe.data.plain_template)
        marked = renderer.tokenize_fitting(list(examples.values()))
        unreadable |= {place for place, one in zip(examples, marked, strict=True) if one is None}
    return [
        replace(one, choice=replace(one.choice, winner=None, why="unreadable"))
        if place in unreadable
        else one
        for place, one in enumerate(every)
    ]


def _example(one: Decided) -> Example | None:
    if one.choice.winner is None:
        return None
    winner = one.candidates[one.choice.winner]
    prompt = one.prompt
    return Example(prompt.id, prompt.domain, prompt.messages, winner.response, winner.source)


def _line(one: Decided, asked: WriteResponses) -> Json:
    """One line of responses.jsonl."""
    winner = None if one.choice.winner is None else one.candidates[one.choice.winner]
    return {
        "id": one.prompt.id,
        "domain": one.prompt.domain,
        "prompt": list(one.prompt.messages),
        "response": winner and winner.response,
        "winner": winner and winner.source,
        "sample": winner and winner.sample,
        "why": one.choice.why,
        "chooser": asked.prompts[one.prompt.part].choose or asked.choose,
        "answers": _scores(one),
    }


def _scores(one: Decided) -> list[Json]:
    """Every answer's score, whether it took part, and its vote."""
    votes = iter(one.choice.votes)
    return [
        {
            "source": name,
            "sample": written.sample,
            "entropy_per_byte": written.entropy,
            "bytes": len(written.response.encode()),
            "no_part": why,
            "vote": None if why else next(votes),
        }
        for name, written, why in one.answers
    ]


def _counts(lines: list[Json], names: list[str]) -> dict[str, Any]:
    """prompts by domain, won by source and domain, dropped by reason and domain, no_part by
    source and reason."""
    won: dict[str, Counter[str]] = {name: Counter() for name in names}
    dropped: dict[str, Counter[str]] = defaultdict(Counter)
    no_part: dict[str, Counter[str]] = {name: Counter() for name in names}
    for line in lines:
        if line["winner"]:
            won[line["winner"]][line["domain"]] += 1
        else:
            dropped[line["why"]][line["domain"]] += 1
        for answer in line["answers"]:
            if answer["no_part"]:
                no_part[answer["source"]][answer["no_part"]] += 1

    def plain(counters: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
        return {key: dict(sorted(counter.items())) for key, counter in counters.items()}

    return {
        "prompts": dict(sorted(Counter(line["domain"] for line in lines).items())),
        "won": plain(won),
        "dropped": dict(sorted(plain(dropped).items())),
        "no_part": plain(no_part),
    }


def _samples(every: list[Decided]) -> list[Json]:
    """The first prompts of each domain with every answer's text, for the report."""
    left: dict[str, int] = {}
    samples = []
    for one in every:
        domain = one.prompt.domain
        if left.setdefault(domain, SAMPLES_PER_DOMAIN):
            left[domain] -= 1
            winner = None if one.choice.winner is None else one.candidates[one.choice.winner]
            samples.append(
                {
                    "id": one.prompt.id,
                    "domain": domain,
                    "prompt": "\n".join(message["content"] for message in one.prompt.messages),
                    "winner": winner and winner.source,
                    "sample": winner and winner.sample,
                    "why": one.choice.why,
                    "answers": [
                        {**score, "response": written.response}
                        for score, (_, written, _) in zip(_scores(one), one.answers, strict=True)
                    ],
                }
            )
    return samples


def _in_words(counts: dict[str, Any]) -> str:
    won = ", ".join(f"{name} {sum(by.values())}" for name, by in counts["won"].items())
    dropped = ", ".join(
        f"{sum(by.values())} {why.replace('_', ' ')}" for why, by in counts["dropped"].items()
    )
    return f"{sum(counts['prompts'].values())} prompts; won: {won}; dropped: {dropped or 'none'}"
