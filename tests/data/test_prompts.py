from __future__ import annotations

from pathlib import Path

import pytest
from conftest import write_jsonl

from infifusion.data.examples import own_names
from infifusion.data.prompts import read_prompts
from infifusion.errors import DataError
from infifusion.recipe import PromptSource


def source(path: Path, **more: object) -> PromptSource:
    return PromptSource(path=str(path), domain="d", **more)


def test_prompts_are_read_with_their_tests_and_code(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"id": 7, "q": "add", "t": "assert f(1) == 2", "c": "def f(k):\n"}])
    (found,), left_out = read_prompts(
        [source(path, prompt="Q: {q}", tests="t", code="{c}    return")], seed=0
    )
    assert (found.id, found.part, found.messages[0]["content"]) == ("d/7", 0, "Q: add")
    assert (found.tests, found.code) == ("assert f(1) == 2", "def f(k):\n    return")
    assert left_out == {"empty_prompt": 0, "duplicate_prompt": 0}


def test_empty_and_repeated_prompts_are_left_out_and_counted(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    write_jsonl(one, [{"prompt": "a"}, {"prompt": " \n"}, {"prompt": "b"}, {"prompt": "a"}])
    write_jsonl(two, [{"prompt": "b"}, {"prompt": "c"}])
    found, left_out = read_prompts([source(one), source(two)], seed=0)
    assert [p.messages[0]["content"] for p in found] == ["a", "b", "c"]
    assert [p.part for p in found] == [0, 0, 1]
    assert left_out == {"empty_prompt": 1, "duplicate_prompt": 2}


def test_every_prompt_has_a_name_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"id": "n", "prompt": text} for text in "abc"])
    found, _ = read_prompts([source(path)], seed=0)
    assert [p.id for p in found] == ["d/n", "d/n#2", "d/n#3"]
    assert own_names(["x", "x", "x#2", "x", "x#2"]) == ["x", "x#3", "x#2", "x#4", "x#2#2"]


def test_a_conversation_that_waits_for_its_answer_is_a_prompt(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [{"turns": turns}])
    (found,), _ = read_prompts([source(path, messages="turns")], seed=0)
    assert list(found.messages) == turns
    write_jsonl(path, [{"turns": [*turns, {"role": "assistant", "content": "a"}]}])
    with pytest.raises(
        DataError, match=r"x\.jsonl, line 1, prompt 1: the last message is the assistant's"
    ):
        read_prompts([source(path, messages="turns")], seed=0)


@pytest.mark.parametrize(
    ("record", "more", "message"),
    [
        ({"promt": "p"}, {}, "there is no 'prompt'. Did you mean 'promt'"),
        ({"prompt": 3}, {}, "It is not prompt-only: 'prompt' holds a int"),
        ({"prompt": 3}, {"prompt": "prompt"}, "holds a int; expected text"),
        ({"question": "p"}, {}, "`prompt: COLUMN` .* Here perhaps `prompt: question`"),
        ({"prompt": "p", "messages": [{"role": "user", "content": "u"}]}, {}, "more than one"),
        ({"prompt": "p", "tests": " "}, {"tests": "tests"}, "tests .tests. are empty"),
        ({"prompt": "p"}, {"tests": "test"}, "no field 'test'"),
        ({"prompt": "p"}, {"messages": "prompt"}, "a list of 1 or more messages"),
        ({"prompt": " "}, {}, "every prompt is empty"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, record: dict, more: dict, message: str) -> None:
    path = tmp_path / "x.jsonl"
    write_jsonl(path, [record])
    with pytest.raises(DataError, match=message):
        read_prompts([source(path, **more)], seed=0)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "u"},
        {"prompt": [{"role": "user", "content": "u"}]},
        {"messages": [{"role": "user", "content": "u"}]},
        {"conversations": [{"from": "human", "value": "u"}]},
        {"instruction": "u", "input": "", "output": "an answer that is not read"},
    ],
)
def test_prompts_of_every_format_are_recognised(tmp_path: Path, record: dict) -> None:
    write_jsonl(tmp_path / "x.jsonl", [record])
    (found,), _ = read_prompts([source(tmp_path / "x.jsonl")], seed=0)
    assert list(found.messages) == [{"role": "user", "content": "u"}]


def test_prompt_and_messages_are_one_or_the_other() -> None:
    with pytest.raises(ValueError, match="give messages or prompt, not both"):
        source(Path("x.jsonl"), prompt="a", messages="b")
