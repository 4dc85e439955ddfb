"""Formats of training data that are told by their columns."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from conftest import write_jsonl

from infifusion.data.examples import read_examples
from infifusion.data.files import first_record
from infifusion.data.formats import FORMATS, recognise
from infifusion.errors import DataError
from infifusion.recipe import DataSource

USER = {"role": "user", "content": "2+3?"}
ANSWER = {"role": "assistant", "content": "5"}
SYSTEM = {"role": "system", "content": "Be brief."}
RECORDS = {
    "prompt-response": {"prompt": "2+3?", "response": "5"},
    "prompt-completion": {"prompt": "2+3?", "completion": "5"},
    "conversational prompt-completion": {"prompt": [USER], "completion": [ANSWER]},
    "conversational": {"messages": [USER, ANSWER]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "5"}]
    },
    "alpaca": {"instruction": "2+3?", "input": "", "output": "5"},
}


def source(path: Path, **keys: str) -> DataSource:
    return DataSource(path=str(path), domain="d", **keys)


def test_every_format_has_a_record_here() -> None:
    assert set(RECORDS) == set(FORMATS) and len(FORMATS) == 6


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_every_format_says_the_same_conversation(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, [RECORDS[name]])
    elif suffix == "json":
        path.write_text(json.dumps([RECORDS[name]]), encoding="utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([RECORDS[name]]), path)
    assert recognise(first_record(source(path)) or {}, "here").name == name
    (example,), _ = read_examples(source(path), seed=0)
    assert list(example.prompt) == [USER] and example.response == "5"


def test_csv_is_read_with_quoted_breaks_and_numbers_as_text(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(
            [["instruction", "input", "output"], ["Add,\nplease", "2 and 3", "5"]]
        )
    (example,), _ = read_examples(source(path), seed=0)
    assert example.prompt[0]["content"] == "Add,\nplease\n\n2 and 3" and example.response == "5"
    (named,), _ = read_examples(source(path, prompt="{input}?", response="output"), seed=0)
    assert named.prompt[0]["content"] == "2 and 3?"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"prompt,response\na,b,c\n", "row 1 .line 2.: expected 2 values"),
        (b"prompt,response\na\n", "row 1 .line 2.: expected 2 values"),
        (b'prompt,response\na,"b\n', "line 1: not CSV"),
        (b"prompt,response\n\xff,b\n", "not a CSV file in UTF-8"),
        (b"prompt,response\n", "holds no examples"),
    ],
)
def test_a_bad_csv_is_refused_by_row(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_examples(source(path), seed=0)


def test_turns_roles_and_system_prompts_are_kept(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "a"},
        {"from": "gpt", "value": "b"},
        {"from": "human", "value": "c"},
        {"from": "gpt", "value": "d"},
    ]
    write_jsonl(tmp_path / "x.jsonl", [{"system": "Be brief.", "conversations": turns}])
    (example,), _ = read_examples(source(tmp_path / "x.jsonl"), seed=0)
    assert example.prompt[0] == SYSTEM
    assert [turn["role"] for turn in example.prompt[1:]] == ["user", "assistant", "user"]
    assert example.response == "d"
    # ... and the same where the recipe names the column itself, without the system column.
    (named,), _ = read_examples(source(tmp_path / "x.jsonl", messages="conversations"), seed=0)
    assert named.prompt == example.prompt[1:]


def test_an_unknown_speaker_is_refused(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "narrator", "value": "b"}]
    write_jsonl(tmp_path / "x.jsonl", [{"conversations": turns}])
    with pytest.raises(DataError, match="example 1: conversations has a turn from 'narrator'"):
        read_examples(source(tmp_path / "x.jsonl"), seed=0)


def test_an_unknown_format_lists_the_columns_and_the_keys_to_write() -> None:
    with pytest.raises(DataError) as caught:
        recognise({"question": "q", "answer": "a"}, "x.jsonl, example 1")
    said = str(caught.value)
    assert "Columns: question, answer" in said and "`prompt: COLUMN, response: COLUMN`" in said
    assert "alpaca: instruction, output" in said
    assert "Here perhaps `prompt: question, response: answer`" in said


def test_an_ambiguous_record_names_the_formats_it_could_be() -> None:
    record = {**RECORDS["conversational"], **RECORDS["prompt-response"]}
    with pytest.raises(DataError, match=r"more than one format: prompt-response .*conversational"):
        recognise(record, "here")


def test_a_prompt_beside_messages_is_no_second_format() -> None:
    assert recognise({"prompt": "2+3?", **RECORDS["conversational"]}, "x").name == "conversational"


def test_a_later_record_of_another_form_is_refused_by_its_place(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", [RECORDS["alpaca"], RECORDS["prompt-response"]])
    with pytest.raises(DataError, match="example 2: the file's first example is of the format alp"):
        read_examples(source(tmp_path / "x.jsonl"), seed=0)


def test_named_columns_are_never_second_guessed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", [{**RECORDS["alpaca"], "other": "six"}])
    named = source(tmp_path / "x.jsonl", prompt="instruction", response="other")
    (example,), _ = read_examples(named, seed=0)
    assert example.response == "six"
    with pytest.raises(ValueError, match="give messages, or prompt and response, not both"):
        source(tmp_path / "x.jsonl", prompt="a", messages="b")


@pytest.mark.parametrize(
    "turns", [[], 3, "human: hi", {"from": "human"}, [{"from": "human"}], [{"value": "hi"}], [None]]
)
def test_conversations_that_are_no_turns_are_named(tmp_path: Path, turns: object) -> None:
    """Of a later record, where the first one has said what the format is."""
    whole = [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "5"}]
    records = [{"conversations": whole, "system": "Be brief."}]
    records += [{"conversations": turns, "system": "Be brief."}]
    write_jsonl(tmp_path / "x.jsonl", records)
    with pytest.raises(DataError, match="example 2: expected conversations to be a list of one"):
        read_examples(source(tmp_path / "x.jsonl"), seed=0)
