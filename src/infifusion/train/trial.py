"""Models and training runs, tried on small copies before hours are spent: what a machine or a
library cannot do is found in seconds, with the setting that is to blame."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from infifusion.errors import InfiFusionError, RecipeError
from infifusion.process.memory import free_memory
from infifusion.recipe import Lora, Model, OnPolicy, TrainingRun
from infifusion.teacher.lm_head import check_head, split_head
from infifusion.teacher.load import load_model
from infifusion.train.adapters import ALL_LINEAR, empty_model, targets_of
from infifusion.train.chunked import PositionLoss
from infifusion.train.job import Job
from infifusion.train.own_text import Corrected, Drawn, OwnRows, OwnText, Pivot
from infifusion.train.run import train
from infifusion.types import Rendered, Target

OF_A_MODEL = ("attn_implementation", "quantization", "device_map", "dtype")
"""What decides how a model is loaded."""
OF_THE_PIVOT = ("attn_implementation", "quantization")
"""What of it holds in training."""
ONE_STEP: dict[str, Any] = {
    "max_steps": 1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "report_to": "none",
}
FEW = 16
"""Tokens that every vocabulary has."""
CHANGES = re.compile(re.escape(tempfile.gettempdir()) + r"/[^\s'\"]*|0x[0-9a-f]{6,}")
"""Temporary folders and addresses in a library's words."""
LONGEST = 300
"""Characters of a library's words that are shown."""


class CopyFails(Exception):
    """The small copy does not even run without any of the settings: nothing can be told by it."""


@dataclass(frozen=True)
class Fault:
    """What does not work. key: the setting without which something else happens, None where no
    single one is to blame; said: the library's words."""

    key: str | None
    value: Any
    said: str

    def sentence(self, where: str) -> str:
        """Where, what, why, and what to do."""
        if self.key is None:
            return f"{where}: tried on a small copy of the model, it fails: {self.said}."
        place = self.key if self.key.startswith("pivot.") else f"{where}.{self.key}"
        return (
            f"{place}: {self.value!r:.80} does not work here: {self.said}. Remove it, "
            "or give another value."
        )


def faults_of_model(model: Model, small: Model) -> list[Fault]:
    """What keeps a model from running as the teacher pass runs it. small: its copy. Raises
    CopyFails."""

    def attempt(settings: dict[str, Any]) -> None:
        loaded = load_model(_with(small, OF_A_MODEL, settings))
        device = loaded.device
        ids_BL = torch.from_numpy(_examples().ids_L[None, :8].astype(np.int64)).to(device)
        check_head(loaded, split_head(loaded), ids_BL, torch.ones_like(ids_BL))

    plain = {name: field.default for name, field in Model.model_fields.items()}
    asked = {key: getattr(model, key) for key in OF_A_MODEL if getattr(model, key) != plain[key]}
    return list(_faults(asked, attempt))


def faults_of_run(
    run: TrainingRun,
    small: Model,
    loss_of: Callable[[TrainingRun], PositionLoss],
    tokenizer: PreTrainedTokenizerBase,
) -> list[Fault]:
    """What keeps a run from taking an optimizer step on two examples, and on answers that it writes
    itself, where it learns from those. small: a copy of what it starts from; loss_of: gives the
    loss of a run that has a target. Raises CopyFails."""

    def attempt(settings: dict[str, Any]) -> None:
        training = {k.removeprefix("training."): v for k, v in settings.items() if "training." in k}
        start = _with(small, OF_THE_PIVOT, settings, prefix="pivot.")
        rendered, taught = _examples(), "loss" in settings
        own = run.on_policy if taught and "on_policy" in settings else None
        with tempfile.TemporaryDirectory() as out:
            job = Job(
                title=f"distill {run.name}",
                model=start,
                tokenizer=tokenizer,
                rendered=rendered,
                target=_target(len(rendered.start_R), own is None) if taught else None,
                loss=loss_of(run.model_copy(update={"on_policy": own})) if taught else None,
                gold_weight=run.gold_weight,
                loss_rows=run.loss_rows,
                training={**training, **ONE_STEP},
                lora=_on_small(run.lora, start) if run.lora and "lora" in settings else None,
                seed=0,
                pack_tokens=run.pack_tokens if "packing" in settings else None,
                stop_at_rise=None,
                own=None if own is None else _own_text(own),
            )
            train(job, Path(out), name_of=lambda n: f"example {n + 1}")

    asked: dict[str, Any] = {f"training.{key}": value for key, value in run.training.items()}
    asked |= {f"pivot.{key}": value for key in OF_THE_PIVOT if (value := getattr(small, key))}
    asked |= {"packing": True} if run.pack_tokens is not None else {}
    asked |= {"on_policy": run.on_policy} if run.on_policy is not None else {}
    asked |= {"loss": run.loss} if run.target is not None else {}
    asked |= {"lora": run.lora} if run.lora is not None else {}
    fixed = {"lora"} if small.quantization is not None else set()
    return list(_faults(asked, attempt, fixed=fixed))


def _faults(
    asked: dict[str, Any],
    attempt: Callable[[dict[str, Any]], None],
    *,
    fixed: set[str] | frozenset[str] = frozenset(),
) -> Iterator[Fault]:
    """Every setting without which the attempt ends in another way, one after another. fixed: those
    that are not left out."""
    said = _said_by(attempt, asked)
    bare = {key: value for key, value in asked.items() if key in fixed}
    if said and (why := _said_by(attempt, bare)):
        raise CopyFails(why)
    while said:
        for key in [key for key in asked if key not in fixed]:
            rest = {name: value for name, value in asked.items() if name != key}
            after = _said_by(attempt, rest)
            if after != said:
                yield Fault(key, asked[key], said)
                asked, said = rest, after
                break
        else:
            yield Fault(None, None, said)
            return


def _said_by(attempt: Callable[[dict[str, Any]], None], settings: dict[str, Any]) -> str:
    """What an attempt fails with, in short; nothing where it succeeds."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attempt(settings)
    except Exception as error:  # of any library, about anything: that is what is asked
        return _in_short(error)
    finally:
        if torch.cuda.is_available():  # else what is left is small
            free_memory()
    return ""


def _in_short(error: BaseException) -> str:
    while isinstance(error, InfiFusionError) and error.__cause__ is not None:
        error = error.__cause__
    # What differs from one attempt to the next would make every setting look guilty.
    text = CHANGES.sub("...", " ".join(str(error).split()))
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    own = isinstance(error, InfiFusionError)
    return (text if own else f"{type(error).__name__}: {text}").rstrip(". ")


def _with(small: Model, keys: tuple[str, ...], settings: dict[str, Any], prefix: str = "") -> Model:
    """The copy with these of its settings alone."""
    plain = {key: Model.model_fields[key].default for key in keys}
    asked = {key: settings[prefix + key] for key in keys if prefix + key in settings}
    return small.model_copy(update={**plain, **asked})


def _on_small(lora: Lora, start: Model) -> Lora:
    """The adapters on those of the named layers that the copy has; on all where it has none."""
    empty = empty_model(start)

    def has(named: str | list[str]) -> bool:
        try:
            targets_of(empty, lora.model_copy(update={"target_modules": named}))
        except RecipeError:
            return False
        return True

    named = lora.target_modules
    if has(named):
        return lora
    kept = [] if isinstance(named, str) else [name for name in named if has([name])]
    return lora.model_copy(update={"target_modules": kept or ALL_LINEAR})


def _examples() -> Rendered:
    """Two short conversations of made-up tokens."""
    made_up = (np.arange(21) * 5 % FEW + 1).tolist()
    return _rendered([(made_up[:4], made_up[4:12]), (made_up[12:15], made_up[15:])])


def _rendered(texts: Sequence[tuple[list[int], list[int]]]) -> Rendered:
    """Tokens of prompts and of their answers, each taken to be one byte."""
    lengths = [len(prompt) + len(answer) for prompt, answer in texts]
    rows = [len(answer) for _, answer in texts]
    return Rendered(
        ids_L=np.concatenate([[*prompt, *answer] for prompt, answer in texts]).astype(np.int32),
        offset_N1=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        first_N=np.asarray([len(prompt) for prompt, _ in texts], np.int32),
        start_R=np.concatenate([np.arange(n) for n in rows]).astype(np.int32),
        row_N1=np.concatenate([[0], np.cumsum(rows)]).astype(np.int64),
    )


def _own_text(own: OnPolicy) -> OwnText:
    """Two prompts to answer, and a source that says of the answers what it says of all text."""
    asked = _examples()
    parts = zip(asked.offset_N1[:-1], asked.first_N, strict=True)
    prompts = [asked.ids_L[begin : begin + first].tolist() for begin, first in parts]

    def correct(drawn: Sequence[Drawn], pivot: Pivot, shown: bool) -> Corrected:
        rendered = _rendered([(prompts[one.prompt], one.ids) for one in drawn])
        believed = pivot(rendered, [prompt_names[one.prompt] for one in drawn])
        target = _target(len(rendered.start_R), zscores=False)
        rows = OwnRows(
            of_N=np.arange(len(drawn)),
            prompt_N=np.array([one.prompt for one in drawn], np.int64),
            ids_L=rendered.ids_L,
            offset_N1=rendered.offset_N1,
            first_N=rendered.first_N,
            row_N1=rendered.row_N1,
            ids_TK=target.ids_TK,
            prob_TK=target.prob_TK,
            weight_ST=target.weight_ST,
            learnt_T=target.taught_T,
            before_T=believed.gold_U,
            advantage_T=np.ones_like(believed.gold_U),
        )
        return Corrected(rows, {"figures": {}, "answers": [], "samples": []})

    prompt_names = [f"prompt {n + 1}" for n in range(len(prompts))]
    return OwnText(
        settings=own.model_copy(update={"max_new_tokens": 2, "stop_at_growth": None}),
        prompts=prompts,
        names=prompt_names,
        ends=[],
        batch_tokens=FEW,
        kept=2,
        correct=correct,
    )


def _target(rows: int, zscores: bool) -> Target:
    """What a source might say: two entries a row, taught everywhere. zscores: what losses on text
    that the pivot wrote never read."""
    ids = np.arange(rows * 2).reshape(rows, 2) % FEW
    probabilities = np.tile(np.asarray([0.6, 0.3], np.float32), (rows, 1))
    scores = np.tile(np.asarray([4.0, 3.0], np.float32), (rows, 1)) if zscores else None
    return Target(ids.astype(np.int32), probabilities, np.ones((1, rows), np.float32), scores)
