"""What `infifusion check` says of the data and of chat templates."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import write_jsonl

from infifusion.errors import RecipeError
from infifusion.recipe import Recipe
from infifusion.stages.check import check_recipe


def test_check_names_format_columns_and_an_example(
    suite: Path, make_recipe, tmp_path: Path
) -> None:
    alpaca = {"instruction": "Add.", "input": "2 and 3", "output": "5" * 99}
    write_jsonl(tmp_path / "alpaca.jsonl", [alpaca])
    train = [
        {"path": str(tmp_path / "alpaca.jsonl"), "domain": "sums"},
        {"path": str(suite / "train.jsonl"), "domain": "named", "prompt": "Q: {prompt}"},
    ]
    said = check_recipe(Recipe(**make_recipe(suite, data={"train": train})))
    assert "sums: " in said and "alpaca.jsonl, alpaca (instruction, output, input)" in said
    assert f"'user: Add.\\n\\n2 and 3' -> '{'5' * 60}...'" in said
    assert "as the recipe says (prompt: 'Q: {prompt}', response: 'response')" in said
    assert "'user: Q: Ben has 1 coins" in said


def test_check_refuses_data_of_no_known_format(suite: Path, make_recipe, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", [{"text": "a story"}])
    recipe = make_recipe(
        suite, data={"train": [{"path": str(tmp_path / "x.jsonl"), "domain": "d"}]}
    )
    with pytest.raises(RecipeError, match=r"data.train.0: .*fit no known format. Columns: text"):
        check_recipe(Recipe(**recipe))


def test_a_model_without_a_chat_template_is_named_with_the_key_that_gives_it_one(
    suite: Path, make_recipe
) -> None:
    template = "{% for turn in messages %}{{ turn['content'] }}{% endfor %}"
    models = {
        name: {"model": str(suite / name), "chat_template": template}
        for name in ("pivot", "a", "b", "c")
    }
    del models["b"]["chat_template"]
    changes = {"pivot": models.pop("pivot"), "sources": models}
    said = check_recipe(Recipe(**make_recipe(suite, **changes)))
    told = [line for line in said.splitlines() if "has no chat template" in line]
    assert len(told) == 1 and "sources.b has no chat template" in told[0]
    assert "'{prompt}{response}'" in told[0] and "sources.b.chat_template" in told[0]


def test_check_shows_the_first_prompt_that_waits_for_an_answer(
    suite: Path, make_recipe, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "q.jsonl", [{"instruction": "Add.", "input": "2 and 3"}])
    prompts = [{"path": str(tmp_path / "q.jsonl"), "domain": "asked"}]
    recipe = make_recipe(suite)
    said = check_recipe(Recipe(**recipe, write_responses={"prompts": prompts}))
    assert "asked: " in said and "q.jsonl, alpaca (instruction, input)" in said
    assert "'user: Add.\\n\\n2 and 3'" in said
    write_jsonl(tmp_path / "q.jsonl", [{"id": 1}])
    with pytest.raises(RecipeError, match=r"write_responses.prompts.0: .*fit no known format"):
        check_recipe(Recipe(**recipe, write_responses={"prompts": prompts}))
