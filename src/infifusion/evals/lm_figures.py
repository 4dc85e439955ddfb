"""What lm-evaluation-harness prints for the same outputs: its own filters and metrics.

Nothing is written anew: patterns, filters and metrics are those of the installed package, read from
its task files. Its modules for code tasks load a metric from the hub when they are imported, so
single functions of theirs are taken from their text; that metric (code_eval of Hugging Face: the
program and its test run as one, 3 seconds at most) is the sandbox's here. docs/scores.md says how
the figures differ from ours.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from infifusion.evals.tasks.task import Doc, Judges

CODE_EVAL_TIMEOUT = 3.0  # seconds, code_eval's default
Figures = dict[str, float]


class Tools(Judges, typing.Protocol):
    """What the figures need of scoring.Tools."""

    def lm_eval_math(self, solution: str, output: str) -> Mapping[str, float]:
        """The metrics of lm-eval's Minerva task, by name."""
        ...


def lm_eval_figures(task: str, doc: Doc, outputs: Sequence[str], tools: Tools) -> Figures:
    """Metric and filter, as lm-eval names them -> its value for one item; nothing for a task that
    lm-eval does not have.

    outputs: the item's samples. As in lm-eval the first counts, but for HumanEval, where all do.
    """
    return FIGURES[task](doc, outputs, tools) if task in FIGURES else {}


def summed_up(items: Sequence[Figures]) -> dict[str, float | str]:
    """The mean of every figure over the items and its standard error, as lm-eval prints them."""
    from lm_eval.api.metrics import mean, mean_stderr

    found: dict[str, float | str] = {}
    for key in items[0]:
        values = [item[key] for item in items]
        metric, _, behind = key.partition(",")
        found[key] = float(mean(values))
        error = float(mean_stderr(values)) if len(values) > 1 else "N/A"
        found[f"{metric}_stderr,{behind}"] = error
    return found


def _gsm8k(doc: Doc, outputs: Sequence[str], tools: Tools) -> Figures:
    import lm_eval.filters  # registers them
    from lm_eval.api.metrics import exact_match_fn
    from lm_eval.api.registry import get_filter

    assert lm_eval.filters
    task, found = _settings("gsm8k/gsm8k.yaml"), {}
    for chain in task["filter_list"]:
        resps: Any = [[outputs[0]]]
        for step in chain["filter"]:
            options = {key: value for key, value in step.items() if key != "function"}
            resps = list(get_filter(step["function"])(**options).apply(resps, [doc]))
        for metric in task["metric_list"]:
            options = {key: metric[key] for key in metric.keys() - NO_OPTIONS}
            value = exact_match_fn(references=[doc["answer"]], predictions=resps, **options)
            found[f"{metric['metric']},{chain['name']}"] = float(value["exact_match"])
    return found


NO_OPTIONS = {"metric", "aggregation", "higher_is_better"}


def _minerva(doc: Doc, outputs: Sequence[str], tools: Tools) -> Figures:
    results = tools.lm_eval_math(str(doc["solution"]), outputs[0])
    return {f"{metric},none": float(value) for metric, value in results.items()}


def _humaneval(doc: Doc, outputs: Sequence[str], tools: Tools) -> Figures:
    test = f"{doc['test']}\ncheck({doc['entry_point']})"
    ways = functions_of("humaneval/utils.py", "build_predictions", "build_predictions_instruct")
    keys = {
        "build_predictions": "pass@1,create_test",
        "build_predictions_instruct": f"pass@1,create_test{INSTRUCT}",
    }
    return {
        key: _code_eval(ways[name]([list(outputs)], [doc])[0], test, tools)
        for name, key in keys.items()
    }


def _mbpp(doc: Doc, outputs: Sequence[str], tools: Tools) -> Figures:
    extract = functions_of("mbpp/utils.py", "extract_code_blocks")["extract_code_blocks"]
    test = "\n".join(doc["test_list"][:3])
    return {
        "pass_at_1,none": _code_eval(outputs[:1], test, tools),
        f"pass_at_1,extract_code{INSTRUCT}": _code_eval([extract(outputs[0])], test, tools),
    }


def _mbpp_plus(doc: Doc, outputs: Sequence[str], tools: Tools) -> Figures:
    """lm-eval judges MBPP+ by MBPP's own tests, its instruct variant by the first of them."""
    plain = _mbpp(doc, outputs, tools)
    first = _mbpp({**doc, "test_list": doc["test_list"][:1]}, outputs, tools)
    instruct = f"pass_at_1,extract_code{INSTRUCT}"
    return {**plain, instruct: first[instruct]}


INSTRUCT = " (instruct)"
"""Behind the figures of lm-eval's variants for chat models (humaneval_instruct, mbpp_instruct,
mbpp_plus_instruct), which begin the answer for the model."""
FIGURES: dict[str, Callable[[Doc, Sequence[str], Tools], Figures]] = {
    "gsm8k": _gsm8k,
    "math": _minerva,
    "math500": _minerva,
    "humaneval": _humaneval,
    "humaneval_plus": _humaneval,
    "mbpp": _mbpp,
    "mbpp_plus": _mbpp_plus,
}


def _code_eval(programs: Sequence[str], test: str, tools: Tools) -> float:
    """pass@1 of code_eval: the share of the programs that run to their end with the test behind."""
    passed = [
        tools.run_code(f"{program}\n{test}", "", timeout=CODE_EVAL_TIMEOUT)[0]
        for program in programs
    ]
    return sum(passed) / len(passed)


@functools.cache
def tasks_folder() -> Path:
    """The task files of the installed lm-eval."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "tasks"


@functools.cache
def functions_of(file: str, *names: str) -> dict[str, Callable[..., Any]]:
    """Functions of a module among lm-eval's task files, without running the rest of it."""
    tree = ast.parse((tasks_folder() / file).read_text(encoding="utf-8"))
    tree.body = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name in names]
    namespace: dict[str, Any] = {"re": re, "Union": typing.Union}
    exec(compile(tree, file, "exec"), namespace)
    return {name: namespace[name] for name in names}


@functools.cache
def _settings(file: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((tasks_folder() / file).read_text(encoding="utf-8"))
