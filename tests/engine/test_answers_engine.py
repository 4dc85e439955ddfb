"""Answers and scores through a server: those of the model in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from behind import brain_of
from conftest import byte_level_tokenizer, learn, tiny_model, write_jsonl
from standin import StandIn
from tokenizers import Tokenizer

from infifusion.data.store import load_answers
from infifusion.evals.generation import GreedyLM
from infifusion.recipe import Model, Recipe
from infifusion.stages.evaluate import evaluate
from infifusion.stages.prepare import prepare
from infifusion.stages.respond import respond
from infifusion.store.folders import RunFolder
from infifusion.store.records import read_json

KNOWN = {"a?\n": "#### 1", "bb?\n": "two words #### 2", "ccc?\n": "é #### 3", "gg?\n": ""}


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows some answers by heart."""
    folder = tmp_path_factory.mktemp("writer")
    tokenizer = byte_level_tokenizer(300)
    model = tiny_model("llama", len(tokenizer), 0)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    learn(model, tokenizer, list(KNOWN.items()))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def server(writer: Path):
    tokenizer = Tokenizer.from_file(str(writer / "tokenizer.json"))
    with StandIn(brain_of(writer), tokenizer) as server:
        yield server


def recipe_of(
    make_recipe: Callable[..., dict],
    suite: Path,
    folder: Path,
    engine: dict | None,
    **changes: dict,
) -> Recipe:
    write_jsonl(folder / "prompts.jsonl", [{"prompt": prompt} for prompt in KNOWN])
    source = {"model": str(folder), **({} if engine is None else {"engine": engine})}
    prompts = [{"path": str(folder / "prompts.jsonl"), "domain": "all"}]
    asked = {"prompts": prompts, "max_new_tokens": 24}
    values = make_recipe(
        suite,
        sources={"w": source},
        write_responses=asked,
        fuse={"unified": {"gate": "none"}},
        distill={"unified": {"target": "unified"}},
        merge={},
    )
    return Recipe.from_mapping(values, where="test")


def test_greedy_answers_are_those_of_the_model_here(
    make_recipe: Callable[..., dict], suite: Path, writer: Path, server: StandIn, tmp_path: Path
) -> None:
    here, there = RunFolder(tmp_path / "here"), RunFolder(tmp_path / "there")
    respond(recipe_of(make_recipe, suite, writer, None), here, "w")
    engine = {"kind": "vllm", "url": server.url, "patience": 10}
    respond(recipe_of(make_recipe, suite, writer, engine), there, "w")
    mine, theirs = (
        load_answers(folder.respond("w") / "shard-00000.jsonl") for folder in (here, there)
    )
    assert len(mine) == len(KNOWN) and [one.response for one in mine][:1] == ["#### 1"]
    for one, other in zip(mine, theirs, strict=True):
        assert (one.response, one.tokens, one.finished, one.fault) == (
            *(other.response, other.tokens, other.finished, other.fault),
        )
        if one.entropy is not None:
            assert other.entropy == pytest.approx(one.entropy, abs=0.02)
    counts = read_json(there.respond("w") / "manifest.json")["counts"]
    assert counts["engine"]["entropy"] == "power law behind the top"


def test_drawn_answers_are_drawn_by_the_seed(
    make_recipe: Callable[..., dict], suite: Path, writer: Path, server: StandIn, tmp_path: Path
) -> None:
    engine = {"kind": "vllm", "url": server.url, "patience": 10}
    recipe = recipe_of(make_recipe, suite, writer, engine)
    asked = recipe.write_responses.model_copy(update={"temperature": 1.0, "samples": 3})
    recipe = recipe.model_copy(update={"write_responses": asked})
    texts = []
    for name in ("one", "two"):
        folder = RunFolder(tmp_path / name)
        respond(recipe, folder, "w")
        texts.append([a.response for a in load_answers(folder.respond("w") / "shard-00000.jsonl")])
    assert texts[0] == texts[1] and len(texts[0]) == 3 * len(KNOWN)
    seeds = {body["seed"] for body in server.bodies if "prompt_logprobs" not in body}
    assert len(seeds) == 3 * len(KNOWN)


def test_bits_per_byte_are_those_of_the_model_here(
    make_recipe: Callable[..., dict], suite: Path, writer: Path, server: StandIn, tmp_path: Path
) -> None:
    found = []
    for name, engine in (("here", None), ("there", {"kind": "vllm", "url": server.url})):
        recipe = recipe_of(make_recipe, suite, writer, engine)
        folder = RunFolder(tmp_path / name)
        recipe = recipe.model_copy(update={"write_responses": None})
        prepare(recipe, folder)
        evaluate(recipe, folder, "source:w", recipe.resolve())
        found.append(read_json(folder.evaluate("source:w") / "scores.json")["bits_per_byte"])
    assert found[0].keys() == found[1].keys() == {"sums"}
    np.testing.assert_allclose(found[0]["sums"], found[1]["sums"], atol=1e-4)


def test_a_task_is_answered_by_the_server_and_ends_where_it_says(
    writer: Path, server: StandIn
) -> None:
    from types import SimpleNamespace

    from infifusion.data.tokenizers import load_tokenizer
    from infifusion.teacher.elsewhere import in_engine
    from infifusion.teacher.load import load_model, without_weights

    requests = [
        SimpleNamespace(args=(prompt, {"until": until, "max_gen_toks": 24}))
        for prompt in KNOWN
        for until in ([], ["words"], ["####", "nowhere"])
    ]
    tokenizer = load_tokenizer(str(writer))
    model = Model(model=str(writer))
    mine = GreedyLM(load_model(model), tokenizer=tokenizer, batch_size=2)
    expected = mine.generate_until(requests)
    behind = Model.model_validate(
        {"model": str(writer), "engine": {"kind": "vllm", "url": server.url, "patience": 10}}
    )
    with in_engine(behind, where="w") as remote:
        lm = GreedyLM(without_weights(behind), tokenizer=tokenizer, batch_size=2, remote=remote)
        assert lm.generate_until(requests) == expected
    assert lm.outputs == mine.outputs and "two " in expected


def test_an_answer_that_stops_too_early_is_an_error(
    make_recipe: Callable[..., dict], suite: Path, writer: Path, server: StandIn, tmp_path: Path
) -> None:
    from infifusion.errors import RunError

    server.broken.add("short")
    recipe = recipe_of(make_recipe, suite, writer, {"kind": "vllm", "url": server.url})
    with pytest.raises(RunError, match="wrote 1 of at most 24 tokens"):
        respond(recipe, RunFolder(tmp_path / "run"), "w")
