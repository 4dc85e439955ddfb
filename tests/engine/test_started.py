"""A server that we start: waited for, used, and gone on every way out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import standin
import yaml
from conftest import lives
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.engine.engine import open_engine
from infifusion.engine.probe import Expected
from infifusion.errors import RecipeError, RunError
from infifusion.recipe import Model
from infifusion.teacher.elsewhere import in_engine


def model_of(suite: Path, more: str = "", **engine: object) -> Model:
    command = f"{sys.executable} {standin.__file__} --model {{model}} {more}"
    values = {"kind": "vllm", "command": command, "patience": 60, **engine}
    return Model.model_validate({"model": str(suite / "a"), "engine": values})


def gone(pid: int, seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while lives(pid) and time.monotonic() < end:
        time.sleep(0.1)
    return not lives(pid)


def test_it_is_started_asked_and_stopped(suite: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    model = model_of(suite, f"--pids {pids}", tensor_parallel_size=2)
    with in_engine(model, where="sources.a") as remote:
        assert remote.served.serves == str(suite / "a")
        pid = int(pids.read_text())
        assert lives(pid)
    assert gone(pid, 1)


def test_an_error_in_the_block_stops_it_too(suite: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    with (
        pytest.raises(KeyboardInterrupt),
        in_engine(model_of(suite, f"--pids {pids}"), where="sources.a"),
    ):
        raise KeyboardInterrupt
    assert gone(int(pids.read_text()), 1)


def test_a_kill_of_ours_ends_it(suite: Path, tmp_path: Path) -> None:
    pids, script = tmp_path / "pid", tmp_path / "run.py"
    values = model_of(suite, f"--pids {pids}").model_dump(mode="json")
    script.write_text(
        "import time\n"
        "from infifusion.recipe import Model\n"
        "from infifusion.teacher.elsewhere import in_engine\n"
        f"with in_engine(Model.model_validate({values!r}), where='a'):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline() == "ready\n"
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert gone(int(pids.read_text()))


def test_one_that_ends_by_itself_is_said_with_its_last_words(suite: Path) -> None:
    with (
        pytest.raises(RunError, match="no GPU has room for the model"),
        in_engine(model_of(suite, "--die"), where="sources.a"),
    ):
        pass


def test_a_program_that_is_not_there_is_said(suite: Path) -> None:
    model = model_of(suite, command="no-such-program serve {model}")
    with (
        pytest.raises(RunError, match="No such file"),
        in_engine(model, where="sources.a"),
    ):
        pass


def test_several_processes_do_not_start_one_each(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    expected = Expected(vocabulary=10, encode=lambda text: [1])
    with (
        pytest.raises(RecipeError, match=r"engine\.url"),
        open_engine(model_of(suite), expected, where="sources.a"),
    ):
        pass


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({}, "either url"),
        ({"url": "http://h:1/v1", "command": "x"}, "either url"),
        ({"url": "h:1"}, "expected an address"),
        ({"url": "http://user:secret@h:1/v1"}, "leave the password out"),
        ({"url": []}, "name one address"),
        ({"url": ["http://h:1/v1", "http://h:1/v1/"]}, "twice"),
        ({"command": "vllm serve x --port 1"}, "leave out --port"),
        ({"command": "vllm serve x -tp 2"}, "tensor_parallel_size"),
        ({"command": "vllm 'serve"}, "cannot be told apart"),
        ({"url": "http://h:1/v1", "tensor_parallel_size": 2}, "belongs to command"),
        ({"url": "http://h:1/v1", "api_key_from": "sk-123"}, "not the key itself"),
        ({"url": "http://h:1/v1", "api_key": "sk-123"}, "does not belong into a file"),
        ({"url": "http://h:1/v1", "in_flight": 0}, "greater than or equal to 1"),
    ],
)
def test_fields_that_do_not_fit_are_refused(
    suite: Path, make_recipe: Callable[..., dict], engine: dict, said: str
) -> None:
    from infifusion.recipe import Recipe

    values = make_recipe(suite)
    values["sources"]["a"]["engine"] = {"kind": "vllm", **engine}
    with pytest.raises(RecipeError, match=said) as error:
        Recipe.from_mapping(values, where="test")
    assert "sk-123" not in str(error.value) and "secret@" not in str(error.value)


def test_the_plan_has_neither_time_nor_memory_of_what_a_server_runs(
    suite: Path, make_recipe: Callable[..., dict], tmp_path: Path
) -> None:
    def rows(**engines: dict) -> dict[tuple[str, str], dict]:
        values = make_recipe(suite)
        for name, engine in engines.items():
            values["sources"][name]["engine"] = engine
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        said = CliRunner().invoke(cli.app, ["plan", str(file), "--json"])
        assert said.exit_code == 0, said.output
        return {(row["stage"], row["name"]): row for row in json.loads(said.stdout)["rows"]}

    here = rows()
    there = rows(a={"kind": "vllm", "url": "http://127.0.0.1:1/v1"})
    for row in (("teach", "a"), ("evaluate", "source:a")):
        assert here[row]["seconds"] > 0 and here[row]["flops"] > 0
        assert there[row]["seconds"] == there[row]["flops"] == 0
        assert there[row]["memory"] < here[row]["memory"]
        assert there[row]["tokens"] == here[row]["tokens"]
    same = (("teach", "b"), ("evaluate", "source:b"), ("evaluate", "pivot"))
    assert all(there[row] == here[row] for row in same)


def test_what_no_server_gives_is_refused_by_name(
    suite: Path, make_recipe: Callable[..., dict]
) -> None:
    from infifusion.recipe import Recipe
    from infifusion.stages.combine import require_rows

    engine = {"kind": "vllm", "url": "http://127.0.0.1:1/v1"}
    for key, value in (("temperature", 2.0), ("quantization", "4bit"), ("dtype", "float32")):
        values = make_recipe(suite)
        values["sources"]["a"] |= {"engine": engine, key: value}
        with pytest.raises(RecipeError, match=rf"sources\.a\.{key}"):
            Recipe.from_mapping(values, where="test")
    values = make_recipe(suite)
    values["pivot"]["engine"] = engine
    with pytest.raises(RecipeError, match=r"pivot\.engine: every model"):
        Recipe.from_mapping(values, where="test")
    values = make_recipe(suite)
    values["sources"]["a"]["engine"] = engine
    values["fuse"]["unified"]["teacher"] = "online"
    with pytest.raises(RecipeError, match=r"fuse\.unified\.teacher"):
        Recipe.from_mapping(values, where="test")
    values["fuse"]["unified"]["teacher"] = "cached"
    values["distill"]["unified"]["loss"] = "uld"
    recipe = Recipe.from_mapping(values, where="test")
    run = next(run for run in recipe.resolve().runs if run.name == "unified")
    with pytest.raises(RecipeError, match="the loss uld reads the mean"):
        require_rows(recipe, run)
