"""Commands, options, names of functions and tasks that do not exist or do not fit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_jsonl
from refusals import assert_refused


@pytest.fixture
def recipe(suite: Path, make_recipe, tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe with some keys replaced and returns its path."""

    def make(**changes: object) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(make_recipe(suite, **changes)), encoding="utf-8")
        return path

    return make


FUSED = {"distill": {"u": {"target": "u"}}, "merge": {}}
NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "fusion function": (
        {"fuse": {"u": {"function": "meen"}}, **FUSED},
        "fuse.u: There is no fusion function called 'meen'. Did you mean 'mean'",
    ),
    "foreign function": (
        {"fuse": {"u": {"function": "nowhere:f"}}, **FUSED},
        "'nowhere:f' cannot be imported.*Expected module:function",
    ),
    "no such attribute": (
        {"fuse": {"u": {"function": "math:nothing"}}, **FUSED},
        "'math:nothing' cannot be imported",
    ),
    "nothing imported": ({"fuse": {"u": {"function": ":"}}, **FUSED}, "':' cannot be imported"),
    "relative import": (
        {"fuse": {"u": {"function": "..x:y"}}, **FUSED},
        "'..x:y' cannot be imported",
    ),
    "no function": ({"fuse": {"u": {"function": "math:pi"}}, **FUSED}, "math:pi"),
    "no Params": ({"fuse": {"u": {"function": "math:sqrt"}}, **FUSED}, "fuse.u: .*no class Params"),
    "fusion parameter": (
        {"fuse": {"u": {"params": {"kapa": 1}}}, **FUSED},
        "fuse.u.params.*kapa: there is no such key",
    ),
    "parameter of words": (
        {"fuse": {"u": {"params": {"kappa": "much"}}}, **FUSED},
        "fuse.u.params.*kappa: .*'much'",
    ),
    "prior of other sources": (
        {"fuse": {"u": {"function": "bayes", "params": {"prior": [1, 2]}}}, **FUSED},
        "fuse.u: bayes: expected 3 positive prior weights",
    ),
    "loss": (
        {"distill": {"unified": {"target": "unified", "loss": "ckl"}}, "merge": {}},
        "no loss called 'ckl'. Did you mean 'kl'",
    ),
    "loss parameter": (
        {"distill": {"unified": {"target": "unified", "params": {"temprature": 2}}}, "merge": {}},
        "temprature: there is no such key",
    ),
    "merge method": (
        {"merge": {"m": {"method": "rasf", "models": ["pair"]}}},
        "no merge method called 'rasf'. Did you mean 'rsaf'",
    ),
    "merge parameter": (
        {"merge": {"m": {"models": ["pair"], "params": {"tau00": 1}}}},
        "merge.m.params.*tau00: there is no such key. Did you mean 'tau0'",
    ),
    "models of a method": (
        {"merge": {"m": {"method": "slerp", "models": ["pair"], "params": {"t": 0.5}}}},
        "merge.m: slerp goes between two models; found 4. Give a base and one",
    ),
    "weights of models": (
        {"merge": {"m": {"method": "ties", "models": ["pair"], "params": {"weight": [1, 2]}}}},
        "merge.m: 'weight' holds 2 values, but 3 models are merged",
    ),
    "validate": (
        {"merge": {"m": {"method": "linear", "models": ["pair"], "params": {"tau0": "validate"}}}},
        "validate is RSAF's",
    ),
    "task": (
        {"evaluate": {"tasks": ["gsm9k"]}},
        "evaluate.tasks: there is no task 'gsm9k'. Did you mean 'gsm8k'",
    ),
    "bits per byte as a task": (
        {"evaluate": {"tasks": ["bits_per_byte"]}},
        "bits_per_byte of data.held_out is always computed; leave it out",
    ),
    "tasks_from": (
        {"evaluate": {"tasks_from": "nowhere:TASKS"}},
        "'nowhere:TASKS' cannot be imported",
    ),
    "no table": ({"evaluate": {"tasks_from": "math:pi"}}, "math:pi"),
    "evaluate.data": ({"evaluate": {"data": "./gone"}}, "evaluate.data: there is no folder .*gone"),
    "training key": (
        {"training": {"max_step": 3}},
        "no field 'max_step'. Did you mean 'max_steps'",
    ),
    "training key of ours": (
        {"training": {"seed": 3}},
        "'seed' cannot be set here: the recipe's seed is used",
    ),
    "training value": ({"training": {"lr_scheduler_type": "cosin"}}, "training: .*cosin"),
    "chooser": (
        {
            "write_responses": {
                "prompts": [{"path": "p.jsonl", "domain": "d"}],
                "choose": "agrement",
            }
        },
        "no chooser called 'agrement'. Did you mean 'agreement'",
    ),
    "prompts gone": (
        {"write_responses": {"prompts": [{"path": "./gone.jsonl", "domain": "d"}]}},
        "write_responses.prompts.0: There is no data file .*gone.jsonl",
    ),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_that_stands_for_nothing_is_refused(kind: str, recipe, tmp_path: Path) -> None:
    changes, says = NAMES[kind]
    out = tmp_path / "out"
    assert_refused("run", recipe(**changes), "--run-dir", out, says=says, untouched=out)
    assert not out.exists()


COMMANDS: dict[str, tuple[list[str], str]] = {
    "no such command": (["fly"], "No such command 'fly'"),
    "no recipe": (["run"], "Missing (argument|parameter).*RECIPE"),
    "two recipes": (["run", "RECIPE", "b.yaml"], "unexpected extra argument"),
    "no such option": (["run", "RECIPE", "--rundir", "x"], "No such option: --rundir|--run-dir"),
    "an option without value": (["run", "RECIPE", "--until"], "--until.* requires an argument"),
    "no such stage": (
        ["run", "RECIPE", "--until", "distil"],
        "no stage 'distil'. Did you mean 'distill'",
    ),
    "a merge as a recipe": (
        ["check", "MERGE"],
        "is a merge file .*'merge_method'.*infifusion merge",
    ),
    "jobs": (["sweep", "RECIPE", "--jobs", "0"], "--jobs"),
    "jobs of words": (["sweep", "RECIPE", "--jobs", "many"], "--jobs.*valid integer"),
    "device": (["plan", "RECIPE", "--device", "h2000"], "h2000.*Did you mean 'h200'"),
    "count": (["plan", "RECIPE", "--count", "0"], "--count is 0; expected a whole number from 1"),
    "nodes": (["plan", "RECIPE", "--nodes", "-1"], "--nodes is -1"),
    "CPUs": (["plan", "RECIPE", "--count", "2"], "one process uses all processors"),
    "examples alone": (["plan", "RECIPE", "--examples", "3"], "given together or not at all"),
    "no examples": (
        ["plan", "RECIPE", "--examples", "0", "--tokens-per-example", "9"],
        "at least 1",
    ),
    "one token": (["plan", "RECIPE", "--examples", "1", "--tokens-per-example", "1"], "at least 2"),
    "long responses": (
        [
            "plan",
            "RECIPE",
            "--examples",
            "1",
            "--tokens-per-example",
            "9",
            "--response-tokens",
            "9",
        ],
        "one less than that",
    ),
    "shape": (["plan", "RECIPE", "--shape", "pivot"], "not of the form NAME=SHAPE"),
    "shape of nobody": (
        ["plan", "RECIPE", "--shape", "pivott=8b-llama"],
        "no model 'pivott'. Did you mean 'pivot'",
    ),
    "no such shape": (["plan", "RECIPE", "--shape", "pivot=8b-lama"], "8b-lama"),
    "report of nothing": (["report", "GONE"], "is not a run folder"),
    "report of a file": (["report", "RECIPE"], "is not a run folder"),
    "diff of one": (["diff", "PIVOT"], "infifusion diff BASE A B"),
    "diff of nothing": (["diff", "PIVOT", "GONE"], "no model folder .*gone"),
    "diff of others": (["diff", "PIVOT", "B"], "lacks the tensor"),
    "align to nothing": (
        ["align", "--source", "GONE", "--pivot", "PIVOT", "--text", "TEXT"],
        "No tokenizer could be loaded from .*gone",
    ),
    "align no text": (
        ["align", "--source", "PIVOT", "--pivot", "PIVOT", "--text", "GONE"],
        "There is no text file .*gone",
    ),
    "align a folder": (
        ["align", "--source", "PIVOT", "--pivot", "PIVOT", "--text", "PIVOT"],
        "not a text file in UTF-8",
    ),
    "align bytes": (
        ["align", "--source", "PIVOT", "--pivot", "PIVOT", "--text", "BYTES"],
        "not a text file in UTF-8",
    ),
    "align an empty text": (
        ["align", "--source", "PIVOT", "--pivot", "PIVOT", "--text", "EMPTY"],
        "holds no text",
    ),
    "align a field": (
        ["align", "--source", "PIVOT", "--pivot", "PIVOT", "--text", "DATA", "--field", "promt"],
        "no field 'promt'. Did you mean 'prompt'",
    ),
    "align without field": (
        ["align", "--source", "PIVOT", "--pivot", "PIVOT", "--text", "DATA"],
        "name the field .*--field",
    ),
    "align lines of words": (
        ["align", "--source", "PIVOT", "--pivot", "PIVOT", "--text", "TEXT", "--field", "x"],
        "line 1 is not JSON",
    ),
    "align lines of lists": (
        ["align", "--source", "PIVOT", "--pivot", "PIVOT", "--text", "LISTS", "--field", "x"],
        "line 1.*JSON object",
    ),
    "align deep lines": (
        ["align", "--source", "PIVOT", "--pivot", "PIVOT", "--text", "DEEP", "--field", "x"],
        "line 1 is not JSON",
    ),
    "no such task": (
        ["evaluate", "PIVOT", "--tasks", "gsm9k", "--data", "HERE"],
        "no task 'gsm9k'. Did you mean 'gsm8k'",
    ),
    "no task": (["evaluate", "PIVOT", "--tasks", " , ", "--data", "HERE"], "--tasks"),
    "no data": (["evaluate", "PIVOT", "--tasks", "bits_per_byte"], "give their folder by --data"),
    "a push of half a run": (
        ["run", "RECIPE", "--until", "teach", "--push-to-hub", "org/name"],
        "leave out --until",
    ),
    "a push of a planned merge": (
        ["merge", "TEXT", "out", "--plan", "--push-to-hub", "org/name"],
        "leave out --plan",
    ),
    "no table of tasks": (
        ["evaluate", "PIVOT", "--tasks", "x", "--tasks-from", "math:pi", "--data", "HERE"],
        "--tasks-from: math:pi is no dict",
    ),
    "data gone": (["evaluate", "PIVOT", "--tasks", "gsm8k", "--data", "GONE"], "gone"),
    "empty data": (
        ["evaluate", "PIVOT", "--tasks", "bits_per_byte", "--data", "HERE"],
        "holds none of",
    ),
    "a model twice": (
        ["evaluate", "PIVOT", "PIVOT", "--tasks", "gsm8k", "--data", "HERE"],
        "named twice",
    ),
    "a model gone": (["evaluate", "GONE", "--tasks", "gsm8k", "--data", "HERE"], "gone"),
    "limit": (["evaluate", "PIVOT", "--tasks", "gsm8k", "--limit", "0"], "--limit"),
    "batch size": (["evaluate", "PIVOT", "--tasks", "gsm8k", "--batch-size", "-1"], "--batch-size"),
    "new tokens": (
        ["evaluate", "PIVOT", "--tasks", "gsm8k", "--max-new-tokens", "0"],
        "--max-new-tokens",
    ),
    "a run in a file": (["run", "RECIPE", "--run-dir", "TEXT"], "text.txt"),
    "a run below a file": (["run", "RECIPE", "--run-dir", "TEXT/out"], "text.txt"),
    "a run of a long name": (["run", "RECIPE", "--run-dir", "x" * 300], "File name too long"),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_that_does_not_fit_is_refused(
    kind: str, suite: Path, recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    contents = {"TEXT": b"words\n", "BYTES": b"\xff\xfe\x00", "EMPTY": b"", "LISTS": b"[1]\n",
                "DEEP": b"[" * 100_000, "MERGE": b"merge_method: ties"}  # fmt: skip
    for name, content in contents.items():
        (tmp_path / f"{name.lower()}.txt").write_bytes(content)
    write_jsonl(tmp_path / "data.jsonl", [{"prompt": "p"}])
    places = {name: tmp_path / f"{name.lower()}.txt" for name in contents}
    places |= {"RECIPE": recipe(), "PIVOT": suite / "pivot", "B": suite / "b", "HERE": here}
    places |= {"GONE": tmp_path / "gone", "DATA": tmp_path / "data.jsonl"}
    words, says = COMMANDS[kind]
    arguments = [_filled(word, places) for word in words]
    assert_refused(*arguments, says=says, untouched=here)


def _filled(word: str, places: dict[str, Path]) -> str:
    head, slash, rest = word.partition("/")
    return f"{places[head]}{slash}{rest}" if head in places else word


def test_a_process_of_its_own_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: [\n")
    command = [sys.executable, "-m", "infifusion", "check", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.startswith(f"Error: {path} is not valid YAML") and "line 2" in found.stderr
