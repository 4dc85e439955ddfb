from __future__ import annotations

import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import byte_level_tokenizer, sentencepiece_tokenizer

from infifusion.align.byte_spans import byte_starts, token_table
from infifusion.data.render import Chat, Conversation
from infifusion.data.store import load_rendered, write_rendered
from infifusion.data.tokenize import as_rendered, end_of_turn, ends_of, gold_ids, tokenize
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
    conversation = Chat(tokenizer, PLAIN).conversation(one)
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
            piece = table.bytes_V[token]  # the first may begin in the prompt
            assert piece[max(0, -start) :] == data[max(0, start) : end]
            assert start >= 0 or done.straddles


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


def test_a_template_that_leaves_reasoning_out_of_the_history_is_asked_with_its_prompt() -> None:
    """The prompt opens a block of reasoning that the answered conversation does not show."""
    thinking = CHAT.replace("<|assistant|>\n", "<|assistant|>\n<think>\n")
    conversation = Chat(chat_tokenizer(thinking), PLAIN).conversation(example("Hi", "Yes"))
    data = conversation.text.encode()
    assert data[: conversation.prompt] == b"<|user|>\nHi<|end|>\n<|assistant|>\n<think>\n"
    # An answer without reasoning closes the block at once, which the model has to learn.
    assert data[conversation.prompt : conversation.start] == b"</think>\n\n"
    assert data[conversation.start :] == b"Yes<|end|>\n"


def test_a_template_that_changes_the_response_is_refused() -> None:
    shouting = CHAT.replace("m.content", "m.content | upper")
    with pytest.raises(TokenizerError, match="changes the response"):
        Chat(chat_tokenizer(shouting), PLAIN).conversation(example("HI", "yes"))


def test_a_template_that_fails_is_named_with_the_roles() -> None:
    failing = "{{ raise_exception('only user') }}"
    with pytest.raises(TokenizerError, match=r"roles \['user'\].*only user"):
        Chat(chat_tokenizer(failing), PLAIN).conversation(example("HI", "yes"))


def test_an_empty_plain_prompt_is_refused() -> None:
    with pytest.raises(DataError, match="empty prompt"):
        Chat(byte_level_tokenizer(300), PLAIN).conversation(example("", "yes"))


def test_a_token_over_the_border_is_the_first_of_the_response() -> None:
    tokenizer = byte_level_tokenizer(320, ["has coins"] * 50)
    table = token_table(tokenizer_json(tokenizer))
    conversation = Conversation("Ben ha" + "s coins", 6, 13, 0, length=7, prompt=6, asked=6)
    (done,) = tokenize(
        tokenizer, [conversation], partial(byte_starts, table), templated=False, names=["x"]
    )
    # "has" begins two bytes before the response; the model writes it, so it is learnt.
    assert table.bytes_V[done.ids[done.first]] == b"has" and done.straddles
    assert done.starts[:2].tolist() == [-2, 1]


def test_a_templated_prompt_keeps_the_tokens_that_are_asked() -> None:
    """Where the whole text would melt prompt and response together, they are cut apart."""
    tokenizer = byte_level_tokenizer(320, ["a\n\n\n"] * 50)
    tokenizer.chat_template = CHAT
    table = token_table(tokenizer_json(tokenizer))
    assert "ĊĊĊ" in tokenizer.get_vocab()
    one = example("Hi", "\n\n b")
    conversation = Chat(tokenizer, PLAIN).conversation(one)
    (done,) = tokenize(
        tokenizer, [conversation], partial(byte_starts, table), templated=True, names=["x"]
    )
    asked = tokenizer.apply_chat_template(list(one.prompt), add_generation_prompt=True)["input_ids"]
    assert done.ids[: done.first].tolist() == asked
    learnt = done.ids[done.first :][done.starts < done.starts[-1]]
    assert b"".join(table.bytes_V[i] for i in learnt) == b"\n\n b"
    assert done.starts[0] == 0 and not done.straddles


@pytest.mark.parametrize(
    ("behind", "stop", "way"),
    [
        ("<|end|>", "<|end|>", ["<|end|>"]),
        ("\n<|end|>", "<|end|>", ["\n", "<|end|>"]),  # deepseek-coder's manner
        ("<|assistant|><|end|>", "<|end|>", ["<|assistant|>", "<|end|>"]),
        ("<|end|>\n<|user|>", None, ["<|end|>"]),  # no stop is known: the template's own mark
        ("\n", None, ["<|user|>"]),  # the next turn ends this one
    ],
)
def test_the_end_of_a_turn_is_the_way_to_the_token_at_which_generation_stops(
    behind: str, stop: str | None, way: list[str]
) -> None:
    marked = CHAT.replace("<|end|>\n", behind).replace("<|user|>", "<|user|>")
    if way == ["<|user|>"]:
        marked = CHAT.replace("<|end|>\n", "")
    tokenizer = chat_tokenizer(marked)
    stops = [] if stop is None else [tokenizer.convert_tokens_to_ids(stop)]
    table = token_table(tokenizer_json(tokenizer))
    chat = Chat(tokenizer, PLAIN)
    (done,) = tokenize(
        tokenizer,
        [chat.conversation(example("Hi", "Yes, 7"))],
        partial(byte_starts, table),
        templated=True,
        names=["x"],
        ends=ends_of(tokenizer, stops),
    )
    behind_it = done.ids[done.first :][done.starts == 6]
    assert [tokenizer.decode([i]) for i in behind_it] == way
    assert end_of_turn(as_rendered([done])) == tuple(behind_it.tolist())


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
