"""respond: one source answers every prompt, and how unsure it was of each answer is measured."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.data.prompts import read_prompts
from infifusion.data.questions import prompt_files, write_responses_of
from infifusion.data.store import load_answers, write_answers
from infifusion.data.tokenize import Tokenized, as_rendered, without_end
from infifusion.process.bar import progress_bar
from infifusion.process.memory import BatchSize
from infifusion.process.runtime import log, rank
from infifusion.recipe import Model, Recipe, WriteResponses, as_json
from infifusion.stages.rendering import Renderer, open_renderer
from infifusion.store.artifacts import State, close_stage, open_stage
from infifusion.store.folders import RunFolder
from infifusion.store.hashes import sha256_of_text
from infifusion.store.identity import model_identity, tokenizer_of
from infifusion.store.receipts import FilePieces
from infifusion.store.spread import my_part, wait_for
from infifusion.teacher.answer import Answer, Sampling, answer, end_ids, window_of
from infifusion.teacher.forward import Teacher, believe, make_teacher
from infifusion.teacher.load import load_model
from infifusion.types import Beliefs, Example, Prompt, Written

FAULTS = ("unfinished", "empty", "no_room", "unreadable")


def respond(recipe: Recipe, folder: RunFolder, name: str) -> None:
    """Write respond/<name>: the answers of the source `name`, in shards of whole prompts.

    A stage that was stopped goes on with its missing or damaged shards; a finished one is skipped
    without loading the model. Processes share the shards; the first one signs.
    """
    asked = write_responses_of(recipe)
    model, out = recipe.sources[name], folder.respond(name)
    fingerprint = _fingerprint(recipe, asked, model)
    if open_stage(out, fingerprint, redo=folder.redo) is State.DONE:
        return
    started = time.monotonic()
    prompts, left_out = read_prompts(asked.prompts, seed=recipe.seed)
    size = asked.shard_prompts
    shards = range((len(prompts) + size - 1) // size)
    pieces = FilePieces(out)
    missing = [shard for shard in my_part(shards) if pieces.must_be_made(shard_path(out, shard))]
    if missing:
        writer = Writer.of(recipe, asked, name)
        total = sum(len(prompts[shard * size : (shard + 1) * size]) for shard in missing)
        with progress_bar(f"respond {name}", total, "prompts") as meter:
            for shard in missing:
                some = prompts[shard * size : (shard + 1) * size]
                seed = int(sha256_of_text(str(recipe.seed), name, str(shard))[:8], 16)
                done = writer.answers(some, seed, meter.advance)
                write_answers(shard_path(out, shard), done)
                pieces.sign(shard_path(out, shard))
    if rank() != 0:
        return
    paths = [shard_path(out, shard) for shard in shards]
    wait_for(paths, f"respond {name}", there=pieces.is_whole)
    counts = _counts([one for path in paths for one in load_answers(path)], prompts)
    close_stage(
        out,
        fingerprint,
        counts={**counts, "left_out": left_out, "shards": len(shards)},
        seconds=time.monotonic() - started,
        files=paths,
    )
    log.info("respond %s: %s", name, _in_words(counts))


def shard_path(out: Path, shard: int) -> Path:
    """Where a shard of answers lies."""
    return out / f"shard-{shard:05d}.jsonl"


class Writer:
    """A source, loaded, that answers prompts and says how unsure it was."""

    def __init__(self, renderer: Renderer, teacher: Teacher, sampling: Sampling) -> None:
        self._renderer, self._teacher, self._sampling = renderer, teacher, sampling
        self._ends = end_ids(teacher.model, renderer.tokenizer)
        self._batch = BatchSize(
            sampling.batch_size,
            setting="write_responses.batch_size",
            less="smaller write_responses.samples and max_new_tokens, quantization of the model",
        )
        self._tokens = BatchSize(
            teacher.batch_tokens, setting="teach.batch_tokens", less="a smaller teach.head_rows"
        )

    @classmethod
    def of(cls, recipe: Recipe, asked: WriteResponses, name: str) -> Writer:
        """Load the source `name`."""
        model = recipe.sources[name]
        teacher = make_teacher(
            load_model(model),
            top_k=1,
            batch_tokens=recipe.teach.batch_tokens,
            head_rows=recipe.teach.head_rows,
        )
        sampling = Sampling(
            max_new_tokens=asked.max_new_tokens,
            batch_size=asked.batch_size,
            samples=asked.samples,
            temperature=asked.temperature,
            top_p=asked.top_p,
        )
        renderer = open_renderer(model, plain_template=recipe.data.plain_template)
        return cls(renderer, teacher, sampling)

    def answers(
        self, prompts: list[Prompt], seed: int, advance: Callable[[int], object]
    ) -> list[Written]:
        """Every prompt's answers, in the order of the prompts; `advance(n)` per batch."""
        ids = self._renderer.prompt_ids(prompts)
        ends = sorted({*self._ends, *self._renderer.end_ids(prompts[0])})
        names = [prompt.id for prompt in prompts]

        def work(size: int) -> dict[int, list[Answer]]:
            # From the seed on, so that the answers are those of a recipe with this size.
            sampling = replace(self._sampling, batch_size=size)
            made: dict[int, list[Answer]] = {}
            for batch in answer(
                self._teacher.model, ids, ends=ends, sampling=sampling, seed=seed, names=names
            ):
                made |= batch
                advance(len(batch))
            return made

        found = self._batch.fit(work)
        advance(len(prompts) - len(found))
        written: list[Written] = []
        for number, prompt in enumerate(prompts):
            no_room = [Answer([], finished=False)] * self._sampling.samples
            for sample, one in enumerate(found.get(number, no_room)):
                text = self._renderer.text_of(one.ids)
                fault = "no_room" if number not in found else "" if text.strip() else "empty"
                written.append(
                    Written(
                        prompt.id, sample, text, len(one.ids), one.finished, None, fault or None
                    )
                )
        return self._with_entropy(written, {prompt.id: prompt for prompt in prompts})

    def _with_entropy(self, written: list[Written], of: dict[str, Prompt]) -> list[Written]:
        """The same answers with their entropy per byte, by one pass over the finished texts.

        The text is tokenized anew, as it will be for training; a sampled answer that its tokenizer
        would have cut otherwise is judged by the text, not by the accident of its tokens.
        """
        places = [place for place, one in enumerate(written) if one.fault is None]
        examples = [
            Example(
                f"{written[place].prompt} (answer {written[place].sample})",
                of[written[place].prompt].domain,
                of[written[place].prompt].messages,
                written[place].response,
            )
            for place in places
        ]
        window = window_of(self._teacher.model)
        marked: list[tuple[int, Example, Tokenized]] = []
        done = list(written)
        for place, example, one in zip(
            places, examples, self._renderer.tokenize_fitting(examples), strict=True
        ):
            if one is None:
                done[place] = replace(done[place], fault="unreadable")
            elif window is not None and len(one.ids) > window:
                done[place] = replace(done[place], fault="no_room")
            else:
                marked.append((place, example, one))
        for (place, _, _), value in zip(marked, self._entropies(marked), strict=True):
            size = len(done[place].response.encode())
            done[place] = replace(done[place], entropy=round(value / size, 7))
        return done

    def _entropies(self, marked: list[tuple[int, Example, Tokenized]]) -> list[float]:
        """Nats of each answer: entropies of its positions added up, the end of the turn apart."""
        if not marked:
            return []
        rendered = as_rendered([one for _, _, one in marked])
        names = [example.id for _, example, _ in marked]

        def work(size: int) -> Beliefs:
            sized = replace(self._teacher, batch_tokens=size)
            return believe(sized, rendered, 0, len(rendered), names=names)

        beliefs = self._tokens.fit(work)
        return without_end(beliefs.entropy_U, rendered.row_N1).tolist()


def _fingerprint(recipe: Recipe, asked: WriteResponses, model: Model) -> dict[str, Any]:
    """What decides the answers; how one is chosen from them does not."""
    later = {"tests", "code", "choose", "params"}
    return {
        "model": model_identity(model),
        "tokenizer": tokenizer_of(model),
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
