"""What `check` says of chat models, and what `prepare` does with what they cannot be given."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import arithmetic, write_jsonl

import infifusion
from infifusion.data.store import load_examples, load_rendered, load_target
from infifusion.data.tokenizers import tokenizer_of
from infifusion.errors import RecipeError, TokenizerError
from infifusion.recipe import Model, Recipe
from infifusion.stages.check import check_recipe
from infifusion.store.folders import RunFolder

HERMES = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{% if m.content %}\n{% endif %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
LLAMA = (
    "{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}"
    '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}'
    "{% endfor %}<eos>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
DATED = (
    "{% if not day is defined %}{% set day = strftime_now('%d %b %Y') %}{% endif %}Today: {{ day }}"
    "\n" + HERMES
)
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def turn(role: str, content: str, **more: object) -> dict:
    return {"role": role, "content": content, **more}


def asked(system: bool = False, n: int = 0) -> dict:
    one = arithmetic(n)
    turns = [turn("user", one["prompt"]), turn("assistant", one["response"])]
    return {"messages": [turn("system", "Be brief."), *turns] if system else turns}


def called(n: int) -> dict:
    one = arithmetic(n)
    function = {"name": "add", "arguments": json.dumps({"text": one["response"]})}
    call = turn("assistant", "", tool_calls=[{"type": "function", "function": function}])
    return {"messages": [turn("user", one["prompt"]), call], "tools": [ADD]}


@pytest.fixture
def recipe_of(suite: Path, make_recipe: Callable[..., dict], tmp_path: Path) -> Callable[..., dict]:
    """A recipe of a pivot and a source, with these templates and records."""

    def make(records: list[dict], *, pivot: str = HERMES, source: str = HERMES, **of_a: object):
        write_jsonl(tmp_path / "train.jsonl", records)
        return make_recipe(
            suite,
            pivot={"model": str(suite / "pivot"), "chat_template": pivot},
            sources={"a": {"model": str(suite / "a"), "chat_template": source, **of_a}},
            data={
                "train": [{"path": str(tmp_path / "train.jsonl"), "domain": "d"}],
                "max_length": 256,
            },
            fuse={"unified": {"function": "mean", "gate": "none"}},
            distill={"unified": {"target": "unified"}},
            merge={},
        )

    return make


def test_check_says_how_each_model_writes_conversations(recipe_of) -> None:
    said = check_recipe(Recipe(**recipe_of([asked(n=n) for n in range(3)], pivot=DATED)))
    assert "chat      pivot: its chat template" in said
    assert "a turn ends with '<eos>'; generation stops at '<eos>'" in said
    assert "system messages: written; functions: tools, calls, results" in said
    assert said.count("today's date; chat_template_date pins it") == 1
    assert said.count("3 of the first 3 examples render, their prompts as") == 2


def test_a_template_without_room_for_system_messages_says_what_to_write(recipe_of) -> None:
    records = [asked(system=True, n=n) for n in range(3)]
    with pytest.raises(RecipeError) as caught:
        check_recipe(Recipe(**recipe_of(records, source=STRICT)))
    for words in ("sources.a: 3 of 3 of the first examples", "line 1, example 1", "refuses system",
                  "`system: merge_into_user`"):  # fmt: skip
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("system", "prompt"),
    [("merge_into_user", "<user>Be brief.\n\nBen"), ("drop", "<user>Ben")],
)
def test_system_messages_are_merged_or_dropped(
    system: str, prompt: str, recipe_of, tmp_path: Path
) -> None:
    recipe = recipe_of([asked(system=True)], source=STRICT, system=system)
    said = check_recipe(Recipe(**recipe))
    words = {"merge_into_user": "put before the user's text", "drop": "dropped"}[system]
    assert f"system messages: {words}" in said
    infifusion.run(recipe, tmp_path / "out", until="prepare")
    rendered = load_rendered(RunFolder(tmp_path / "out").rendered("a", "train"))
    tokenizer = tokenizer_of(Model(**recipe["sources"]["a"]))
    assert tokenizer.decode(rendered.ids_L).startswith(prompt)


def test_a_few_examples_that_a_model_cannot_be_given_are_left_out(
    recipe_of, suite: Path, tmp_path: Path
) -> None:
    composing = tmp_path / "nfc"
    shutil.copytree(suite / "a", composing)
    values = json.loads((composing / "tokenizer.json").read_text())
    values["normalizer"] = {"type": "NFC"}
    (composing / "tokenizer.json").write_text(json.dumps(values))
    records = [asked(n=n) for n in range(150)]
    content = records[7]["messages"][1]["content"]
    records[7]["messages"][1]["content"] = content + unicodedata.normalize("NFD", " é")
    recipe = recipe_of(records, model=str(composing))
    found = infifusion.run(recipe, tmp_path / "out", until="prepare").folder
    manifest = json.loads((found / "prepare/manifest.json").read_text())["counts"]
    assert manifest["train"] == {"d": 149}
    assert manifest["left_out"]["unreadable"] == {"pivot": 0, "a": 1}
    assert "d/train-7" not in {e.id for e in load_examples(found / "prepare/train.jsonl")}

    for place in range(8, 14):
        records[place]["messages"][1]["content"] += unicodedata.normalize("NFD", " é")
    with pytest.raises(RecipeError) as caught:
        check_recipe(Recipe(**recipe_of(records, model=str(composing))))
    said = str(caught.value)
    assert "7 of 150 of the first examples cannot be given to sources.a" in said
    assert "train.jsonl, line 8, example 8" in said and "and 2 more" in said
    assert "combining marks that the tokenizer's normalizer (NFC) rewrites" in said
    with pytest.raises((RecipeError, TokenizerError)):
        infifusion.run(recipe, tmp_path / "other", until="prepare")
    assert not (tmp_path / "other/prepare").exists()


def test_calls_in_two_manners_are_taught_where_they_share_their_bytes(
    recipe_of, tmp_path: Path
) -> None:
    records = [called(n) for n in range(8)] + [asked(n=n) for n in range(8, 12)]
    found = infifusion.run(recipe_of(records, source=LLAMA), tmp_path / "out").folder
    source = load_rendered(RunFolder(found).rendered("a", "train"))
    pivot = load_rendered(RunFolder(found).rendered("pivot", "train"))
    assert source.private_R is not None and pivot.private_R is None
    target = load_target(found / "fuse/unified")
    texts = [e.response for e in load_examples(found / "prepare/train.jsonl")]
    for n in range(8):
        rows = slice(int(pivot.row_N1[n]), int(pivot.row_N1[n + 1]))
        taught = pivot.start_R[rows][target.taught_T[rows]]
        shared = texts[n].index('s": {"text": "'), texts[n].index("\n</tool_call>")
        name = texts[n].index('{"name": "'), texts[n].index("arguments")
        inside = [a <= start < b for start in taught.tolist() for a, b in [shared, name]]
        ends = taught == len(texts[n].encode())
        assert sum(inside) + ends.sum() == len(taught) and sum(inside) > 10
    # Plain answers beside them are taught throughout.
    rest = slice(int(pivot.row_N1[8]), None)
    assert np.mean(target.taught_T[rest]) > 0.8


def test_the_day_of_a_template_can_be_pinned(recipe_of, tmp_path: Path) -> None:
    recipe = recipe_of([asked()], pivot=DATED)
    recipe["pivot"]["chat_template_date"] = "2026-01-31"
    assert "today's date" not in check_recipe(Recipe(**recipe))
    made = infifusion.run(recipe, tmp_path / "out").models["unified"]
    tokenizer = tokenizer_of(Model(model=str(made)))
    said = tokenizer.apply_chat_template([turn("user", "Hi")], tokenize=False)
    assert said.startswith("Today: 31 Jan 2026\n")
    recipe["pivot"] |= {"chat_template": HERMES}
    with pytest.raises(RecipeError, match="does not ask for the date. Remove chat_template_date"):
        check_recipe(Recipe(**recipe))
