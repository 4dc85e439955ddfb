"""A model of a recipe in its engine: what the engine must be, by the model's own files here."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from infifusion.data.tokenizers import encode, tokenizer_of
from infifusion.engine.beliefs import believed
from infifusion.engine.engine import Prompt, Remote, open_engine, require_library
from infifusion.engine.probe import Expected, served_from
from infifusion.errors import InfiFusionError, RecipeError, RunError
from infifusion.recipe import Model
from infifusion.store.records import read_record, write_record
from infifusion.teacher.load import vocabulary_size, window_in_config
from infifusion.teacher.rows import Row
from infifusion.types import Rendered

ENGINE = "engine.json"
"""What served a stage: written before any shard, so that a stage that goes on finds it."""
MOST_SPECIAL = 100
"""Special tokens whose ids are compared."""
SHORTLY = 3.0
"""Seconds that `check` waits for a server."""


@contextlib.contextmanager
def in_engine(
    model: Model, *, where: str, top_k: int = 1, longest: int = 0, kept: Path | None = None
) -> Iterator[Remote]:
    """The model in its engine, compared with its tokenizer and config here.

    top_k: entries of a position that are needed. longest: tokens of the longest text. kept: the
    file that says what served the part that is done, written where it is missing.
    """
    assert model.engine is not None
    tokenizer = tokenizer_of(model)
    special = [str(token) for token in tokenizer.all_special_tokens[:MOST_SPECIAL]]
    expected = Expected(
        vocabulary=vocabulary_size(model),
        encode=lambda text: encode(tokenizer, [text])[0],
        special=["".join(special)] if special else [],
        longest=longest,
        entries=max(model.engine.logprobs, top_k),
        least=top_k,
    )
    before = served_from(read_record(kept)) if kept is not None and kept.exists() else None
    with open_engine(model, expected, where=where, kept=before) as remote:
        if kept is not None and before is None:
            write_record(kept, remote.served.as_json())
        yield remote


def answers_from(remote: Remote, rows: Sequence[Row], *, ends: Sequence[int]) -> Iterator[Row]:
    """Yield every row when its engine has answered it, as batching.answers does of a model here.
    Drawn answers have the server's own random numbers, by the row's seed."""
    waiting = list(rows)
    while waiting:
        asked, waiting = {row.number: row for row in waiting}, []
        prompts = (
            Prompt(
                number=row.number,
                ids=[*row.prompt, *row.ids],
                room=row.room - len(row.ids),
                name=row.name,
                temperature=row.draw.temperature,
                top_p=row.draw.top_p,
                seed=row.draw.seed + len(row.ids),
                stops=row.stops,
            )
            for row in list(asked.values())
        )
        for prompt, ids, by_string in remote.answers(prompts, ends=ends):
            row = asked[prompt.number]
            row.ids += ids
            # The server reads the text of a token otherwise than we do: the answer goes on.
            if by_string and not row.is_done(set(ends)):
                waiting.append(row)
            else:
                yield row


class Behind:
    """A source in its engine."""

    def __init__(self, remote: Remote, model: Model) -> None:
        self._remote = remote
        limits = [window_in_config(model), remote.served.max_model_len]
        self.window = min((limit for limit in limits if limit is not None), default=None)

    def ends(self, tokenizer: PreTrainedTokenizerBase, stops: Iterable[int]) -> list[int]:
        """The tokens at which it stops."""
        return sorted(stops)

    def run(self, rows: Sequence[Row], at_once: int, ends: Sequence[int]) -> Iterator[Row]:
        """Every row when it is done; the server decides how many at once."""
        return answers_from(self._remote, rows, ends=ends)

    def entropy(self, rendered: Rendered, names: list[str]) -> NDArray[np.float32]:
        """Of every position, in nats, estimated (engine.tail)."""
        whole = [(0, len(rendered))]
        ((_, beliefs, _),) = believed(self._remote, rendered, whole, top_k=1, names=names)
        return beliefs.entropy_U


def look_at_engines(models: Mapping[str, Model], *, ask: bool) -> tuple[list[str], list[str]]:
    """(what each model's engine is, what is wrong with it), by the models' keys. ask: servers that
    run are asked; one that does not answer is said, and no problem: a run waits for it."""
    lines, problems = [], []
    for where, model in models.items():
        if (engine := model.engine) is None:
            continue
        try:
            require_library()
            if engine.command is not None:
                program = shlex.split(engine.command)[0]
                if shutil.which(program) is None:
                    raise RecipeError(
                        f"engine.command: there is no program {program!r} on the PATH. Give its "
                        "path, such as /path/to/venv/bin/vllm."
                    )
                lines.append(f"  engine    {where}: started by {program}")
            elif not ask:
                lines.append(f"  engine    {where}: {', '.join(engine.urls)}, not asked")
            else:
                lines.append(f"  engine    {where}: {_as_found(model, where)}")
        except RunError as error:
            lines.append(
                f"  engine    {where}: {error} A run waits {engine.patience:.0f} s for it."
            )
        except InfiFusionError as error:
            problems.append(f"{where}: {error}")
    return lines, problems


def _as_found(model: Model, where: str) -> str:
    assert model.engine is not None
    shortly = model.engine.model_copy(update={"patience": SHORTLY})
    with in_engine(model.model_copy(update={"engine": shortly}), where=where) as remote:
        found = remote.served
        return (
            f"vLLM {found.version} serves {found.serves}, texts of at most {found.max_model_len} "
            f"tokens, {found.entries} entries a position; its tokenizer is the one here"
        )
