"""Data that is wrong: files of another kind, lines that are too long, texts that do not fit."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import arithmetic, write_jsonl
from refusals import assert_refused, infifusion

from infifusion.data.examples import read_examples
from infifusion.errors import DataError
from infifusion.recipe import DataSource

GOOD = json.dumps({"prompt": "Say hello.\n", "response": "Hello!"}).encode() + b"\n"
PAIR = {"prompt": "Say hello.\n", "response": "Hello!"}


@pytest.fixture
def refused(suite: Path, make_recipe, tmp_path: Path) -> Callable[..., None]:
    """`run` until prepare on this training data is refused, and leaves nothing."""

    def check(path: Path | str, says: str | list[str], **source: object) -> None:
        max_length = source.pop("max_length", 128)
        values = make_recipe(
            suite,
            data={
                "train": [{"path": str(path), "domain": "d", **source}],
                "max_length": max_length,
            },
        )
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
        out = tmp_path / "out"
        command = ["run", recipe, "--run-dir", out, "--until", "prepare"]
        assert_refused(*command, says=says, untouched=out)

    return check


def nested(depth: int) -> bytes:
    return b'{"prompt": ' + b"[" * depth + b"]" * depth + b"}\n"


LINES = {
    "empty": (b"", "holds no examples. Check the file"),
    "blank lines": (b"\n \n\t\n", "holds no examples. Check the file"),
    "binary": (GOOD + bytes(range(256)), r"line 2 is not JSON in UTF-8.*Correct or remove it"),
    "zeros": (b"\0" * 4096, "line 1 is not JSON in UTF-8"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "not JSON.*looks like UTF-16: save it as"),
    "UTF-16 later": (GOOD + "ä\n".encode("utf-16-le"), "line 2 is not JSON in UTF-8"),
    "Latin-1": ('{"prompt": "caf\u00e9"}\n'.encode("latin-1"), "line 1 is not JSON.*0xe9"),
    "a mark in the middle": (GOOD + b"\xef\xbb\xbf" + GOOD, "line 2 is not JSON.*BOM"),
    "compressed": (gzip.compress(GOOD), "line 1 is not JSON.*compressed: unpack it"),
    "Parquet's bytes": (b"PAR1abc", "line 1 is not JSON.*name it .parquet"),
    "cut short": (GOOD + GOOD[:20], "line 2 is not JSON in UTF-8: Unterminated string"),
    "two on a line": (GOOD.strip() + GOOD, "line 1 is not JSON in UTF-8: Extra data"),
    "Python's words": (b"{'prompt': None}\n", "line 1 is not JSON.*Expecting property"),
    "a list": (b'["p", "r"]\n', "line 1: expected a JSON object such as .* found a list"),
    "a number": (b"3\n", "line 1: expected a JSON object .* found a int"),
    "deep": (nested(100_000), "line 1 is not JSON in UTF-8: maximum recursion depth"),
    "deep inside": (nested(900), "example 1: .*there is no 'response'"),
    "a huge number": (b'{"prompt": ' + b"9" * 5000 + b"}\n", "line 1 is not JSON.*4300 digits"),
    "no response": (b'{"prompt": "p"}\n', "1: .*there is no 'response'.*Columns: prompt"),
    "misspelt": (b'{"prompt": "p", "respone": "r"}\n', "example 1: .*Did you mean 'respone'"),
    "a null": (b'{"prompt": "p", "response": null}\n', "example 1: .*'response' is null"),
    "a whole number": (b'{"prompt": 1, "response": "r"}\n', "example 1: .*'prompt' holds a int"),
    "empty responses": (b'{"prompt": "p", "response": " \\n"}\n', "no example with a response"),
    "half a character": (b'{"prompt": "a\\ud800", "response": "r"}\n',
                         r"example 1: character 2 is half of a surrogate pair \(\\ud800\)"),
    "half an id": (b'{"id": "\\udfff", "prompt": "p", "response": "r"}\n', "1, id: character"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LINES)
def test_a_bad_jsonl_file_is_refused_by_line(kind: str, refused, tmp_path: Path) -> None:
    content, says = LINES[kind]
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    names = [] if kind == "empty responses" else [re.escape(str(path))]
    refused(path, [*names, says])


OTHERS = {
    "no.json": (b"{oops", "is not JSON in UTF-8.*Correct that place"),
    "object.json": (b"{}", "expected a JSON list of objects"),
    "words.json": (b'["a"]', "expected a JSON list of objects"),
    "deep.json": (b"[" * 100_000, "is not JSON in UTF-8"),
    "zeros.parquet": (b"\0" * 100, "is not a whole Parquet file"),
    "cut.parquet": (b"PAR1" + b"\0" * 100 + b"PAR1", "is not a whole Parquet file"),
    "text.txt": (b"Hello\n", "line 1 is not JSON"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_bad_file_of_another_kind_is_refused(name: str, refused, tmp_path: Path) -> None:
    content, says = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, [name, says])


def test_a_folder_or_nothing_in_place_of_a_file_is_refused(refused, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    refused(tmp_path / "folder.jsonl", "no (data )?file .*folder.jsonl")
    refused(tmp_path / "gone.jsonl", "no (data )?file .*gone.jsonl")
    refused("/dev/null", "no data file /dev/null")


def test_a_line_of_a_gigabyte_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    with path.open("wb") as file:
        file.write(GOOD + b'{"prompt": "')
        file.truncate(1 << 30)  # the rest is a hole: it takes no room on the disk
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"line 2 has more than 67,108,864 bytes.*split"):
            read_examples(DataSource(path=str(path), domain="d"), seed=0)
        assert tracemalloc.get_traced_memory()[1] < 300 << 20
    finally:
        tracemalloc.stop()


TEMPLATES = {
    "{prompt": "Write a literal brace as {{ or }}",
    "{}": "cannot be filled in",
    "{0}": "cannot be filled in|no field '0'",
    "{promt}": "no field 'promt'. Did you mean 'prompt'",
    "{prompt.x}": "cannot be filled in",
    "{prompt[x]}": "cannot be filled in",
    "{list[9]}": "cannot be filled in",
    "{map[x]}": "cannot be filled in",
    "{prompt:d}": "cannot be filled in",
    "{nothing}": "the field 'nothing' is null. Fill it in",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_that_cannot_be_filled_in_is_refused(
    template: str, refused, tmp_path: Path
) -> None:
    path = tmp_path / "train.jsonl"
    write_jsonl(path, [{**PAIR, "list": [1], "map": {"y": 1}, "nothing": None}])
    refused(path, ["example 1: ", TEMPLATES[template]], prompt=template)


MESSAGES = {
    "no list": "hello",
    "one turn": [{"role": "user", "content": "p"}],
    "no role": [{"content": "p"}, {"role": "assistant", "content": "r"}],
    "a list inside": [{"role": "user", "content": ["p"]}, {"role": "assistant", "content": "r"}],
    "a word": ["p", "r"],
    "the user last": [{"role": "assistant", "content": "r"}, {"role": "user", "content": "p"}],
    "half a character": [
        {"role": "user", "content": "\ud800"},
        {"role": "assistant", "content": "r"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", MESSAGES)
def test_messages_of_another_form_are_refused(kind: str, refused, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    write_jsonl(path, [{"messages": MESSAGES[kind]}])
    says = "expected a list of 2 or more messages|not assistant|only text is read|half of a surrog"
    refused(path, ["example 1: ", says], messages="messages")


def test_responses_of_special_tokens_alone_are_refused_by_name(refused, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    write_jsonl(path, [{**PAIR, "response": "<eos>"}, {**PAIR, "response": "Hi<eos>"}])
    says = r"No training example is left of 2; the first, d/train-0, holds the special token \d+ in"
    refused(path, [says, "remove it there"])


def test_prompts_longer_than_the_context_are_refused_by_name(refused, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    write_jsonl(path, [{**PAIR, "prompt": "word " * 1000}])
    refused(path, ["the first, d/train-0, has", "longer than data.max_length .128; raise it"])
    refused(path, "has .* tokens, more than the window of 256 tokens for pivot", max_length=100_000)


def test_what_does_not_fit_is_left_out_and_counted(suite, make_recipe, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    bad = [
        {**PAIR, "response": ""},
        {**PAIR, "response": "Bye.<eos>"},  # a special token of pivot, a and c
        {**PAIR, "response": "<s>gone</s>"},  # of b alone: HTML to the others
        {**PAIR, "prompt": "word " * 1000},
    ]
    good = [{**arithmetic(n), "id": str(n)} for n in range(6)]
    write_jsonl(path, [*bad, *good])
    source = {"path": str(path), "domain": "d"}
    values = make_recipe(suite, data={"train": [source], "max_length": 100_000})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    out = tmp_path / "out"
    assert infifusion("run", recipe, "--run-dir", out, "--until", "prepare").status == 0
    counts = json.loads((out / "prepare" / "manifest.json").read_text())["counts"]
    assert counts["train"] == {"d": 6}
    left_out = counts["left_out"]
    assert left_out["empty_response"] == 1
    assert left_out["control_tokens"] == {"pivot": 1, "a": 1, "b": 1, "c": 1}
    # b's window is 1,024 tokens, the others' 256; the prompt has over 1,000 words.
    assert left_out["too_long"] == {"pivot": 1, "a": 1, "b": 1, "c": 1}
    kept = [json.loads(line)["id"] for line in (out / "prepare" / "train.jsonl").open()]
    assert kept == [f"d/{n}" for n in range(6)]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n") * 2)
    examples, empty = read_examples(DataSource(path=str(path), domain="d"), seed=0)
    assert [e.response for e in examples] == ["Hello!", "Hello!"] and empty == 0
