from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import byte_level_tokenizer, sentencepiece_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from infifusion.align.byte_spans import byte_level_alphabet, byte_starts, token_table
from infifusion.data.tokenizers import encode, tokenizer_json
from infifusion.errors import TokenizerError

HARD = [
    "",
    " ",
    "  two  blanks ",
    "tabs\tand\r\nCRLF\n\n\n",
    "emoji 🙂🙂🏽 and 日本語 and e\u0301",
    "1234567890",
    "\u00a0\u2003",
    "a" * 300,
]

BYTE_LEVEL = byte_level_tokenizer(320)
SENTENCEPIECE = sentencepiece_tokenizer(330)
TABLES = {id(t): token_table(tokenizer_json(t)) for t in (BYTE_LEVEL, SENTENCEPIECE)}


def assert_tiles(tokenizer, text: str) -> None:
    """Spans ascend, cover the text, and each token's bytes are the text's bytes there."""
    table = TABLES[id(tokenizer)]
    (ids,) = encode(tokenizer, [text])
    starts = byte_starts(table, ids, text)
    data = text.encode()
    assert starts[0] == 0 and starts[-1] == len(data)
    for token, start, end in zip(ids, starts[:-1], starts[1:], strict=True):
        piece = table.bytes_V[token]
        assert piece == data[start:end] or piece == b" " + data[start:end]


@pytest.mark.parametrize("text", HARD)
@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["byte", "piece"])
def test_spans_tile_hard_texts_byte_for_byte(tokenizer, text: str) -> None:
    assert_tiles(tokenizer, text)


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_characters="\u2581", exclude_categories=["Cs"]), max_size=60))
def test_spans_tile_any_text_byte_for_byte(text: str) -> None:
    assert_tiles(BYTE_LEVEL, text)
    assert_tiles(SENTENCEPIECE, text)


def test_the_dummy_prefix_has_zero_width() -> None:
    table = TABLES[id(SENTENCEPIECE)]
    (ids,) = encode(SENTENCEPIECE, ["Ben has"])
    starts = byte_starts(table, ids, "Ben has")
    assert table.bytes_V[ids[0]].startswith(b" ")
    # "Ben has" is 7 bytes; the first token's blank is not one of them.
    assert starts[0] == 0 and starts[1] == len(table.bytes_V[ids[0]]) - 1 and starts[-1] == 7


def test_a_dummy_prefix_after_an_added_token_has_zero_width() -> None:
    tokenizer = sentencepiece_tokenizer(330)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    table = token_table(tokenizer_json(tokenizer))
    text = "Ben<turn>has"
    (ids,) = encode(tokenizer, [text])
    starts = byte_starts(table, ids, text)
    turn = ids.index(tokenizer.convert_tokens_to_ids("<turn>"))
    assert (starts[turn], starts[turn + 1], starts[-1]) == (3, 9, 12)


def test_the_byte_level_alphabet_names_every_byte_once() -> None:
    alphabet = byte_level_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert alphabet["A"] == 65 and alphabet["Ġ"] == 32 and alphabet["Ċ"] == 10


def test_a_lower_casing_tokenizer_is_refused() -> None:
    values = json.loads(BYTE_LEVEL.backend_tokenizer.to_str())
    values["normalizer"] = {"type": "Lowercase"}
    tokenizer = Tokenizer.from_str(json.dumps(values))
    table = token_table(values)
    text = "Ben Has"
    with pytest.raises(TokenizerError, match="do not tile the text: at byte 0"):
        byte_starts(table, tokenizer.encode(text).ids, text)


def test_wordpiece_is_refused() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    with pytest.raises(TokenizerError, match="WordPiece"):
        token_table(json.loads(tokenizer.to_str()))


@pytest.mark.parametrize("name", ["qwen", "mistral_v1", "gpt2"])
def test_spans_of_real_tokenizers_tile_real_text(shared, name: str) -> None:
    from infifusion.data.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(str(shared / "tokenizers" / name))
    table = token_table(tokenizer_json(tokenizer))
    lines = (shared / "data" / "math500.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["solution"] for line in lines] + HARD
    for ids, text in zip(encode(tokenizer, texts), texts, strict=True):
        starts = byte_starts(table, ids, text)
        assert starts[-1] == len(text.encode()) and (np.diff(starts) >= 0).all()
    assert len(texts) == 500 + len(HARD)
