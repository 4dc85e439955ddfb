"""The teacher pass through a server: the rows of the built-in pass, and every way to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from behind import brain_of
from standin import StandIn, bigrams
from tokenizers import Tokenizer

from infifusion.data.store import load_rendered
from infifusion.errors import ArtifactError, InfiFusionError, RecipeError
from infifusion.recipe import Recipe
from infifusion.stages.prepare import prepare
from infifusion.stages.teach import teach
from infifusion.store.folders import RunFolder
from infifusion.store.records import read_json
from infifusion.teacher.cache import BeliefReader
from infifusion.teacher.elsewhere import look_at_engines
from infifusion.teacher.load import vocabulary_size
from infifusion.types import Beliefs

Recipes = Callable[..., Recipe]
Serve = Callable[..., StandIn]


@pytest.fixture
def serve(suite: Path) -> Iterator[Callable[..., StandIn]]:
    """serve("a", **faults) starts a stand-in with the tokenizer of the suite's model `a`."""
    with ExitStack() as stack:

        def start(name: str, **faults: object) -> StandIn:
            folder = suite / name
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            size = json.loads((folder / "config.json").read_text())["vocab_size"]
            brain = faults.pop("brain", None) or bigrams(size, seed=1)
            return stack.enter_context(StandIn(brain, tokenizer, **faults))

        yield start


@pytest.fixture
def recipe_of(suite: Path, make_recipe: Callable[..., dict]) -> Recipes:
    """A recipe whose source `a` has this engine."""

    def make(engine: dict | None, **changes: object) -> Recipe:
        values = make_recipe(suite, **changes)
        if engine is not None:
            values["sources"]["a"]["engine"] = {"kind": "vllm", "patience": 20, **engine}
        return Recipe.from_mapping(values, where="test")

    return make


@pytest.fixture
def folder(recipe_of: Recipes, tmp_path: Path) -> RunFolder:
    """A run folder that is prepared."""
    folder = RunFolder(tmp_path / "run")
    prepare(recipe_of(None), folder)
    return folder


def rows(recipe: Recipe, folder: RunFolder) -> Beliefs:
    rendered = load_rendered(folder.rendered("a", "train"))
    size = vocabulary_size(recipe.sources["a"])
    reader = BeliefReader(
        folder.teach("a"), rendered.row_N1, recipe.teach.shard_examples, vocabulary=size
    )
    return reader.examples(0, len(rendered))


def scored_texts(server: StandIn, folder: RunFolder) -> list[tuple[int, ...]]:
    """Which of the training texts a server has scored, with repetitions."""
    rendered = load_rendered(folder.rendered("a", "train"))
    texts = {
        tuple(rendered.ids_L[low:high].tolist())
        for low, high in zip(rendered.offset_N1, rendered.offset_N1[1:], strict=False)
    }
    assert len(texts) == len(rendered)
    return [one for one in server.seen if one in texts]


def test_rows_are_those_of_the_pass_in_this_process(
    recipe_of: Recipes, folder: RunFolder, serve: Serve, tmp_path: Path, suite: Path
) -> None:
    here = RunFolder(tmp_path / "here")
    prepare(recipe_of(None), here)
    teach(recipe_of(None), here, "a")
    expected = rows(recipe_of(None), here)
    server = serve("a", brain=brain_of(suite / "a"))
    recipe = recipe_of({"url": server.url})
    teach(recipe, folder, "a")
    found = rows(recipe, folder)
    np.testing.assert_array_equal(found.ids_UK, expected.ids_UK)
    np.testing.assert_allclose(found.logprob_UK, expected.logprob_UK, atol=4e-3)  # float16
    np.testing.assert_allclose(found.gold_U, expected.gold_U, atol=1e-4)
    # Twenty of 305 entries of a random model: near even, and so is the estimate.
    np.testing.assert_allclose(found.entropy_U, expected.entropy_U, atol=0.05)
    assert np.isnan(found.lse_U).all() and np.isnan(found.std_U).all()
    counts = read_json(folder.teach("a") / "manifest.json")["counts"]
    assert counts["engine"]["serves"] == "the-model" and counts["engine"]["entries"] == 20
    entropy = counts["engine"]["entropy"]
    assert entropy["least"] <= float(expected.entropy_U.mean()) <= entropy["most"]
    assert entropy["estimated_by"] == "power law behind the top"
    assert len(scored_texts(server, folder)) == len(load_rendered(folder.rendered("a", "train")))


def test_nothing_is_scored_twice_where_the_server_dies_and_comes_back(
    recipe_of: Recipes, folder: RunFolder, serve: Serve
) -> None:
    server = serve("a", die_after=15, back_after=0.5)
    recipe = recipe_of({"url": server.url, "in_flight": 4})
    teach(recipe, folder, "a")
    # What was under way when it died was never answered.
    asked = scored_texts(server, folder)
    assert len(set(asked)) == len(load_rendered(folder.rendered("a", "train")))
    assert len(asked) <= len(set(asked)) + 4


def test_a_pass_that_was_stopped_goes_on_with_the_shards_that_are_missing(
    recipe_of: Recipes, folder: RunFolder, serve: Serve
) -> None:
    server = serve("a", die_after=30)
    recipe = recipe_of({"url": server.url, "in_flight": 1, "patience": 0.5})
    with pytest.raises(InfiFusionError, match="No server has answered for 0 seconds|answered for"):
        teach(recipe, folder, "a")
    whole = len(list(folder.teach("a").glob("shard-*.safetensors")))
    assert whole == 1
    server.alive = True
    before = len(scored_texts(server, folder))
    teach(recipe, folder, "a")
    count = len(load_rendered(folder.rendered("a", "train")))
    assert len(scored_texts(server, folder)) - before == count - 16 * whole
    server.seen.clear()
    teach(recipe, folder, "a")
    assert server.seen == []


def test_several_servers_share_the_texts_and_one_that_dies_leaves_them_to_the_other(
    recipe_of: Recipes, folder: RunFolder, serve: Serve
) -> None:
    one, two = serve("a", die_after=10), serve("a")
    recipe = recipe_of({"url": [one.url, two.url], "in_flight": 2})
    teach(recipe, folder, "a")
    shared = [scored_texts(server, folder) for server in (one, two)]
    assert len(shared[0]) > 3 and len(shared[1]) > 3
    assert not set(shared[0]) & set(shared[1])
    count = len(load_rendered(folder.rendered("a", "train")))
    assert len(set(shared[0]) | set(shared[1])) == count


def test_a_server_that_starts_later_is_waited_for(
    recipe_of: Recipes, folder: RunFolder, serve: Serve
) -> None:
    server = serve("a", alive=False)
    threading.Timer(1.0, lambda: setattr(server, "alive", True)).start()
    teach(recipe_of({"url": server.url}), folder, "a")


def test_the_address_is_no_part_of_what_a_cache_is_of(
    recipe_of: Recipes, folder: RunFolder, serve: Serve
) -> None:
    one, two = serve("a"), serve("a")
    teach(recipe_of({"url": one.url}), folder, "a")
    two.seen.clear()
    teach(recipe_of({"url": two.url, "in_flight": 3}), folder, "a")
    assert two.seen == []
    with pytest.raises(ArtifactError, match="engine"):
        teach(recipe_of(None), folder, "a")
    with pytest.raises(ArtifactError, match="serves"):
        teach(recipe_of({"url": two.url, "serves": "another"}), folder, "a")


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"max_logprobs": 4}, "at most 4 entries at a position, and 5 are needed"),
        ({"max_model_len": 20}, "at most 20 tokens, one of them to be written, and the longest"),
        ({"broken": {"nan"}}, "NaN or Inf at response token"),
        ({"broken": {"null"}}, "NaN or Inf at response token"),
        ({"broken": {"impossible"}}, "probability 0"),
        ({"broken": {"fewer"}}, "which has .* tokens"),
        ({"broken": {"entries"}}, "entries at a token of"),
        ({"broken": {"other_form"}}, "cannot be read"),
        ({"broken": {"no_list"}}, "no prompt_logprobs"),
        ({"broken": {"ungold"}}, "how likely each token"),
        ({"broken": {"mass"}}, "no log-probabilities"),
        ({"broken": {"status500"}}, "status 500"),
        ({"key": "a-key-of-its-own"}, "does not accept the key"),
        ({"noise": 1.0}, "other log-probabilities the second time"),
    ],
    ids=str,
)
def test_a_server_that_cannot_do_it_is_refused_with_the_reason(
    recipe_of: Recipes, folder: RunFolder, serve: Serve, faults: dict, said: str
) -> None:
    server = serve("a", **faults)
    with pytest.raises(InfiFusionError, match=said):
        teach(recipe_of({"url": server.url, "patience": 3}), folder, "a")
    assert scored_texts(server, folder) == []


@pytest.mark.parametrize("broken", ["nan", "fewer", "status500"])
def test_a_fault_in_the_middle_stops_and_keeps_what_was_received(
    recipe_of: Recipes, folder: RunFolder, serve: Serve, broken: str
) -> None:
    server = serve("a")
    brain = server.brain

    def breaks(ids: list[int]) -> np.ndarray:
        if len(scored_texts(server, folder)) >= 20:
            server.broken.add(broken)
        return brain(ids)

    server.brain = breaks
    recipe = recipe_of({"url": server.url, "in_flight": 1})
    with pytest.raises(InfiFusionError, match="example sums/train-"):
        teach(recipe, folder, "a")
    assert len(list(folder.teach("a").glob("shard-*.safetensors"))) == 1
    server.broken, server.brain = set(), brain
    teach(recipe, folder, "a")


def test_another_model_behind_the_same_address_is_refused(
    recipe_of: Recipes, folder: RunFolder, serve: Serve, suite: Path
) -> None:
    server = serve("a", die_after=30)
    recipe = recipe_of({"url": server.url, "in_flight": 1, "patience": 0.5})
    with pytest.raises(InfiFusionError):
        teach(recipe, folder, "a")
    server.alive = True
    size = vocabulary_size(recipe.sources["a"])
    server.brain = bigrams(size)
    with pytest.raises(ArtifactError, match="other weights"):
        teach(recipe, folder, "a")
    other = serve("b")
    with pytest.raises(InfiFusionError, match="another tokenizer"):
        teach(recipe_of({"url": other.url}), folder, "a")


def test_another_model_after_a_restart_in_the_middle_is_refused(
    recipe_of: Recipes, folder: RunFolder, serve: Serve
) -> None:
    other = bigrams(vocabulary_size(recipe_of(None).sources["a"]), seed=2)
    server = serve("a", die_after=15, back_after=0.3)
    server.on_return = lambda: setattr(server, "brain", other)
    recipe = recipe_of({"url": server.url, "in_flight": 2})
    with pytest.raises(InfiFusionError, match="other weights"):
        teach(recipe, folder, "a")


def test_fewer_entries_than_asked_for_are_said_and_do(
    recipe_of: Recipes, folder: RunFolder, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    from infifusion.process.runtime import log

    log.propagate = True
    with caplog.at_level("INFO", logger="infifusion"):
        teach(recipe_of({"url": serve("a", max_logprobs=7).url}), folder, "a")
    assert "at most 7 entries at a position, not 20" in caplog.text
    assert read_json(folder.teach("a") / "engine.json")["entries"] == 7


def test_the_key_is_sent_and_written_nowhere(
    recipe_of: Recipes,
    folder: RunFolder,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = "do-not-write-this-anywhere"
    server = serve("a", key=secret)
    recipe = recipe_of({"url": server.url, "api_key_from": "MY_SERVER_KEY"})
    with pytest.raises(RecipeError, match="MY_SERVER_KEY is not set"):
        teach(recipe, folder, "a")
    monkeypatch.setenv("MY_SERVER_KEY", secret)
    with caplog.at_level("DEBUG"):
        teach(recipe, folder, "a")
    assert secret not in caplog.text
    for path in folder.root.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes()


def test_at_least_sixty_four_are_under_way_and_every_parameter_is_sent(
    recipe_of: Recipes, folder: RunFolder, serve: Serve
) -> None:
    server = serve("a", slow=0.4)
    teach(recipe_of({"url": server.url}), folder, "a")
    count = len(load_rendered(folder.rendered("a", "train")))
    assert server.most_at_once >= min(64, count)
    sent = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"}
    sent |= {"frequency_penalty", "seed", "n", "stop", "stop_token_ids", "min_tokens"}
    assert all(sent <= body.keys() for body in server.bodies)
    assert json.dumps(server.bodies[0])  # plain values


def test_check_says_what_the_server_is(recipe_of: Recipes, serve: Serve) -> None:
    server, absent = serve("a"), serve("a", alive=False)
    other = serve("b")
    models = {
        url: recipe_of({"url": url}).sources["a"] for url in (server.url, absent.url, other.url)
    }
    lines, problems = look_at_engines(models, ask=True)
    assert "vLLM 0.32.0 serves the-model, texts of at most 4096 tokens, 20 entries" in lines[0]
    assert "No server has answered" in lines[1] and "A run waits 20 s for it" in lines[1]
    assert len(lines) == 2 and len(problems) == 1 and "another tokenizer" in problems[0]
    command = recipe_of({"command": "no-such-program serve {model}"}).sources["a"]
    assert "there is no program" in look_at_engines({"a": command}, ask=True)[1][0]
    assert look_at_engines({"a": models[absent.url]}, ask=False)[0][0].endswith("not asked")


def test_the_first_address_may_be_away(recipe_of: Recipes, folder: RunFolder, serve: Serve) -> None:
    absent, there = serve("a", alive=False), serve("a")
    teach(recipe_of({"url": [absent.url, there.url]}), folder, "a")
    assert len(scored_texts(there, folder)) == len(load_rendered(folder.rendered("a", "train")))
