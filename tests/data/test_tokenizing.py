"""Conversations as tokens, many at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import byte_level_tokenizer

from infifusion.process import runtime
from infifusion.recipe import Model
from infifusion.stages.rendering import open_renderer
from infifusion.types import Example, Message

EXAMPLES = [
    Example(f"d/{n}", "d", (Message(role="user", content=f"What is {n}?"),), f"It is {n}.")
    for n in range(64)
]


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_tokenizing_uses_all_processors_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A billion tokens of five models take hours on one processor, while the GPUs wait."""
    byte_level_tokenizer(320).save_pretrained(tmp_path)
    renderer = open_renderer(Model(model=str(tmp_path)), plain_template="{prompt}\n{response}")
    monkeypatch.setattr(runtime, "TOKENIZERS_ASKED", "false")
    alone, before = renderer.tokenize_each(EXAMPLES), threads()
    monkeypatch.setattr(runtime, "TOKENIZERS_ASKED", None)
    shared = renderer.tokenize_each(EXAMPLES)
    assert threads() > before, "its workers stay"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false", "as it was: processes that fork need it"
    assert [one.ids.tolist() for one in shared] == [one.ids.tolist() for one in alone]
    assert [one.starts.tolist() for one in shared] == [one.starts.tolist() for one in alone]
