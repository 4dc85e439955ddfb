"""The chat templates that people have: those that the installed TRL brings along, and manners of
older ones. What is trained is what is asked, and the turn ends where generation stops."""

from __future__ import annotations

import importlib.util
import re
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from conftest import byte_level_tokenizer, sentencepiece_tokenizer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from infifusion.align.byte_spans import byte_starts, token_table
from infifusion.data.render import Chat
from infifusion.data.tokenize import Tokenized, ends_of, tokenize
from infifusion.data.tokenizers import tokenizer_json, with_variables
from infifusion.types import Example, Message

MARK = re.compile(r"<[|｜]?[A-Za-z_▁/]+[|｜]?>")
IN_PARTS = ("idefics3", "llava_next", "smolvlm")
"""Templates that read content as a list of parts."""

OWN = {
    "llama2": (
        "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
    ),
    "mistral": (
        "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
    ),
    "vicuna": (
        "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} "
        "{% else %}ASSISTANT: {{ m.content }}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
    "deepseek_coder": (
        "{% for m in messages %}{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n"
        "{% else %}### Response:\n{{ m.content }}\n<|EOT|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
    "openchat": (
        "{% for m in messages %}GPT4 Correct {{ m.role | title }}: {{ m.content }}"
        "<|end_of_turn|>{% endfor %}"
        "{% if add_generation_prompt %}GPT4 Correct Assistant:{% endif %}"
    ),
    "falcon": (
        "{% for m in messages %}{{ m.role | title }}: {{ m.content | trim }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
    "zephyr": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "next_turn_ends": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    "line_break_then_end": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
}
ONE = Message(role="user", content="What is 6*7?")
EXAMPLES = [
    Example("a", "d", (ONE,), "6*7=42"),
    Example("b", "d", (ONE,), " So:\n6*7 = 42.\n"),
    Example("c", "d", (ONE, Message(role="assistant", content="42"), ONE), "\n\nAs I said: 42"),
]


def _templates() -> dict[str, str]:
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        return OWN
    folder = Path(spec.origin).parent / "chat_templates"
    return {path.stem: path.read_text("utf-8") for path in sorted(folder.glob("*.jinja"))} | OWN


TEMPLATES = _templates()


@cache
def bare(kind: str) -> str:
    """A small trained tokenizer, as tokenizer.json."""
    make = byte_level_tokenizer if kind == "byte_level" else sentencepiece_tokenizer
    return make(330).backend_tokenizer.to_str()


def tokenizer_for(template: str, kind: str) -> PreTrainedTokenizerFast:
    """The small tokenizer, to which the template's own marks are added."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(bare(kind)))
    marks = sorted({"<s>", "</s>", "<|user|>", "<|assistant|>", *MARK.findall(template)})
    added = [mark for mark in marks if mark not in tokenizer.get_vocab()]
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    return tokenizer


def rendered(tokenizer, template: str, example: Example) -> tuple[Chat, Tokenized]:
    tokenizer.chat_template = template
    chat = Chat(tokenizer)
    (done,) = tokenize(
        tokenizer,
        [chat.conversation(example)],
        partial(byte_starts, token_table(tokenizer_json(tokenizer))),
        templated=True,
        names=[example.id],
        ends=ends_of(tokenizer),
    )
    return chat, done


def test_the_templates_of_trl_are_there() -> None:
    assert len(TEMPLATES) >= 80 and len(OWN) == 10


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_trained_prompt_is_the_asked_one_and_the_rest_spells_the_response(
    name: str, kind: str
) -> None:
    template = TEMPLATES[name]
    tokenizer = tokenizer_for(template, kind)
    table = token_table(tokenizer_json(tokenizer))
    for example in EXAMPLES:
        _, done = rendered(tokenizer, template, example)
        messages = [
            {**m, "content": [{"type": "text", "text": m["content"]}]}
            if name.removesuffix("_training") in IN_PARTS
            else dict(m)
            for m in example.prompt
        ]
        asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert done.ids[: done.first].tolist() == asked
        own, length = done.ids[done.first :], len(example.response.encode())
        assert done.starts[-1] == length and np.all(np.diff(done.starts) >= 0)
        inside = own[done.starts < length]
        spelt = b"".join(table.bytes_V[token] for token in inside)
        assert spelt.rstrip().endswith(example.response.strip().encode())
        # The way to the end: nothing but its last token stops generation.
        way = own[done.starts == length].tolist()
        assert way and table.added_V[way[-1]]
        assert tokenizer.eos_token_id not in way[:-1]


@pytest.mark.parametrize(
    ("name", "lead", "way"),
    [
        ("llama2", " ", " </s>"),
        ("mistral", "", "</s>"),
        ("vicuna", " ", "</s>"),
        ("deepseek_coder", "", "\n<|EOT|>"),
        ("openchat", " ", "<|end_of_turn|>"),
        ("falcon", " ", "</s>"),
        ("next_turn_ends", "", "<|user|>"),
        ("line_break_then_end", "", "\n</s>"),
        ("qwen3", "<think>\n\n</think>\n\n", "<|im_end|>"),
        ("gptoss", "<|channel|>final<|message|>", "<|return|>"),
        ("glm4moe", "\n<think></think>\n", "<|user|>"),
        ("deepseekv3", "</think>\n\n", "<｜end▁of▁sentence｜>"),
        ("phi3", "", "<|end|>\n</s>"),
    ],
)
def test_what_the_model_writes_around_a_response(name: str, lead: str, way: str) -> None:
    if name not in TEMPLATES:
        pytest.skip("the templates of TRL are not installed")
    tokenizer = tokenizer_for(TEMPLATES[name], "byte_level")
    _, done = rendered(tokenizer, TEMPLATES[name], EXAMPLES[0])
    text = tokenizer.decode(done.ids[done.first :])
    assert text == lead + EXAMPLES[0].response + way


def test_a_turn_that_only_the_next_one_ends_does_not_end_with_the_user_s_words() -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
        "{% if m.role == 'user' %}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = tokenizer_for(template, "byte_level")
    _, done = rendered(tokenizer, template, EXAMPLES[0])
    way = done.ids[done.first :][done.starts == done.starts[-1]]
    assert tokenizer.convert_ids_to_tokens(way.tolist()) == ["<|user|>"]


def test_a_template_that_refuses_to_end_with_an_answer_is_asked_with_a_next_turn() -> None:
    template = (
        "<s>{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
        "{% elif loop.last %}{{ raise_exception('the last role must be user') }}"
        "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
    )
    tokenizer = tokenizer_for(template, "byte_level")
    for example in EXAMPLES:
        _, done = rendered(tokenizer, template, example)
        assert tokenizer.decode(done.ids[done.first :]) == example.response + "</s>"


def test_variables_of_a_template_hold_wherever_it_is_rendered_and_can_be_overruled() -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ day }}"
    template += "{% if thinks %}<think>{% endif %}"
    tokenizer = tokenizer_for(template, "byte_level")
    tokenizer.chat_template = with_variables(template, {"thinks": False, "day": 'a "b" {{c}}'})
    assert tokenizer.apply_chat_template([dict(ONE)], tokenize=False) == (
        ONE["content"] + 'a "b" {{c}}'
    )
    overruled = tokenizer.apply_chat_template([dict(ONE)], tokenize=False, thinks=True, day="")
    assert overruled == ONE["content"] + "<think>"


@pytest.mark.skipif("qwen3" not in TEMPLATES, reason="the templates of TRL are not installed")
def test_thinking_can_be_switched_off() -> None:
    template = with_variables(TEMPLATES["qwen3"], {"enable_thinking": False})
    _, done = rendered(tokenizer_for(template, "byte_level"), template, EXAMPLES[0])
    # The empty block is part of what is asked, no more of what is learnt.
    assert done.starts[0] == 0


@pytest.mark.skipif("qwen3" not in TEMPLATES, reason="the templates of TRL are not installed")
def test_reasoning_in_a_response_is_learnt_where_the_template_keeps_it() -> None:
    own = Example("r", "d", (ONE,), "<think>\nSix sevens.\n</think>\n\n42")
    tokenizer = tokenizer_for(TEMPLATES["qwen3"], "byte_level")
    _, done = rendered(tokenizer, TEMPLATES["qwen3"], own)
    assert tokenizer.decode(done.ids[done.first :]) == own.response + "<|im_end|>"
    assert done.starts[0] == 0
