"""Folders from which a tokenizer is loaded, and those from which it must not be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import byte_level_tokenizer
from tokenizers import Tokenizer

from infifusion.data.tokenizers import encode, load_tokenizer, tokenizer_identity
from infifusion.errors import TokenizerError


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gpt2", "gpt_neox", "gemma"])
@pytest.mark.parametrize("config", [None, {"added_tokens_decoder": {"7": {"content": "<call>"}}}])
def test_a_tokenizer_without_vocabulary_is_refused_with_what_the_folder_holds(
    tmp_path: Path, kind: str, config: dict | None
) -> None:
    """transformers makes one of the family's special tokens where a folder has no tokenizer."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    files = "config.json" + (", tokenizer_config.json" if config else "")
    says = f"has no vocabulary, .*The folder holds {files}. Expected tokenizer.json, or"
    with pytest.raises(TokenizerError, match=says):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    "last",
    [
        {"truncation": True, "max_length": 4},
        {"padding": "max_length", "max_length": 40},
        {"truncation": True, "padding": "max_length", "max_length": 4},
    ],
    ids=["truncation", "padding", "both"],
)
def test_truncation_and_padding_that_a_batch_left_in_the_file_do_not_count(
    tmp_path: Path, last: dict
) -> None:
    clean = byte_level_tokenizer(300)
    clean.save_pretrained(tmp_path / "clean")
    tokenizer = byte_level_tokenizer(300)
    tokenizer(["one two three"], **last)
    tokenizer.save_pretrained(tmp_path / "student")
    text = "one two three four five"
    alone = Tokenizer.from_file(str(tmp_path / "student" / "tokenizer.json"))
    assert len(alone.encode(text).ids) != len(clean(text)["input_ids"])  # what the file says
    loaded = load_tokenizer(str(tmp_path / "student"))
    assert loaded(text)["input_ids"] == clean(text)["input_ids"]
    assert encode(loaded, [text]) == [clean(text)["input_ids"]]
    assert tokenizer_identity(loaded) == tokenizer_identity(load_tokenizer(str(tmp_path / "clean")))
