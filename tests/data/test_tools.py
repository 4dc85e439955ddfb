"""Conversations in which functions are called, by every template that writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import write_jsonl
from test_templates import TEMPLATES, rendered, tokenizer_for

from infifusion.align.byte_spans import token_table
from infifusion.align.project import Positions, by_bytes
from infifusion.data.examples import read_examples
from infifusion.data.render import Chat
from infifusion.data.splits import read_splits
from infifusion.data.tokenize import as_rendered, end_of_turn, gold_ids
from infifusion.data.tokenizers import tokenizer_json
from infifusion.data.turns import Run, shared_runs, split_reasoning, written
from infifusion.errors import DataError, TokenizerError
from infifusion.recipe import DataSource, Recipe
from infifusion.stages.combine import positions
from infifusion.types import Example

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its name."}},
            "required": ["city"],
        },
    },
}


def call(city: str, *, text: bool = True, **more: object) -> dict:
    arguments = json.dumps({"city": city}) if text else {"city": city}
    function = {"name": "get_weather", "arguments": arguments}
    return {"id": "call_1", "type": "function", "function": function, **more}


USER = {"role": "user", "content": "Is it warm in Oslo?"}
CALL = {"role": "assistant", "content": None, "tool_calls": [call("Oslo")]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "17 degrees, sun"}
ANSWER = {"role": "assistant", "content": "Yes, it is 17 degrees."}
WHOLE = {"messages": [USER, CALL, RESULT, ANSWER], "tools": [WEATHER]}


def read(tmp_path: Path, *records: dict, **keys: object) -> list[Example]:
    write_jsonl(tmp_path / "x.jsonl", list(records))
    return read_examples(DataSource(path=str(tmp_path / "x.jsonl"), domain="d", **keys), seed=0)[0]


def test_calls_are_learnt_and_results_are_context(tmp_path: Path) -> None:
    first, last = read(tmp_path, WHOLE, train_on="all")
    assert first.response == (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    )
    assert first.tools == (WEATHER,) and last.tools == (WEATHER,)
    assert [m["role"] for m in last.prompt] == ["user", "assistant", "tool"]
    assert last.prompt[2]["content"] == RESULT["content"] and last.response == ANSWER["content"]
    assert [first.id, last.id] == ["d/x-0 · turn 2", "d/x-0 · turn 4"]
    (only,) = read(tmp_path, WHOLE)
    assert only == Example("d/x-0", "d", last.prompt, last.response, tools=last.tools)


WRITERS = [name for name in TEMPLATES if "{{" in TEMPLATES[name]]


@pytest.mark.parametrize("name", WRITERS)
def test_every_template_writes_calls_or_refuses_them_by_name(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_for(TEMPLATES[name], "byte_level")
    table = token_table(tokenizer_json(tokenizer))
    tokenizer.chat_template = TEMPLATES[name]
    can = Chat(tokenizer).template.abilities
    for example in read(tmp_path, WHOLE, train_on="all"):
        if not can.tools or can.calls is None or not can.results:
            with pytest.raises(TokenizerError, match=r"does not write .*(tools|calls|results)"):
                rendered(tokenizer, TEMPLATES[name], example)
            continue
        chat, done = rendered(tokenizer, TEMPLATES[name], example)
        asked = tokenizer.apply_chat_template(
            chat.template.turns(example.prompt),
            tools=list(example.tools),
            add_generation_prompt=True,
        )["input_ids"]
        assert done.ids[: done.first].tolist() == asked
        prompt = tokenizer.decode(asked)
        assert "get_weather" in prompt and (example.answer or RESULT["content"] in prompt)
        # What is learnt says what the answer says, and ends in a token that stands for itself.
        own, length = done.ids[done.first :], len(example.response.encode())
        said = b"".join(table.bytes_V[token] for token in own[done.starts < length]).decode()
        wanted = ["get_weather", "Oslo"] if example.answer else [example.response]
        assert all(word in said for word in wanted)
        assert table.added_V[own[-1]] and np.all(np.diff(done.starts) >= 0)
        # Where it is said to be shared, it is: byte for byte.
        if example.answer is not None:
            assert done.private is not None
            inside = np.flatnonzero((done.starts >= 0) & (done.starts < length) & ~done.private)
            for row in inside.tolist():
                start, text = int(done.starts[row]), table.bytes_V[own[row]]
                assert example.response.encode()[start : start + len(text)] == text
            city = example.response.encode().index(b"Oslo")
            assert (done.starts[inside] <= city).any()


@pytest.mark.skipif("qwen3" not in TEMPLATES, reason="the templates of TRL are not installed")
def test_two_manners_are_aligned_where_their_bytes_are_the_same(tmp_path: Path) -> None:
    example, _ = read(tmp_path, WHOLE, train_on="all")
    sides = []
    for name in ("qwen3_instruct_2507", "llama3_2"):
        tokenizer = tokenizer_for(TEMPLATES[name], "byte_level")
        _, done = rendered(tokenizer, TEMPLATES[name], example)
        both = as_rendered([done])
        sides.append((tokenizer, both, positions(both, gold_ids(both), 0, 1)))
    (qwen, _, pivot), (llama, _, source) = sides
    assert isinstance(pivot, Positions) and pivot.private_R is None  # its form is the common one
    assert source.private_R is not None
    found = by_bytes(source, pivot)
    found = np.where((found >= 0) & ~source.private_R[found], found, -1)
    pairs = [
        (qwen.decode([pivot.gold_R[t]]), llama.decode([source.gold_R[u]]))
        for t, u in enumerate(found.tolist())
        if u >= 0
    ]
    assert all(one[0] == other[0] for one, other in pairs[:-1])
    learnt = "".join(one for one, _ in pairs)
    assert '": {"city": "Oslo"}}' in learnt and "arguments" not in learnt


MISTRAL = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}{% if tools %}[AVAILABLE_TOOLS]"
    "{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}[INST]{{ m.content }}[/INST]"
    "{% elif m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}"
    "{% if c.id | length != 9 %}{{ raise_exception('nine letters') }}{% endif %}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, '
    '"id": "{{ c.id }}"}{% endfor %}]</s>{% elif m.role == \'tool\' %}'
    "{% if m.tool_call_id | length != 9 %}{{ raise_exception('nine letters') }}{% endif %}"
    "[TOOL_RESULTS]{{ m.content }}, {{ m.tool_call_id }}[/TOOL_RESULTS]"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)


def test_ids_have_the_form_that_a_template_wants(tmp_path: Path) -> None:
    tokenizer = tokenizer_for(MISTRAL, "byte_level")
    done = [
        rendered(tokenizer, MISTRAL, example)[1]
        for example in read(tmp_path, WHOLE, train_on="all")
    ]
    whole = tokenizer.decode(done[1].ids)
    assert '"id": "call00000"}]</s>[TOOL_RESULTS]17 degrees, sun, call00000[' in whole
    assert tokenizer.decode(done[0].ids[done[0].first :]).startswith("[TOOL_CALLS][{")


@pytest.mark.skipif("gptoss" not in TEMPLATES, reason="the templates of TRL are not installed")
def test_a_call_may_end_otherwise_than_an_answer(tmp_path: Path) -> None:
    tokenizer = tokenizer_for(TEMPLATES["gptoss"], "byte_level")
    done = [
        rendered(tokenizer, TEMPLATES["gptoss"], example)[1]
        for example in read(tmp_path, WHOLE, train_on="all")
    ]
    ends = [tokenizer.decode(one.ids[-1:]) for one in done]
    assert ends == ["<|call|>", "<|return|>"] and done[0].private[-1]
    assert tokenizer.decode(end_of_turn(as_rendered(done))) == "<|return|>"
    assert done[0].starts[0] == 0  # no channel stands before a call


def test_a_template_that_drops_the_text_beside_a_call_is_not_used(tmp_path: Path) -> None:
    if "llama3_2" not in TEMPLATES:
        pytest.skip("the templates of TRL are not installed")
    both = {**CALL, "content": "Let me look that up."}
    (example,) = read(tmp_path, {"messages": [USER, both], "tools": [WEATHER]})
    tokenizer = tokenizer_for(TEMPLATES["llama3_2"], "byte_level")
    with pytest.raises(TokenizerError, match="leaves out the text 'Let me look that up"):
        rendered(tokenizer, TEMPLATES["llama3_2"], example)
    tokenizer = tokenizer_for(TEMPLATES["qwen2_5"], "byte_level")
    _, done = rendered(tokenizer, TEMPLATES["qwen2_5"], example)
    assert "up.\n<tool_call>" in tokenizer.decode(done.ids[done.first :])


@pytest.mark.parametrize(
    "turns",
    [
        [USER, {"role": "assistant", "tool_calls": [call("Oslo", text=False)]}],
        [USER, {"role": "assistant", "content": "", "tool_calls": [call("Oslo")["function"]]}],
        [USER, {"role": "assistant", "content": None, "function_call": call("Oslo")["function"]}],
        [{"role": "user", "content": [{"type": "text", "text": USER["content"]}]}, CALL],
    ],
)
def test_calls_are_read_in_every_manner(turns: list, tmp_path: Path) -> None:
    (example,) = read(tmp_path, {"messages": turns, "tools": json.dumps([WEATHER["function"]])})
    assert example.answer is not None and example.prompt[0]["content"] == USER["content"]
    assert example.answer["tool_calls"][0]["function"]["arguments"] == {"city": "Oslo"}
    assert example.tools == (WEATHER,)


def test_sharegpt_calls_functions(tmp_path: Path) -> None:
    record = {
        "conversations": [
            {"from": "human", "value": USER["content"]},
            {"from": "function_call", "value": json.dumps(call("Oslo")["function"])},
            {"from": "observation", "value": "<tool_response>\n17 degrees\n</tool_response>"},
            {"from": "gpt", "value": "17 degrees.", "weight": 0},
        ],
        "tools": json.dumps([WEATHER]),
    }
    (example,) = read(tmp_path, record, train_on="all")  # the last turn has no weight
    assert example.answer is not None and "Oslo" in example.response
    (none,) = read_turns(tmp_path, record)
    assert none.prompt[2]["content"] == "17 degrees"


def read_turns(tmp_path: Path, record: dict) -> list[Example]:
    del record["conversations"][-1]["weight"]
    return read(tmp_path, record)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": [USER, {**CALL, "tool_calls": "{"}]}, "a call of functions is not JSON"),
        ({"messages": [USER, {**CALL, "tool_calls": [{"type": "function"}]}]}, "a call is"),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [call("x") | {"function": {
                "name": "f", "arguments": "{x"}}]}]},
            "the call of 'f' has arguments that are not JSON",
        ),
        ({**WHOLE, "tools": "["}, "tools is a text that is not JSON"),
        ({**WHOLE, "tools": [{"type": "web_search"}]}, "one of its tools is"),
        ({"messages": [{**USER, "tool_calls": [call("x")]}, ANSWER]}, "by 'user' calls functions"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]},
            "a part of the type 'image'; only text is read",
        ),
    ],
)  # fmt: skip
def test_what_is_no_call_is_refused_by_its_line(record: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"x\.jsonl, line 1, example 1.*{message}"):
        read(tmp_path, record)


def test_a_table_s_nulls_are_no_arguments(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    other = call("x", text=False) | {"function": {"name": "add", "arguments": {"a": "1"}}}
    rows = [
        {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [one]}]}
        for one in (call("Oslo", text=False), other)
    ]
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    first, second = read_examples(DataSource(path=str(path), domain="d"), seed=0)[0]
    assert first.response.count("null") == 0 and second.response.count("null") == 0
    assert '{"a": "1"}' in second.response


def test_a_model_without_a_template_is_not_asked_without_the_functions() -> None:
    tokenizer = tokenizer_for("", "byte_level")
    example = Example("e", "d", (USER,), "x", tools=(WEATHER,))
    with pytest.raises(TokenizerError, match="no chat template to write them"):
        Chat(tokenizer, "{prompt}\n{response}").conversation(example)


def test_runs_are_those_of_both_texts() -> None:
    common, own = 'Hm. {"name": "f", "arguments": {"é": 1}}', 'Hm.{"name": "f", "p": {"é": 1}}!'
    runs = shared_runs(common, own, ["Hm.", '{"é": 1}'])
    assert runs == [Run(3, 4, 15), Run(19, 28, 12)]
    for run in runs:
        assert own[run.own : run.own + run.size] == common[run.common : run.common + run.size]


def test_reasoning_kept_apart_is_written_in_front(tmp_path: Path) -> None:
    record = {"messages": [USER, {**ANSWER, "reasoning_content": "Summer."}]}
    (example,) = read(tmp_path, record)
    assert example.response == "<think>\nSummer.\n</think>\n\nYes, it is 17 degrees."
    assert example.answer is not None and example.response == written(example.answer)
    assert split_reasoning(example.response) == {**example.answer}
    assert split_reasoning("<think>\n\n</think>\n\nYes") is None


@pytest.mark.parametrize(
    ("name", "learnt"),
    [
        ("qwen3", "<think>\nSummer.\n</think>\n\nYes, it is 17 degrees.<|im_end|>"),
        ("qwen3_5_think", "Summer.\n</think>\n\nYes, it is 17 degrees.<|im_end|>"),
        ("deepseek_r1_distill", "Summer.\n</think>\n\nYes, it is 17 degrees.<｜end▁of▁sentence｜>"),
        ("gptoss", "<|channel|>analysis<|message|>Summer.<|end|><|start|>assistant<|channel|>final"
         "<|message|>Yes, it is 17 degrees.<|return|>"),
        ("llama3", "Yes, it is 17 degrees.<|eot_id|>"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("apart", [True, False])
def test_reasoning_is_learnt_as_the_model_would_write_it(
    name: str, learnt: str, apart: bool, tmp_path: Path
) -> None:
    if name not in TEMPLATES:
        pytest.skip("the templates of TRL are not installed")
    text = "<think>\nSummer.\n</think>\n\n" + ANSWER["content"]
    answer = {**ANSWER, "reasoning_content": "Summer."} if apart else {**ANSWER, "content": text}
    (example,) = read(tmp_path, {"messages": [USER, answer]})
    tokenizer = tokenizer_for(TEMPLATES[name], "byte_level")
    _, done = rendered(tokenizer, TEMPLATES[name], example)
    found = tokenizer.decode(done.ids[done.first :])
    if name in ("gptoss", "llama3") and not apart:
        learnt = found  # the block is text to them, and kept as it is
        assert text in found
    assert found == learnt
    assert done.unreasoned == (name == "llama3" and apart)


def test_turns_of_one_conversation_stay_on_one_side(suite, make_recipe, tmp_path: Path) -> None:
    answers = [{"role": "assistant", "content": f"answer {n}"} for n in range(3)]
    turns = [turn for answer in answers for turn in (USER, answer)]
    records = [
        {"id": f"turn {n}", "messages": [{**USER, "content": f"{n}?"}, *turns[1:]]}
        for n in range(20)
    ]
    write_jsonl(tmp_path / "x.jsonl", records)
    source = {"path": str(tmp_path / "x.jsonl"), "domain": "d", "train_on": "all"}
    recipe = Recipe(**make_recipe(suite, data={"train": [source], "validation_share": 0.2}))
    splits, _ = read_splits(recipe, [])
    sides = [{e.id.partition(" · ")[0] for e in splits[name]} for name in ("train", "validation")]
    assert [len(side) for side in sides] == [16, 4] and not sides[0] & sides[1]
    assert [len(splits[name]) for name in ("train", "validation")] == [48, 12]
