"""Every code block of the documentation is run, validated, or marked `<!-- not run: why -->`."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from markdown_blocks import BLOCKS, PAGES, ROOT, Block
from torch.distributed.run import get_args_parser
from typer.main import get_command

from infifusion.commands import cli
from infifusion.fuse import FUSION_FUNCTIONS
from infifusion.fuse import PARAMS as FUSE_PARAMS
from infifusion.losses import LOSSES
from infifusion.losses import PARAMS as LOSS_PARAMS
from infifusion.merge.engine.file import read_merge_file
from infifusion.merge.engine.settings import check_parameters, find_method, method_and_params
from infifusion.named import function_and_params
from infifusion.recipe import Recipe, load_recipe
from infifusion.sweep.file import load_sweep

CODE = ("bash", "python", "yaml")
TEXT = ("text", "bibtex", "markdown", "json")
"""What nobody runs: output, diagrams, synopses."""
FRAME = {
    "name": "frame",
    "pivot": {"model": "pivot"},
    "sources": {"math": {"model": "math"}, "code": {"model": "code"}, "chat": {"model": "chat"}},
    "data": {
        "train": [{"path": "data/math.jsonl", "domain": "math"}],
        "validation_share": 0.1,
    },
    "fuse": {"unified": {}, "pair": {"function": "mean", "each": True}},
    "distill": {
        "sft": {},
        "unified": {"target": "unified"},
        "pair": {"target": "pair", "each": True},
    },
}
"""What a block that shows a part of a recipe is laid over."""


def of(language: str) -> list[Block]:
    """The blocks of one language that are not marked."""
    return [block for block in BLOCKS if block.language == language and block.reason is None]


def test_blocks_are_found_and_say_what_they_are() -> None:
    counts = Counter(block.language for block in BLOCKS)
    assert len(PAGES) >= 20
    assert counts["bash"] >= 30 and counts["yaml"] >= 13 and counts["python"] >= 8, counts
    assert set(counts) <= {*CODE, *TEXT}, counts
    marked = [block for block in BLOCKS if block.reason is not None]
    assert all(block.reason for block in marked)
    assert len(marked) < len(BLOCKS) / 5, [str(block) for block in marked]


def test_no_fence_is_overlooked() -> None:
    for page in PAGES:
        fences = re.findall(r"^[ ]*```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * sum(block.page == page for block in BLOCKS), page


@pytest.mark.parametrize("block", of("bash"), ids=str)
def test_commands_are_known(block: Block) -> None:
    lines = block.text.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    commands = [command for command in commands if command]
    assert commands
    for command in commands:
        check_command(command)


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_is_valid(block: Block, tmp_path: Path) -> None:
    values = yaml.safe_load(block.text)
    path = tmp_path / "block.yaml"
    path.write_text(block.text, encoding="utf-8")
    if "merge_method" in values:
        file = read_merge_file(path, base_override=None)
        check_parameters(file, find_method(file.merge_method), where=str(block))
    elif "settings" in values or "seeds" in values:
        stands = "".join(f"{{{key}}}/" for key in values.get("settings", {}) if "." not in key)
        frame = {**FRAME, "data": {"train": [{"path": f"{stands}math.jsonl", "domain": "math"}]}}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(frame), encoding="utf-8")
        _, worlds = load_sweep(path, [])
        for world in worlds:
            check_names(world.recipe)
    else:
        assert set(values) <= set(Recipe.model_fields), values
        path.write_text(yaml.safe_dump({**FRAME, **values}), encoding="utf-8")
        check_names(load_recipe(path))


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks with a title are files beside one another; what is called test_... is called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "untitled_block.py"
    path.write_text(block.text, encoding="utf-8")
    titled = {one.title: one for one in of("python") if one.page == block.page and one.title}
    for title, one in titled.items():
        (tmp_path / title).write_text(one.text, encoding="utf-8")
    try:
        module = importlib.import_module((block.title or path.name).removesuffix(".py"))
        for name, function in vars(module).items():
            if name.startswith("test_") and callable(function):
                function()
    finally:
        for title in [path.name, *titled]:
            sys.modules.pop(title.removesuffix(".py"), None)


def check_command(words: list[str]) -> None:
    """Fails unless the program is one of ours and takes these words."""
    while re.match(r"^[A-Z_]+=", words[0]):
        words = words[1:]
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "infifusion":
        check_ours(rest)
    elif program in ("torchrun", "python") and rest[:2] == ["-m", "infifusion"]:
        check_ours(rest[2:])
    elif program == "torchrun":
        given = get_args_parser().parse_args(rest)
        assert given.module and given.training_script == "infifusion", words
        check_ours(given.training_script_args)
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert rest and set(rest) <= set(targets), words
    elif program == "python":
        script = ROOT / rest[0]
        assert script.is_file(), words
        flags = [word for word in rest if word.startswith("--")]
        assert all(f'"{flag}"' in script.read_text(encoding="utf-8") for flag in flags), words
    else:
        pytest.fail(f"{program!r} is not ours; mark the block with <!-- not run: reason -->")


def check_ours(words: list[str]) -> None:
    """Fails unless `infifusion` would take these words."""
    commands = get_command(cli.app).commands  # type: ignore[attr-defined]
    if words[:1] and words[0] in commands:
        commands[words[0]].make_context(words[0], list(words[1:]))  # raises what a user would see
    else:
        assert words in (["--version"], ["--help"]), words


def check_names(recipe: Recipe) -> None:
    """Fails unless every function, loss and method of a recipe is there and takes its params."""
    resolved = recipe.resolve()
    for target in resolved.targets:
        check_name(FUSION_FUNCTIONS, FUSE_PARAMS, target.function, target.params)
    for run in resolved.runs:
        check_name(LOSSES, LOSS_PARAMS, run.loss, run.params)
    for merge in resolved.merges:
        params = {k: v for k, v in merge.params.items() if (k, v) != ("tau0", "validate")}
        if ":" not in merge.method:
            method_and_params(merge.method, params, where="docs")


def check_name(table: dict, params: dict, name: str, values: dict) -> None:
    """Fails unless the table has the name. A function of one's own is tried where it is shown."""
    if ":" not in name:
        function_and_params(table, params, name, values, kind="method", where="docs")
