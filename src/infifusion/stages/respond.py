"""respond: one source answers every prompt, and how unsure it was of each answer is measured."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.data.prompts import prompt_files, read_prompts, write_responses_of
from infifusion.data.store import load_answers, write_answers
from infifusion.data.tokenize import Tokenized, as_rendered, without_end
from infifusion.engine.tail import KIND
from infifusion.process.bar import progress_bar
from infifusion.process.memory import BatchSize
from infifusion.recipe import Model, Recipe, WriteResponses, as_json
from infifusion.stages.rendering import open_renderer
from infifusion.store.folders import RunFolder
from infifusion.store.hashes import sha256_of_text
from infifusion.store.identity import running_identity, tokenizer_fields
from infifusion.store.receipts import FilePieces
from infifusion.store.records import Json, read_record
from infifusion.store.stage import Finished, Parts, Stage, Work, run_stage
from infifusion.teacher.answer import Answer, Here, Sampling, answer_by
from infifusion.teacher.elsewhere import ENGINE, Behind, in_engine
from infifusion.types import Example, Prompt, Written

FAULTS = ("unfinished", "empty", "no_room", "unreadable")


def respond(recipe: Recipe, folder: RunFolder, name: str) -> None:
    """Write respond/<name>: the answers of the source `name`, in shards of whole prompts.

    The parts are the shards. A finished stage is skipped without loading the model.
    """
    asked = write_responses_of(recipe)
    stage = Stage(
        title=f"respond {name}",
        folder=folder.respond(name),
        fingerprint=_fingerprint(recipe, asked, recipe.sources[name]),
        work=partial(_work, recipe, asked, folder, name),
    )
    run_stage(stage, folder)


def _work(recipe: Recipe, asked: WriteResponses, folder: RunFolder, name: str) -> Work:
    out = folder.respond(name)
    prompts, left_out = read_prompts(asked.prompts, seed=recipe.seed)
    size = asked.shard_prompts
    some = {
        out / f"shard-{shard:05d}.jsonl": prompts[begin : begin + size]
        for shard, begin in enumerate(range(0, len(prompts), size))
    }
    shards = list(some)

    def make(missing: list[Path]) -> Iterator[tuple[Path, Json]]:
        if not missing:
            return
        total = sum(len(some[path]) for path in missing)
        with (
            _writer(recipe, asked, name, out) as writer,
            progress_bar(f"respond {name}", total, "prompts") as meter,
        ):
            for path in missing:
                shard = shards.index(path)
                seed = int(sha256_of_text(str(recipe.seed), name, str(shard))[:8], 16)
                write_answers(path, writer.answers(some[path], seed, meter.advance))
                yield path, {}

    def finish() -> Finished:
        counts = _counts([one for path in shards for one in load_answers(path)], prompts)
        extra = {"left_out": left_out, "shards": len(shards)}
        if recipe.sources[name].engine is not None:
            extra["engine"] = {**read_record(out / ENGINE), "entropy": KIND}
        files = [*out.glob(ENGINE), *shards]
        return Finished(files=files, counts={**counts, **extra}, said=_in_words(counts))

    return Work(finish, Parts(shards, FilePieces(out), make))


@contextmanager
def _writer(recipe: Recipe, asked: WriteResponses, name: str, out: Path) -> Iterator[Writer]:
    """The source, ready to answer, here or in its engine."""
    model = recipe.sources[name]
    if model.engine is None:
        yield Writer(recipe, asked, name, by=Here(model, recipe.teach))
        return
    with in_engine(model, where=f"sources.{name}", kept=out / ENGINE) as remote:
        yield Writer(recipe, asked, name, by=Behind(remote, model))


class Writer:
    """A source, ready, that answers prompts and says how unsure it was."""

    def __init__(
        self, recipe: Recipe, asked: WriteResponses, name: str, *, by: Here | Behind | None = None
    ) -> None:
        model = recipe.sources[name]
        self._by = by or Here(model, recipe.teach)
        self._sampling = Sampling(
            max_new_tokens=asked.max_new_tokens,
            batch_size=asked.batch_size,
            samples=asked.samples,
            temperature=asked.temperature,
            top_p=asked.top_p,
        )
        self._renderer = open_renderer(model, plain_template=recipe.data.plain_template)
        self._ends = self._by.ends(self._renderer.tokenizer, self._renderer.ends.stops)
        self._batch = BatchSize(
            asked.batch_size,
            setting="write_responses.batch_size",
            less="smaller write_responses.samples and max_new_tokens, quantization of the model",
        )

    def answers(
        self, prompts: list[Prompt], seed: int, advance: Callable[[int], object]
    ) -> list[Written]:
        """Every prompt's answers, in the order of the prompts; `advance(n)` per batch."""
        ids = self._renderer.prompt_ids(prompts)
        before, behind, own_ends = self._renderer.around(prompts[0])
        ends = sorted({*self._ends, *own_ends})
        names = [prompt.id for prompt in prompts]

        def work(size: int) -> dict[int, list[Answer]]:
            # From the seed on, so that the answers are those of a recipe with this size.
            sampling = replace(self._sampling, batch_size=size)
            made: dict[int, list[Answer]] = {}
            for batch in answer_by(
                lambda rows, at_once: self._by.run(rows, at_once, ends),
                ids,
                window=self._by.window,
                ends=ends,
                sampling=sampling,
                seed=seed,
                names=names,
            ):
                made |= batch
                advance(len(batch))
            return made

        found = self._batch.fit(work)
        advance(len(prompts) - len(found))
        no_room = [Answer([], finished=False)] * self._sampling.samples
        written: list[Written] = []
        for number, prompt in enumerate(prompts):
            for sample, one in enumerate(found.get(number, no_room)):
                text = self._renderer.text_of(one.ids).removeprefix(before)
                text = text.removesuffix(behind) if one.finished else text
                fault = "no_room" if number not in found else None if text.strip() else "empty"
                tokens = len(one.ids)
                written.append(Written(prompt.id, sample, text, tokens, one.finished, None, fault))
        return self._with_entropy(written, {prompt.id: prompt for prompt in prompts})

    def _with_entropy(self, written: list[Written], of: dict[str, Prompt]) -> list[Written]:
        """The same answers with their entropy per byte, by one pass over the finished texts.

        The text is tokenized anew, as it will be for training; a sampled answer that its tokenizer
        would have cut otherwise is judged by the text, not by the accident of its tokens.
        """
        examples = {
            place: Example(
                f"{one.prompt} (answer {one.sample})",
                of[one.prompt].domain,
                of[one.prompt].messages,
                one.response,
            )
            for place, one in enumerate(written)
            if one.fault is None
        }
        window = self._by.window
        done, marked = list(written), dict[int, Tokenized]()
        tokenized = self._renderer.tokenize_fitting(list(examples.values()))
        for place, one in zip(examples, tokenized, strict=True):
            if one is None:
                done[place] = replace(done[place], fault="unreadable")
            elif window is not None and len(one.ids) > window:
                done[place] = replace(done[place], fault="no_room")
            else:
                marked[place] = one
        if not marked:
            return done
        rendered = as_rendered(list(marked.values()))
        names = [examples[place].id for place in marked]
        entropy_U = self._by.entropy(rendered, names)
        nats_N = without_end(entropy_U, rendered.start_R, rendered.row_N1)
        for place, nats in zip(marked, nats_N.tolist(), strict=True):
            size = len(done[place].response.encode())
            done[place] = replace(done[place], entropy=round(nats / size, 7))
        return done


def _fingerprint(recipe: Recipe, asked: WriteResponses, model: Model) -> dict[str, Any]:
    """What decides the answers; how one is chosen from them does not."""
    later = {"tests", "code", "choose", "params"}
    return {
        "model": running_identity(model),
        **({} if model.engine is None else {"entropy": KIND}),
        "tokenizer": tokenizer_fields(model),
        "plain_template": recipe.data.plain_template,
        "prompts": [
            {key: value for key, value in as_json(source).items() if key not in later}
            for source in asked.prompts
        ],
        "files": prompt_files(asked),
        "sampling": {
            key: value
            for key, value in as_json(asked).items()
            if key in ("max_new_tokens", "batch_size", "samples", "temperature", "top_p")
        },
        "shard_prompts": asked.shard_prompts,
        "seed": recipe.seed,
    }


def _counts(answers: list[Written], prompts: list[Prompt]) -> dict[str, Any]:
    domain_of = {prompt.id: prompt.domain for prompt in prompts}
    entropies: dict[str, list[float]] = defaultdict(list)
    for one in answers:
        if one.entropy is not None:
            entropies[domain_of[one.prompt]].append(one.entropy)
    faults = Counter(one.fault for one in answers if one.fault is not None)
    faults["unfinished"] = sum(one.fault is None and not one.finished for one in answers)
    return {
        "prompts": len(prompts),
        "answers": len(answers),
        "tokens": sum(one.tokens for one in answers),
        "faults": {fault: faults[fault] for fault in FAULTS},
        "entropy_per_byte": {
            domain: round(float(np.mean(values)), 4) for domain, values in sorted(entropies.items())
        },
    }


def _in_words(counts: dict[str, Any]) -> str:
    faults = ", ".join(f"{n} {fault.replace('_', ' ')}" for fault, n in counts["faults"].items())
    entropy = ", ".join(f"{d} {value:.3f}" for d, value in counts["entropy_per_byte"].items())
    return f"{counts['answers']} answers ({faults}); nats per byte: {entropy or 'none'}"
