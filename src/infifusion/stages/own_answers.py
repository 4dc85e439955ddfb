"""Answers of the pivot as texts, and as the tokens of every model that is to see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from infifusion.data.drawn import as_drawn
from infifusion.data.examples import read_examples
from infifusion.data.overlap import without_overlap
from infifusion.data.prompts import read_prompts
from infifusion.data.store import load_examples
from infifusion.data.tokenize import Tokenized
from infifusion.errors import DataError
from infifusion.process.runaway import added, means
from infifusion.process.runtime import log
from infifusion.recipe import FuseTarget, Recipe, TrainingRun
from infifusion.stages.rendering import Renderer, open_renderer
from infifusion.store.durable import files_in
from infifusion.store.folders import PIVOT, RunFolder, model_called
from infifusion.store.records import Json, read_json, write_json
from infifusion.teacher.load import window_in_config
from infifusion.train.own_text import Drawn
from infifusion.train.rounds import ROUNDS, sheets_of
from infifusion.types import Example, Prompt

SHEET = "on_policy.json"
SAMPLES = 2
"""Answers of a shown round that are kept token by token."""
NOT_TEXT = "\N{REPLACEMENT CHARACTER}"


class Asked(NamedTuple):
    """The prompts of a run, with the pivot's tokens of each and those that end its turn."""

    prompts: list[Prompt]
    ids: list[list[int]]
    ends: list[int]


class Answer(NamedTuple):
    """One answer that can be learnt. place: among those that were drawn; texts: its tokens, for the
    pivot (as drawn) and each source."""

    place: int
    example: Example
    finished: bool
    texts: dict[str, Tokenized]


@dataclass
class Readers:
    """Every model's way to write conversations. keep_cut: answers that ran out of room are given
    to the sources, too. as_it_is: only answers that every model writes as they are."""

    renderers: dict[str, Renderer]
    longest: dict[str, int]
    keep_cut: bool
    as_it_is: bool
    around: tuple[str, str] = ("", "")
    _sizes_V: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self._sizes_V = np.array([len(piece) for piece in self._pivot.table.bytes_V])

    @property
    def _pivot(self) -> Renderer:
        return self.renderers[PIVOT]

    def asked(
        self, recipe: Recipe, folder: RunFolder, run: TrainingRun, chosen: NDArray[np.int64] | None
    ) -> Asked:
        """What the pivot is to answer. chosen: the run's training examples. DataError where there
        is nothing that fits."""
        prompts = _prompts(recipe, folder, run, chosen)
        limit = self.longest[PIVOT]
        all_ids = self._pivot.prompt_ids(prompts)
        fitting = [n for n, ids in enumerate(all_ids) if len(ids) < limit]
        if not fitting:
            raise DataError(
                f"distill.{run.name}.on_policy: none of {len(prompts)} prompts is shorter than the "
                f"{limit} tokens that data.max_length and the pivot's window allow."
            )
        if long := len(prompts) - len(fitting):
            log.info("distill %s: %d prompts of %d tokens or more left out", run.name, long, limit)
        kept = [prompts[n] for n in fitting]
        before, behind, ends = self._pivot.around(kept[0])
        self.around = before, behind
        return Asked(kept, [all_ids[n] for n in fitting], sorted({*self._pivot.ends.stops, *ends}))

    def read(
        self, prompts: Sequence[Prompt], drawn: Sequence[Drawn]
    ) -> tuple[list[Json], list[Answer]]:
        """(a line for every answer, those that all models can be given)."""
        lines = [self._line(prompts[one.prompt], one) for one in drawn]
        examples = {
            place: Example(
                f"{line['prompt']} (answer {place + 1})",
                line["domain"],
                prompts[drawn[place].prompt].messages,
                line["answer"],
            )
            for place, line in enumerate(lines)
            if line["fault"] is None
        }
        texts = {
            name: renderer.tokenize_each(list(examples.values()))
            for name, renderer in self.renderers.items()
        }
        answers = []
        for number, (place, example) in enumerate(examples.items()):
            found = {name: tokenized[number] for name, tokenized in texts.items()}
            faults = [self._fault(name, one) for name, one in found.items()]
            fault = next(filter(None, faults), None)
            fitting = {n: one for n, one in found.items() if isinstance(one, Tokenized)}
            if fault is None:
                one = drawn[place]
                own = as_drawn(
                    fitting[PIVOT],
                    one.ids,
                    finished=one.finished,
                    sizes_V=self._sizes_V,
                    special_V=self._pivot.table.special_V,
                )
                if own is None:
                    fault = "control"
                else:
                    texts_of = {**fitting, PIVOT: own}
                    answers.append(Answer(place, example, one.finished, texts_of))
            lines[place]["fault"] = fault
        return lines, answers

    def _line(self, prompt: Prompt, one: Drawn) -> Json:
        """What is kept of an answer. fault: why it cannot be learnt, or None."""
        text = self._pivot.text_of(one.ids[:-1] if one.finished else one.ids)
        text = text.removeprefix(self.around[0])
        text = text.removesuffix(self.around[1]) if one.finished else text
        fault = None
        if not one.finished and not self.keep_cut:
            fault = "cut_off"
        elif not text.strip():
            fault = "empty"
        elif NOT_TEXT in text:
            fault = "unreadable"
        said = {"prompt": prompt.id, "domain": prompt.domain, "answer": text}
        return {**said, "tokens": len(one.ids), "finished": one.finished, "fault": fault}

    def _fault(self, name: str, one: Tokenized | str) -> str | None:
        """Why a model cannot be given an answer."""
        if isinstance(one, str):
            return "unreadable"
        if len(one.ids) > self.longest[name]:
            return "too_long"
        if one.control is not None:
            return "control"
        if self.as_it_is and (one.unreasoned or one.private is not None):
            return "written_otherwise"  # its tokens do not say all of the text
        return None


def require_speakers(
    target: FuseTarget, open_of: Mapping[str, NDArray[np.bool_]], asked: Mapping[str, int]
) -> None:
    """DataError where a gate by domain knows nothing of some prompts, or lets no source speak of
    any of them; a line in the log where it lets none speak of some. open_of: what it says of each
    domain, [S]; asked: prompts of each."""
    where = f"fuse.{target.name}.gate: domain"
    if unknown := sorted(asked.keys() - open_of.keys()):
        raise DataError(
            f"{where} compares on the training examples, and prepare left none of "
            f"{', '.join(unknown)}. Add examples, or take gate: none."
        )
    silent = {d: n for d, n in asked.items() if not open_of[d][: len(target.sources)].any()}
    if len(silent) == len(asked):
        raise DataError(
            f"{where} lets no source speak: none predicts more than half of the training responses "
            f"of {', '.join(silent)} better than the pivot, so there is nothing to learn of its "
            "answers. Take other sources, or gate: none."
        )
    for domain, count in silent.items():
        log.warning("%s lets no source speak of %s: %d prompts in vain", where, domain, count)


def open_readers(recipe: Recipe, names: Sequence[str], run: TrainingRun) -> Readers:
    """Those of the pivot and of these models."""
    assert run.on_policy is not None
    renderers, longest = {}, {}
    for name in dict.fromkeys([PIVOT, *names]):
        model = model_called(recipe, name)
        renderers[name] = open_renderer(model, plain_template=recipe.data.plain_template)
        longest[name] = min(recipe.data.max_length, window_in_config(model) or 2**31)
    return Readers(
        renderers,
        longest,
        keep_cut=run.on_policy.cut_off == "keep",
        as_it_is=run.on_policy.form == "policy_gradient",
    )


def _prompts(
    recipe: Recipe, folder: RunFolder, run: TrainingRun, chosen: NDArray[np.int64] | None
) -> list[Prompt]:
    """Those of data.prompts, or else of the run's training examples, each once; prompts with
    functions that may be called apart, as every model writes calls in its own way."""
    if recipe.data.prompts:
        found, left_out = read_prompts(recipe.data.prompts, seed=recipe.seed, where="data.prompts")
        for why, count in left_out.items():
            if count:
                log.info("data.prompts: %d left out: %s", count, why.replace("_", " "))
        prompts = [p for p in found if run.domains is None or p.domain in run.domains]
        if run.domains is not None and not prompts:
            raise DataError(
                f"distill.{run.name}.domains: data.prompts holds none of {', '.join(run.domains)}. "
                "Give prompts of these domains, or leave out `domains`."
            )
        return _clean(recipe, run, prompts)
    examples = load_examples(folder.examples("train"))
    numbers = range(len(examples)) if chosen is None else chosen.tolist()
    some = [examples[n] for n in numbers if not examples[n].tools and examples[n].answer is None]
    once = {str(example.prompt): example for example in some}
    if not once:
        raise DataError(
            f"distill.{run.name}.on_policy: all training examples call functions, which the pivot "
            "cannot be corrected in; give data.prompts."
        )
    return [Prompt(e.id, e.domain, e.prompt, 0, None, None) for e in once.values()]


def _clean(recipe: Recipe, run: TrainingRun, prompts: list[Prompt]) -> list[Prompt]:
    """The prompts without those that overlap data.decontaminate."""
    data = recipe.data
    if not data.decontaminate:
        return prompts
    evaluation = [e for s in data.decontaminate for e in read_examples(s, seed=recipe.seed)[0]]
    asked = [Example(str(n), p.domain, p.messages, "") for n, p in enumerate(prompts)]
    clean = without_overlap(asked, evaluation, length=data.decontaminate_ngram)
    if gone := len(asked) - len(clean):
        log.info("distill %s: %d prompts that overlap data.decontaminate left out", run.name, gone)
    if not clean:
        raise DataError(
            "Every one of data.prompts overlaps data.decontaminate. Give other prompts."
        )
    return [prompts[int(one.id)] for one in clean]


def with_own(
    samples: list[Json],
    names: list[str],
    row_N1: NDArray[np.int64],
    own_T: NDArray[np.float32],
    advantage_T: NDArray[np.float32] | None,
) -> list[Json]:
    """The first of some answers token by token (stages.teaching), with the probability that the
    pivot gave each token and its advantage, where there is one. names: of all answers."""
    for sample in samples[:SAMPLES]:
        first = int(row_N1[names.index(sample["id"])])
        for t, token in enumerate(sample["tokens"], first):
            token["own"] = round(float(np.exp(own_T[t])), 4)
            if advantage_T is not None:
                token["advantage"] = round(float(advantage_T[t]), 4)
    return samples[:SAMPLES]


def write_sheet(out: Path) -> list[Path]:
    """Put the rounds of a finished run together in out/on_policy.json: figures of each, and sample
    answers token by token. Returns the files to sign; none where the run had no rounds."""
    rounds = {n: [read_json(path) for path in paths] for n, paths in sheets_of(out).items()}
    if not rounds:
        return []
    sums = {number: added(part["figures"] for part in parts) for number, parts in rounds.items()}
    sheet = {
        "rounds": [
            {"round": number, "answers": total.get("answers", 0), **means(total)}
            for number, total in sums.items()
        ],
        "samples": [
            {"round": number, **sample}
            for number, parts in rounds.items()
            for part in parts
            for sample in part["samples"]
        ],
    }
    write_json(out / SHEET, sheet)
    return [out / SHEET, *files_in(out / ROUNDS)]


def in_words(recipe: Recipe, run: TrainingRun) -> str:
    """What the pivot writes of what it learns."""
    if (own := run.on_policy) is None:
        return ""
    asked = "data.prompts" if recipe.data.prompts else "the training examples' prompts"
    return (
        f"; the pivot writes {100 * own.share:.0f} % of it: answers to {asked}, at most "
        f"{own.max_new_tokens} tokens, {own.form.replace('_', ' ')}"
    )
