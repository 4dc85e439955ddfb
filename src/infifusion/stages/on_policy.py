"""On-policy fusion: what the sources of a target make of text that the pivot wrote.

Every source is given the text under its own template and cut by its own tokenizer, as the training
examples are; alignment and fusion function are those of the target.

Axes: S sources, N answers, T positions of the pivot, J spans of bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infifusion.align.boundaries import Positions
from infifusion.align.project import Believed
from infifusion.align.spans import advantages, token_advantages
from infifusion.data.files import files_of
from infifusion.data.store import load_rendered
from infifusion.data.tokenize import as_rendered, end_of_turn, gold_ids, without_end
from infifusion.losses.sparse import TAIL_FLOOR
from infifusion.recipe import FuseTarget, Recipe, TrainingRun, as_json
from infifusion.stages.combine import fuse_chunk, fusion_function, open_domains, positions
from infifusion.stages.online import Source, load_source
from infifusion.stages.own_answers import Answer, open_readers, require_speakers, with_own
from infifusion.stages.teaching import TeachingView
from infifusion.store.folders import PIVOT, RunFolder
from infifusion.store.hashes import sha256_of
from infifusion.store.identity import prepared_identity, running_identity, stage_identity
from infifusion.store.records import Json
from infifusion.teacher.calibrate import temperature_identity
from infifusion.train.own_text import Corrected, Drawn, OwnRows, OwnText, Pivot
from infifusion.types import Beliefs, Prompt, Target, lengths


def own_text(
    recipe: Recipe,
    folder: RunFolder,
    run: TrainingRun,
    chosen: NDArray[np.int64] | None,
    loaded: dict[str, Source],
) -> OwnText | None:
    """What a run needs to learn from its pivot's own text, if it does. chosen: the run's training
    examples; loaded: sources that are in memory already."""
    if run.on_policy is None:
        return None
    target = _target_of(recipe, run)
    corrector = Corrector(recipe, folder, target, run, loaded)
    asked = corrector.readers.asked(recipe, folder, run, chosen)
    corrector.require_speakers(asked.prompts)
    return OwnText(
        settings=run.on_policy,
        prompts=asked.ids,
        names=[prompt.id for prompt in asked.prompts],
        ends=asked.ends,
        batch_tokens=recipe.teach.batch_tokens,
        kept=target.keep,
        correct=partial(corrector.correct, asked.prompts),
    )


def _target_of(recipe: Recipe, run: TrainingRun) -> FuseTarget:
    return next(t for t in recipe.resolve().targets if t.name == run.target)


def read_by(recipe: Recipe, folder: RunFolder, run: TrainingRun) -> list[Path]:
    """Folders of finished stages that corrections are made from: the caches a gate compares."""
    if run.on_policy is None or (target := _target_of(recipe, run)).gate != "domain":
        return []
    return [folder.teach(name) for name in (*target.sources, PIVOT)]


def identity(recipe: Recipe, folder: RunFolder, run: TrainingRun) -> Json:
    """What decides the corrections, for the run's fingerprint; nothing without them."""
    if run.on_policy is None:
        return {}
    target = _target_of(recipe, run)
    data, prompts = recipe.data, recipe.data.prompts
    read = [*prompts, *(data.decontaminate if prompts else [])]
    models = [*target.sources, PIVOT]
    return {
        "corrected": {
            "target": as_json(target),
            "top_k": recipe.teach.top_k,
            "max_length": data.max_length,
            "sources": {
                name: {
                    **running_identity(recipe.sources[name]),
                    **temperature_identity(recipe.sources[name], folder, name),
                }
                for name in target.sources
            },
            "prepare": prepared_identity(folder, models),
            "prompts": [as_json(source) for source in prompts],
            "decontaminate_ngram": data.decontaminate_ngram,
            "files": {str(f): sha256_of(f) for source in read for f in files_of(source)},
            "gate": {path.name: stage_identity(path) for path in read_by(recipe, folder, run)},
        }
    }


class Corrector:
    """The sources of a target, ready to say what they make of answers."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        target: FuseTarget,
        run: TrainingRun,
        loaded: dict[str, Source],
    ) -> None:
        assert run.on_policy is not None
        self._recipe, self._target, self._settings = recipe, target, run.on_policy
        self._combine = fusion_function(target)
        self._names = [*target.sources, *([PIVOT] if target.pivot_as_source else [])]
        self._gradient = run.on_policy.form == "policy_gradient"
        self._extrapolates = run.on_policy.extrapolate != 1
        out = folder.distill(run.name)
        wanted: set[str] = {*self._names, *([PIVOT] if self._extrapolates else [])}
        self._sources = {
            name: loaded.get(name) or load_source(recipe, folder, target, name, out=out)
            for name in sorted(wanted)
        }
        self.readers = open_readers(recipe, self._names, run)
        self._end = end_of_turn(load_rendered(folder.rendered(PIVOT, "train")))
        self._open = open_domains(recipe, folder, target) if target.gate == "domain" else None
        self.temperatures = {n: self._sources[n].teacher.temperature for n in target.sources}

    def require_speakers(self, prompts: Sequence[Prompt]) -> None:
        """DataError where the gate knows nothing of a prompt's domain, or lets nobody speak."""
        if self._open is not None:
            require_speakers(self._target, self._open, Counter(one.domain for one in prompts))

    def correct(
        self,
        prompts: Sequence[Prompt],
        drawn: Sequence[Drawn],
        pivot: Pivot,
        shown: bool,
    ) -> Corrected:
        """What is to be learnt of some answers. shown: keep the first of them token by token."""
        sheet, answers = self.readers.read(prompts, drawn)
        faults = Counter(line["fault"] for line in sheet if line["fault"])
        figures: dict[str, float] = {
            "answers": len(drawn),
            "tokens": sum(len(one.ids) for one in drawn),
            "cut_off": sum(not one.finished for one in drawn),
            "learnt": len(answers),
            **{f"fault/{why}": count for why, count in sorted(faults.items())},
        }
        if not answers:
            rows = OwnRows.none(len(self._names), self._target.keep)
            return Corrected(rows, {"figures": figures, "answers": sheet, "samples": []})
        rendered = {
            name: as_rendered([one.texts[name] for one in answers]) for name in answers[0].texts
        }
        names = [one.example.id for one in answers]
        own = pivot(rendered[PIVOT], names)
        believed = [
            self._sources[name].believed(rendered[name], names, exact=True) for name in self._names
        ]
        gold_T = gold_ids(rendered[PIVOT])
        here = positions(rendered[PIVOT], self._with_usual_end(gold_T, answers), 0, len(answers))
        open_SN = self._may_speak([one.example.domain for one in answers])
        aligned, origins, fused = fuse_chunk(
            self._target, self._combine, believed, here, open_SN, zscores=False
        )
        learnt_T = self._learnt(answers, here, fused)
        advantage_T = np.zeros(len(learnt_T), np.float32)
        if self._gradient:
            reference = None
            if self._extrapolates:
                reference = self._sources[PIVOT].believed(rendered[PIVOT], names).beliefs
            parts = (believed, open_SN, fused, own, reference)
            advantage_T, spoken_T = self._advantage(here, gold_T, *parts)
            learnt_T &= spoken_T
        lines = [sheet[one.place] for one in answers]
        figures.update(self._figures(here, own, believed, fused, lines, open_SN))
        samples = []
        if shown:
            view = TeachingView(
                self._recipe,
                self._names,
                [one.example for one in answers],
                rendered[PIVOT],
                here.gold_R,
            )
            made = view.part(0, len(answers), aligned, origins, fused)["samples"]
            samples = with_own(
                made, names, here.row_N1, own.gold_U, advantage_T if self._gradient else None
            )
        rows = OwnRows(
            of_N=np.array([one.place for one in answers], np.int64),
            prompt_N=np.array([drawn[one.place].prompt for one in answers], np.int64),
            ids_L=rendered[PIVOT].ids_L,
            offset_N1=rendered[PIVOT].offset_N1,
            first_N=rendered[PIVOT].first_N,
            row_N1=rendered[PIVOT].row_N1,
            ids_TK=fused.ids_TK,
            prob_TK=fused.prob_TK,
            weight_ST=fused.weight_ST,
            learnt_T=learnt_T,
            before_T=own.gold_U,
            advantage_T=advantage_T,
        )
        return Corrected(rows, {"figures": figures, "answers": sheet, "samples": samples})

    def _with_usual_end(
        self, gold_T: NDArray[np.int32], answers: list[Answer]
    ) -> NDArray[np.int32]:
        """The tokens, with the pivot's usual end of turn in place of another one that stopped it: a
        source's end of turn stands for the usual one alone."""
        gold_T, last = gold_T.copy(), -1
        for one in answers:
            last += len(one.texts[PIVOT].starts)
            if self._end and gold_T[last] != self._end[-1]:
                gold_T[last] = self._end[0]
        return gold_T

    def _may_speak(self, domains: list[str]) -> NDArray[np.bool_] | None:
        """Which source may correct which answer, [S, N]; None without a gate."""
        if self._open is None:
            return None
        return np.stack([self._open[domain] for domain in domains], axis=1)

    def _learnt(self, answers: list[Answer], here: Positions, fused: Target) -> NDArray[np.bool_]:
        """Positions that a source teaches; not the end of a turn that the pivot did not end."""
        learnt_T = fused.taught_T.copy()
        length_T = lengths(here.start_R, here.row_N1)
        cut_N = np.array([not one.finished for one in answers])
        learnt_T[(here.start_R == length_T) & np.repeat(cut_N, np.diff(here.row_N1))] = False
        return learnt_T

    def _advantage(
        self,
        here: Positions,
        gold_T: NDArray[np.int32],
        believed: list[Believed],
        open_SN: NDArray[np.bool_] | None,
        fused: Target,
        own: Beliefs,
        reference: Beliefs | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Of every token, and whether a source speaks of it: [T] each."""
        everywhere = np.ones((len(believed), len(here.row_N1) - 1), bool)
        advantage_T, spoken_T = token_advantages(
            here,
            own.gold_U,
            [(one.positions, one.beliefs.gold_U) for one in believed],
            everywhere if open_SN is None else open_SN,
            fused.weight_ST,
            reference_T=None if reference is None else reference.gold_U,
            extrapolate=self._settings.extrapolate,
        )
        # Of another token that stopped the pivot the sources say what the target says.
        for last in np.flatnonzero(gold_T != here.gold_R).tolist():
            given = float(fused.prob_TK[last][fused.ids_TK[last] == gold_T[last]].sum())
            before_1 = None if reference is None else reference.gold_U[[last]]
            advantage_T[last] = advantages(
                np.log([max(given, TAIL_FLOOR)]),
                own.gold_U[[last]],
                before_1,
                extrapolate=self._settings.extrapolate,
            )[0]
        return advantage_T, spoken_T

    def _figures(
        self,
        here: Positions,
        own: Beliefs,
        believed: list[Believed],
        fused: Target,
        lines: list[Json],
        open_SN: NDArray[np.bool_] | None,
    ) -> dict[str, float]:
        """Sums over the answers; the divergence from each source goes into their lines, too."""
        figures: dict[str, float] = {
            "positions": len(own.entropy_U),
            "entropy": float(own.entropy_U.sum(dtype=np.float64)),
            "taught": int(fused.taught_T.sum()),
        }
        own_N = without_end(own.gold_U, here.start_R, here.row_N1)
        for s, (name, one) in enumerate(zip(self._names, believed, strict=True)):
            there = one.positions
            nats_N = own_N - without_end(one.beliefs.gold_U, there.start_R, there.row_N1)
            open_N = np.ones(len(lines), bool) if open_SN is None else open_SN[s]
            bytes_N = np.array([len(line["answer"].encode()) for line in lines])
            figures[f"nats/{name}"] = float(nats_N[open_N].sum())
            figures[f"bytes/{name}"] = int(bytes_N[open_N].sum())
            figures[f"weight/{name}"] = float(fused.weight_ST[s].sum(dtype=np.float64))
            for line, nats, size in zip(lines, nats_N.tolist(), bytes_N.tolist(), strict=True):
                line.setdefault("nats_per_byte", {})[name] = round(nats / size, 5)
        return figures
