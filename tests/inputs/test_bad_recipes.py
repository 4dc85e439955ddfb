"""Recipes that are wrong: every field in every way, broken YAML, names that do not fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from fields import Spot, misspelt, models_in, out_of_range, spots, with_value, wrong_types
from refusals import assert_refused, infifusion

from infifusion.recipe import Recipe
from infifusion.strict import LARGEST_FILE

COMPLETE = {
    "name": "r",
    "pivot": {"model": "p"},
    "sources": {"a": {"model": "a"}, "b": {"model": "b"}},
    "data": {
        "train": [{"path": "x.jsonl", "domain": "d"}],
        "held_out": [{"path": "x.jsonl", "domain": "d"}],
    },
    "write_responses": {"prompts": [{"path": "p.jsonl", "domain": "d"}]},
    "teach": {"top_k": 5},
    "fuse": {"unified": {"function": "uncertainty"}},
    "distill": {"sft": {}, "unified": {"target": "unified", "lora": {"r": 2}}},
    "merge": {"both": {"method": "linear", "models": ["sft", "unified"]}},
    "evaluate": {"tasks": []},
}
SPOTS = {spot.path: spot for spot in spots(Recipe, COMPLETE)}


def refused(folder: Path, values: object, says: str | list[str]) -> None:
    """`run` on a recipe of these values refuses it and makes no folder."""
    path = folder / "recipe.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    out = folder / "out"
    assert_refused("run", path, "--run-dir", out, says=[re.escape(str(path)), *_listed(says)],
                   untouched=out)  # fmt: skip
    assert not out.exists()


def _listed(says: str | list[str]) -> list[str]:
    return [says] if isinstance(says, str) else says


def test_the_walk_finds_every_field_of_every_model() -> None:
    found = {spot.field.annotation is not None and spot.path for spot in SPOTS.values()}
    assert len(found) >= 100, "the recipe has at least a hundred fields; the walk missed some"
    assert models_in(Recipe) == {
        "Recipe", "Model", "Data", "DataSource", "WriteResponses", "PromptSource", "Teach", "Fuse",
        "Distill", "Lora", "OnPolicy", "Merge", "Evaluate", "Tune", "Engine",
    }  # fmt: skip
    for model in (Recipe, *(field.annotation for field in Recipe.model_fields.values())):
        for name in getattr(model, "model_fields", {}):
            assert any(path.endswith(name) for path in SPOTS), name


@pytest.mark.parametrize("path", SPOTS)
def test_a_field_of_the_wrong_type_is_named(path: str, tmp_path: Path) -> None:
    spot = SPOTS[path]
    wrong = wrong_types(spot.field.annotation)
    for value in wrong:
        refused(tmp_path, with_value(COMPLETE, spot, value), re.escape(path))


BOUNDED = {path: spot for path, spot in SPOTS.items() if out_of_range(spot.field)}


def test_most_numbers_and_choices_have_limits() -> None:
    assert len(BOUNDED) >= 40


@pytest.mark.parametrize("path", BOUNDED)
def test_a_field_out_of_range_is_named_with_what_was_found(path: str, tmp_path: Path) -> None:
    for value in out_of_range(BOUNDED[path].field):
        refused(
            tmp_path, with_value(COMPLETE, BOUNDED[path], value), [re.escape(path), r"\(found "]
        )


@pytest.mark.parametrize("path", SPOTS)
def test_a_misspelt_field_gets_the_right_spelling(path: str, tmp_path: Path) -> None:
    spot: Spot = SPOTS[path]
    values, wrong = misspelt(COMPLETE, spot)
    place = ".".join(str(part) for part in (*spot.place, wrong))
    refused(
        tmp_path,
        values,
        f"{re.escape(place)}: there is no such key. Did you mean '{re.escape(spot.name)}'",
    )


def bomb(depth: int) -> str:
    """Billion laughs: ten times ten times ten ..."""
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, depth):
        lines.append(f"l{level}: &l{level} [" + ", ".join([f"*l{level - 1}"] * 10) + "]")
    return "\n".join(lines)


def merge_bomb(depth: int) -> str:
    """The same by merge keys, which YAML writes out at once."""
    lines = ["l0: &l0 {a: 1, b: 2}"]
    for level in range(1, depth):
        lines.append(f"l{level}: &l{level} {{<<: [" + ", ".join([f"*l{level - 1}"] * 10) + "]}")
    return "\n".join(lines)


BROKEN = {
    "empty": ("", "holds nothing; expected a mapping"),
    "only a comment": ("# nothing\n", "holds nothing; expected a mapping"),
    "a list": ("- a\n", "holds a list; expected a mapping"),
    "a word": ("word\n", "holds a str; expected a mapping"),
    "unclosed": ("a: [1\n", ["not valid YAML", "line 2"]),
    "a tab": ("a:\n\t- b\n", ["not valid YAML", "line 2"]),
    "two documents": ("a: 1\n---\nb: 2\n", "expected a single document"),
    "a repeated key": ("name: a\nname: b\n", "'name' is written twice .*line 2.*Remove one"),
    "a repeated inner key": ("teach:\n  top_k: 1\n  top_k: 2\n", "is written twice .*line 3"),
    "a python object": ("a: !!python/object/apply:os.system [ls]\n", "could not determine a const"),
    "an unknown anchor": ("a: *b\n", "found undefined alias"),
    "a list as key": ("? [a]\n: 1\n", "unhashable key"),
    "no date": ("name: 2001-99-99\n", ["not valid YAML", "month"]),
    "no whole number": ("seed: !!int many\n", "not valid YAML"),
    "no truth": ("seed: !!bool many\n", "not valid YAML"),
    "a huge number": ("seed: " + "9" * 5000 + "\n", "not valid YAML"),
    "a bomb of aliases": (bomb(9), "aliases .* stand for more than 100,000 values"),
    "a bomb of merge keys": (merge_bomb(9), "aliases .* stand for more than 100,000 values"),
    "itself": ("a: &a [*a]\n", "aliases .*or for themselves"),
    "deep": ("a: " + "[" * 5000 + "]" * 5000, "too deep in one another"),
    "too long": ("# " + "x" * LARGEST_FILE, "more than 1,000,000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_yaml_file_is_refused(kind: str, tmp_path: Path) -> None:
    text, says = BROKEN[kind]
    refused(tmp_path, text, says)


BYTES = {
    "binary": bytes(range(256)),
    "UTF-16": "name: r\n".encode("utf-16"),
    "Latin-1": "name: caf\u00e9\n".encode("latin-1"),
}


@pytest.mark.parametrize("kind", BYTES)
def test_a_recipe_that_is_no_utf8_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(BYTES[kind])
    says = [re.escape(str(path)), "YAML text file in UTF-8"]
    assert_refused("check", path, says=says, untouched=None)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump({**COMPLETE, "oops": 1}).encode())
    answer = infifusion("check", path)
    assert "has a problem: oops: there is no such key" in " ".join(answer.said.split())


FILES = {
    "gone": lambda folder: folder / "gone.yaml",
    "a folder": lambda folder: folder,
    "a long name": lambda folder: folder / ("x" * 300),
    "endless": lambda folder: "/dev/zero",
    "below a file": lambda folder: Path(__file__) / "recipe.yaml",
}


@pytest.mark.parametrize("command", ["run", "check", "plan", "sweep", "merge"])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_cannot_be_read_is_named(kind: str, command: str, tmp_path: Path) -> None:
    path = FILES[kind](tmp_path)
    assert_refused(command, path, says=["Give the path of"], untouched=tmp_path / "out")


NAMES = ["", ".hidden", "a/b", "a\\b", "a:b", "..", "a\nb", "a\0b", "x" * 300]


@pytest.mark.parametrize("section", ["sources", "fuse", "distill", "merge"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_folder_can_have_is_refused(section: str, name: str, tmp_path: Path) -> None:
    if section == "merge":
        values = {**COMPLETE, "merge": {name: COMPLETE["merge"]["both"]}}
    else:
        values = {**COMPLETE, "merge": {}, section: {**COMPLETE[section], name: {}}}
        if section == "sources":
            values[section][name] = {"model": "m"}
    refused(tmp_path, values, "cannot name a folder; use at most 200 letters")


ASSIGNMENTS = {
    "teach.top_k": "not of the form a.b=c",
    "=3": "not of the form a.b=c",
    "name.x=3": "'name' is not a mapping but 'r'",
    "data.train.0.limit=3": "'train' is not a mapping .*Change it in the file",
    "teach.top_k=[": "--set 'teach.top_k=.' is not valid YAML",
    "teach.top_k=&a [*a]": "aliases",
    "teach.topk=3": "teach.topk: there is no such key. Did you mean 'top_k'",
    "teach.top_k=0": "teach.top_k: .*greater than or equal to 1 .found 0",
    "teach.top_k=many": "teach.top_k: expected a whole number .found 'many'",
    "name=1.5": "name: expected text .found 1.5.* Put it in quotes",
    ".=1": "there is no such key",
}


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_an_assignment_that_does_not_fit_is_refused(assignment: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(COMPLETE))
    out = tmp_path / "out"
    assert_refused("run", path, "--run-dir", out, "--set", assignment,
                   says=ASSIGNMENTS[assignment], untouched=out)  # fmt: skip
