"""choose: of the answers that the sources wrote to a prompt, one is kept to train on."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from infifusion.data.prompts import (
    prompt_files,
    read_prompts,
    responding_sources,
    write_responses_of,
)
from infifusion.data.store import load_answers, write_lines
from infifusion.errors import ArtifactError, DataError
from infifusion.evals.scoring import Tools
from infifusion.process.bar import track
from infifusion.recipe import Recipe, WriteResponses, as_json
from infifusion.stages.decide import Decided, choosers_of, decided, rules_of
from infifusion.stages.rendering import open_renderer
from infifusion.store.artifacts import STARTED, read_manifest
from infifusion.store.folders import PIVOT, RunFolder
from infifusion.store.identity import stage_identity, tokenizer_fields
from infifusion.store.records import Json, write_json
from infifusion.store.stage import Finished, Stage, run_stage
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
    stage = Stage(
        title="choose",
        folder=folder.choose,
        fingerprint={
            "write_responses": as_json(asked),
            "sources": names,
            "files": prompt_files(asked),
            **rules_of(asked),
            "respond": {name: stage_identity(folder.respond(name)) for name in names},
            "tokenizers": {name: tokenizer_fields(model) for name, model in models.items()},
            "plain_template": recipe.data.plain_template,
            "seed": recipe.seed,
        },
        reads=[folder.respond(name) for name in names],
        work=partial(_work, recipe, asked, folder, names),
        first_process_only=True,
    )
    run_stage(stage, folder)


def _work(recipe: Recipe, asked: WriteResponses, folder: RunFolder, names: list[str]) -> Finished:
    prompts, left_out = read_prompts(asked.prompts, seed=recipe.seed)
    answers = {name: _answers_of(folder, name, prompts) for name in names}
    with Tools(unsafe_code=asked.unsafe_code) as judges:
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
    samples = folder.choose / "samples.json"
    write_lines(folder.responses, lines)
    write_json(samples, {"samples": _samples(every, lines)})
    return Finished(files=[folder.responses, samples], counts=counts, said=_in_words(counts))


def _answers_of(folder: RunFolder, name: str, prompts: list[Prompt]) -> dict[str, list[Written]]:
    """The answers of one source by prompt; ArtifactError where the prompts are others."""
    out = folder.respond(name)
    found: dict[str, list[Written]] = defaultdict(list)
    for shard in sorted(read_manifest(out, made_by="respond")["files"]):
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
    prompt, winner = one.prompt, one.winner
    if winner is None:
        return None
    return Example(prompt.id, prompt.domain, prompt.messages, winner.response, winner.source)


def _line(one: Decided, asked: WriteResponses) -> Json:
    """One line of responses.jsonl: the winner, and every answer's score, whether it took part, and
    its vote."""
    winner, votes = one.winner, iter(one.choice.votes)
    return {
        "id": one.prompt.id,
        "domain": one.prompt.domain,
        "prompt": list(one.prompt.messages),
        "response": winner and winner.response,
        "winner": winner and winner.source,
        "sample": winner and winner.sample,
        "why": one.choice.why,
        "chooser": asked.prompts[one.prompt.part].choose or asked.choose,
        "answers": [
            {
                "source": name,
                "sample": written.sample,
                "entropy_per_byte": written.entropy,
                "bytes": len(written.response.encode()),
                "no_part": why,
                "vote": None if why else next(votes),
            }
            for name, written, why in one.answers
        ],
    }


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


def _samples(every: list[Decided], lines: list[Json]) -> list[Json]:
    """The first prompts of each domain with every answer's text, for the report."""
    shown: Counter[str] = Counter()
    samples = []
    for one, line in zip(every, lines, strict=True):
        shown[line["domain"]] += 1
        if shown[line["domain"]] <= SAMPLES_PER_DOMAIN:
            answers = zip(line["answers"], one.answers, strict=True)
            samples.append(
                {
                    "id": line["id"],
                    "domain": line["domain"],
                    "prompt": "\n".join(message["content"] for message in line["prompt"]),
                    **{key: line[key] for key in ("winner", "sample", "why")},
                    "answers": [{**score, "response": w.response} for score, (_, w, _) in answers],
                }
            )
    return samples


def _in_words(counts: dict[str, Any]) -> str:
    won = ", ".join(f"{name} {sum(by.values())}" for name, by in counts["won"].items())
    dropped = ", ".join(
        f"{sum(by.values())} {why.replace('_', ' ')}" for why, by in counts["dropped"].items()
    )
    return f"{sum(counts['prompts'].values())} prompts; won: {won}; dropped: {dropped or 'none'}"
