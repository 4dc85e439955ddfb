"""The code blocks of docs/at_home.md are right."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from infifusion.data.formats import FORMATS
from infifusion.recipe import Data, Recipe
from infifusion.train.arguments import check_arguments

TEXT = (Path(__file__).parents[2] / "docs" / "at_home.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


def test_python_blocks_compile_and_the_one_on_arrays_prints_its_comments(capsys) -> None:
    assert len(blocks("python")) == 4
    for text in blocks("python"):
        compile(text, "at_home.md", "exec")
    (text,) = (text for text in blocks("python") if "np.array" in text)
    exec(compile(text, "at_home.md", "exec"), {})
    printed = [float(number) for number in re.findall(r"\d\.\d*", capsys.readouterr().out)]
    assert [round(number, 2) for number in printed[:4]] == [0.77, 0.5, 0.23, 0.5]


def test_yaml_blocks_are_keys_of_a_recipe() -> None:
    logging, data = (yaml.safe_load(text) for text in blocks("yaml"))
    assert set(logging) <= set(Recipe.model_fields)
    check_arguments(logging["training"], where="training")
    assert len(Data(**data["data"]).train) == 3


def test_commands_are_the_commands_there_are() -> None:
    from infifusion.commands.cli import app

    known = {
        one.name or (one.callback and one.callback.__name__) for one in app.registered_commands
    }
    used = re.findall(r"^infifusion (\w+)", "".join(blocks("bash")), re.MULTILINE)
    assert len(used) == 6 and set(used) <= known


def test_every_format_has_a_row() -> None:
    assert all(f"| `{name}` |" in TEXT for name in FORMATS)
