from __future__ import annotations

import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import byte_level_tokenizer, sentencepiece_tokenizer

from infifusion.align.byte_spans import byte_starts, token_table
from infifusion.data.render import Conversation, render
from infifusion.data.store import load_rendered, write_rendered
from infifusion.data.tokenize import as_rendered, gold_ids, tokenize
from infifusion.data.tokenizers import leading_ids, load_tokenizer, tokenizer_json
from infifusion.errors import DataError, TokenizerError
from infifusion.types import Example, Message, Rendered

PLAIN = "{prompt}{response}"
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TRIMMING = CHAT.replace("m.content", "m.content | trim")
THINKING = CHAT.replace("<|assistant|>\n", "<|assistant|>\n<think></think>")


def example(prompt: str, response: str) -> Example:
    return Example("d/0", "d", (Message(role="user", content=prompt),), response)


def chat_tokenizer(template: str):
    tokenizer = byte_level_tokenizer(320)
    names = ["<|user|>", "<|assistant|>", "<|end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    tokenizer.chat_template = template
    return tokenizer


def rows(tokenizer, one: Example, *, templated: bool):
    conversation = render(tokenizer, one, plain_template=PLAIN)
    table = token_table(tokenizer_json(tokenizer))
    (done,) = tokenize(
        tokenizer,
        [conversation],
        partial(byte_starts, table),
        templated=templated,
        names=[one.id],
    )
    return done, table, conversation


@pytest.mark.parametrize("response", ["5+2=7 🙂", " leading blank", "ends in blanks  ", "日本\r\n"])
def test_response_tokens_start_at_their_bytes_of_the_response(response: str) -> None:
    for tokenizer in (byte_level_tokenizer(320), sentencepiece_tokenizer(330)):
        done, table, _ = rows(tokenizer, example("Ben has?\n", response), templated=False)
        data = response.encode()
        tokens = done.ids[done.first :]
        assert tokens[-1] == tokenizer.eos_token_id and done.starts[-1] == len(data)
        ends = [*done.starts[1:]]
        for token, start, end in zip(tokens[:-1], done.starts[:-1], ends, strict=True):
            assert table.bytes_V[token] == data[start:end]


def test_a_chat_template_ends_the_turn_with_its_own_token() -> None:
    tokenizer = chat_tokenizer(CHAT)
    done, _, conversation = rows(tokenizer, example("Hi", "Yes <b>"), templated=True)
    assert conversation.text.endswith("Yes <b><|end|>\n")
    assert done.ids[-1] == tokenizer.convert_tokens_to_ids("<|end|>")
    assert tokenizer.decode(done.ids[done.first : -1]) == "Yes <b>"
    assert done.starts[0] == 0 and done.starts[-1] == 7


def test_a_template_that_trims_the_response_keeps_its_byte_positions() -> None:
    done, _table, conversation = rows(
        chat_tokenizer(TRIMMING), example("Hi", "  two "), templated=True
    )
    assert conversation.lead == 2
    # "two" starts at byte 2 of the response; the end of the turn at its full length, 6.
    assert done.starts[0] == 2 and done.starts[-1] == 6


def test_a_template_that_rewrites_the_prompt_once_the_answer_is_there_is_refused() -> None:
    with pytest.raises(TokenizerError, match="writes the conversation before the response"):
        render(chat_tokenizer(THINKING), example("Hi", "Yes"), plain_template=PLAIN)


def test_a_template_that_changes_the_response_is_refused() -> None:
    shouting = CHAT.replace("m.content", "m.content | upper")
    with pytest.raises(TokenizerError, match="changes the response"):
        render(chat_tokenizer(shouting), example("HI", "yes"), plain_template=PLAIN)


def test_a_template_that_fails_is_named_with_the_roles() -> None:
    failing = "{{ raise_exception('only user') }}"
    with pytest.raises(TokenizerError, match=r"roles \['user'\].*only user"):
        render(chat_tokenizer(failing), example("HI", "yes"), plain_template=PLAIN)


def test_an_empty_plain_prompt_is_refused() -> None:
    with pytest.raises(DataError, match="empty prompt"):
        render(byte_level_tokenizer(300), example("", "yes"), plain_template=PLAIN)


def test_a_token_over_the_border_counts_as_prompt() -> None:
    tokenizer = byte_level_tokenizer(320, ["has coins"] * 50)
    table = token_table(tokenizer_json(tokenizer))
    conversation = Conversation("Ben ha" + "s coins", 6, 13, lead=0, length=7)
    (done,) = tokenize(
        tokenizer, [conversation], partial(byte_starts, table), templated=False, names=["x"]
    )
    assert done.straddles and done.starts[0] == 1
    assert table.bytes_V[done.ids[done.first - 1]].endswith(b"has")


def test_rendered_examples_come_back_from_disk_and_gold_ids_are_the_response(tmp_path) -> None:
    tokenizer = byte_level_tokenizer(320)
    some = [example("a\n", "5+2=7"), example("longer prompt\n", "x")]
    done = [rows(tokenizer, one, templated=False)[0] for one in some]
    rendered = as_rendered(done)
    write_rendered(tmp_path / "r.safetensors", rendered)
    again = load_rendered(tmp_path / "r.safetensors")
    expected = [token for one in done for token in one.ids[one.first :]]
    assert gold_ids(again).tolist() == expected
    assert np.diff(again.row_N1).tolist() == [len(one.starts) for one in done]


def test_prepared_data_is_not_copied_into_every_process(tmp_path: Path) -> None:
    """Eight processes that fuse four sources would hold 320 GB of a billion tokens."""
    tokens, path = 1_000_000, tmp_path / "r.safetensors"
    ids_L, none = np.arange(tokens, dtype=np.int32), np.zeros(0, np.int32)
    bounds = np.array([0, tokens], np.int64)
    write_rendered(path, Rendered(ids_L, bounds, np.ones(1, np.int32), none, bounds))
    tracemalloc.start()
    try:
        again = load_rendered(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(again.ids_L, ids_L) and again.ids_L.dtype == np.int32
    assert most < tokens


def test_gold_ids_take_little_more_memory_than_they_have() -> None:
    """Five bytes a position, not twenty: every process of a run asks for those of every model."""
    examples, first, length = 2_000, 10, 510
    offset_N1 = np.arange(examples + 1, dtype=np.int64) * length
    row_N1 = np.arange(examples + 1, dtype=np.int64) * (length - first)
    ids_L = np.arange(offset_N1[-1], dtype=np.int32)
    first_N, start_R = np.full(examples, first, np.int32), np.zeros(row_N1[-1], np.int32)
    rendered = Rendered(ids_L, offset_N1, first_N, start_R, row_N1)
    tracemalloc.start()
    try:
        gold_R = gold_ids(rendered)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(gold_R, ids_L.reshape(examples, length)[:, first:].reshape(-1))
    assert most < 6 * len(gold_R)


def test_a_beginning_of_text_that_the_tokenizer_adds_is_found() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = sentencepiece_tokenizer(330)
    assert leading_ids(tokenizer) == []
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    assert leading_ids(tokenizer) == [tokenizer.bos_token_id]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="No tokenizer could be loaded"):
        load_tokenizer(str(tmp_path))
