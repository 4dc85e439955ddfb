"""What a task is: where its items come from, how they are asked, how an output is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Doc = Mapping[str, Any]


@dataclass(frozen=True)
class Judgement:
    """One output, judged.

    extracted: the answer found in the output; None when there is none (counted as invalid).
    gold:      the right answer, as text.
    metrics:   metric -> whether the output is right by it. The task's headline is among them.
    note:      why it is wrong, where that is known (such as the error of a failed test).
    """

    extracted: str | None
    gold: str
    metrics: dict[str, bool]
    note: str = ""


class Judges(Protocol):
    """What a scorer may ask for besides the text; scoring.py provides it."""

    def run_code(
        self, program: str, test: str, *, timeout: float | None = None
    ) -> tuple[bool, str]:
        """Run program, then test, in the sandbox: whether it passed, and why not. timeout: seconds,
        the sandbox's own by default."""
        ...

    def final_answer(self, output: str) -> str | None:
        """The final answer of an output, as it is written there; None where there is none."""
        ...

    def same_answer(self, gold: str, answer: str | None) -> bool:
        """Whether two answers say the same; no answer says nothing."""
        ...

    def math_fault(self) -> str:
        """Why questions about mathematics had no answer since the last call; mostly empty."""
        ...


Scorer = Callable[["Task", Doc, str, Judges], Judgement]


@dataclass(frozen=True)
class Task:
    """One benchmark. A row of the table TASKS, or of a table named by evaluate.tasks_from.

    name:            its name in the YAML, on the command line, in files and in the report.
    description:     one line for `infifusion list`.
    headline:        the metric that `accuracy` is; fixed here, before anything is measured.
    file:            the items' file under --data (JSON lines).
    score:           judges one output.
    prompt_template: a field's name, or a template over fields ('{question}\\n'). It is the prompt
                     of bits per byte and, when there is no `config`, of the task itself.
    response_field:  the field of the reference response, for bits per byte; None: it has none.
    gold_field:      the field that the scorer compares with.
    id_field:        the field that names an item; None: its place in the file.
    stop:            generation ends before any of these (models without a chat template).
    max_new_tokens:  longest generation, in tokens.
    config:          our lm-eval YAML file; None: zero-shot with prompt_template.
    few_shot_file:   the file under --data with the examples shown in the prompt.
    hub, subsets, split: the hub data set when --data is not given; None: there is none.
    chat_prompt:     a template in place of the prompt for models with a chat template.
    needs_sandbox:   whether scoring runs generated code.
    scoring:         number of the rules by which `score` judges, raised where they change: scores
                     by other rules are not compared with these, and a run does not go on from them.
    asked:           which items of a file are asked, where it holds any of them: those of a test
                     set in a file with more. None, or a file without any: all.
    lm_eval:         the name of a task of lm-eval's own, which asks and judges it; None: of ours.
                     Its headline is the first of its metrics, which the items name.
    """

    name: str
    description: str
    headline: str
    file: str
    score: Scorer
    prompt_template: str = "prompt"
    response_field: str | None = None
    gold_field: str = "answer"
    id_field: str | None = None
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 512
    config: Path | None = None
    few_shot_file: str | None = None
    hub: str | None = None
    subsets: tuple[str, ...] = field(default=("default",))
    split: str = "test"
    chat_prompt: str | None = None
    needs_sandbox: bool = False
    scoring: int = 1
    asked: Callable[[Doc], bool] | None = None
    lm_eval: str | None = None
