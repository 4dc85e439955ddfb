"""`infifusion push` and --push-to-hub against a local stand-in for the hub."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hub_stand_in import TOKEN, Hub, serve
from huggingface_hub import ModelCard

from infifusion.commands.upload import models_to_push
from infifusion.errors import RecipeError
from infifusion.recipe import Recipe

Command = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub()) as running:
        yield running


@pytest.fixture
def infifusion(hub: Hub, tmp_path: Path) -> Command:
    """Runs the command line against the stand-in."""

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess:
        own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
        own |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", **variables}
        command = [sys.executable, "-m", "infifusion", *(str(a) for a in arguments)]
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env={**os.environ, **own}
        )
        assert TOKEN not in found.stdout + found.stderr and "Traceback" not in found.stderr
        return found

    return run


def test_push_makes_a_private_repository_with_the_folders_files(
    infifusion: Command, hub: Hub, suite: Path
) -> None:
    found = infifusion("push", suite / "pivot", "org/fused")
    assert found.returncode == 0, found.stderr
    assert f"to {hub.url}/org/fused (private)" in found.stdout
    assert hub.repos["org/fused"]["private"] is True
    held = hub.repos["org/fused"]["files"]
    assert held == {path.name: path.read_bytes() for path in (suite / "pivot").iterdir()}
    assert "model.safetensors" in held and len(hub.large) == 1


def test_public_is_asked_for(infifusion: Command, hub: Hub, suite: Path) -> None:
    found = infifusion("push", suite / "pivot", "org/fused", "--public")
    assert found.returncode == 0 and hub.repos["org/fused"]["private"] is False


def test_a_private_repository_that_is_there_is_filled_again(
    infifusion: Command, hub: Hub, suite: Path
) -> None:
    hub.repos["org/fused"] = {"private": True, "files": {"old": b"x"}}
    found = infifusion("push", suite / "pivot", "org/fused")
    assert found.returncode == 0, found.stderr
    assert {"old", "config.json"} <= set(hub.repos["org/fused"]["files"])


def test_a_public_repository_is_not_filled_unasked(
    infifusion: Command, hub: Hub, suite: Path
) -> None:
    hub.repos["org/fused"] = {"private": False, "files": {}}
    found = infifusion("push", suite / "pivot", "org/fused")
    assert found.returncode == 1 and "is there already and public" in found.stderr
    assert not hub.repos["org/fused"]["files"]
    assert infifusion("push", suite / "pivot", "org/fused", "--public").returncode == 0


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/repos/create", 403, "answered 403 for org/fused: .*may not write there"),
        ("/commit/", 409, "answered 409 for org/fused: .*Somebody else is writing"),
        ("/commit/", 412, "answered 412 for org/fused: .*try again"),
        ("/preupload/", 404, "answered 404 for org/fused: .*no such organisation"),
    ],
)
def test_an_answer_that_is_no_yes_says_what_to_do(
    path: str, status: int, message: str, infifusion: Command, hub: Hub, suite: Path
) -> None:
    hub.refuse[path] = (status, "no")
    found = infifusion("push", suite / "pivot", "org/fused")
    assert found.returncode == 1

    assert re.search(message, found.stderr), found.stderr
    assert f"upload it later with: infifusion push {suite / 'pivot'} org/fused" in found.stderr


def test_a_bad_or_missing_token_says_how_to_log_in(infifusion: Command, suite: Path) -> None:
    for token in ("hf_other", ""):
        found = infifusion("push", suite / "pivot", "org/fused", HF_TOKEN=token)
        assert found.returncode == 1, token
        assert "hf auth login" in found.stderr and "hf_other" not in found.stderr


def test_offline_and_out_of_reach_are_told_apart(infifusion: Command, suite: Path) -> None:
    offline = infifusion("push", suite / "pivot", "org/fused", HF_HUB_OFFLINE="1")
    assert offline.returncode == 1 and "HF_HUB_OFFLINE is set" in offline.stderr
    away = infifusion("push", suite / "pivot", "org/fused", HF_ENDPOINT="http://127.0.0.1:9")
    assert away.returncode == 1 and "cannot be reached" in away.stderr


def test_what_is_no_model_or_no_name_is_refused_before_the_hub_is_asked(
    infifusion: Command, hub: Hub, suite: Path, tmp_path: Path
) -> None:
    (tmp_path / "run" / "distill" / "unified" / "model").mkdir(parents=True)
    (tmp_path / "run" / "distill" / "unified" / "model" / "config.json").write_text("{}")
    found = infifusion("push", tmp_path / "run", "org/fused")
    assert found.returncode == 2 and "distill/unified/model" in found.stderr
    found = infifusion("push", suite / "pivot", "org/fused/again")
    assert found.returncode == 2 and "is no name of a hub repository" in found.stderr
    assert hub.asked == []


def test_merge_pushes_its_result_with_a_card_and_without_local_paths(
    infifusion: Command, hub: Hub, suite: Path, tmp_path: Path
) -> None:
    same = {"model": str(suite / "pivot"), "parameters": {"weight": 1.0}}
    values = {"merge_method": "linear", "models": [same]}
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    out = tmp_path / "out"
    found = infifusion("merge", tmp_path / "merge.yaml", out, "--push-to-hub", "org/merged")
    assert found.returncode == 0, found.stderr
    held = hub.repos["org/merged"]["files"]
    assert {"README.md", "infifusion_recipe.yaml", "config.json"} <= set(held)
    assert "merge_details.json" not in held and (out / "merge_details.json").exists()
    for name, content in held.items():
        assert str(suite).encode() not in content, name
    assert yaml.safe_load(held["infifusion_recipe.yaml"])["models"][0]["model"] == "pivot"
    card = ModelCard(held["README.md"].decode()).data.to_dict()
    assert {"merge", "linear"} <= set(card["tags"]) and "base_model" not in card


def test_a_merge_that_could_not_be_uploaded_is_not_begun(
    infifusion: Command, suite: Path, tmp_path: Path
) -> None:
    values = {"merge_method": "linear", "models": [{"model": str(suite / "pivot")}]}
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    command = ("merge", tmp_path / "merge.yaml", tmp_path / "out", "--push-to-hub", "org/m")
    found = infifusion(*command, HF_TOKEN="hf_other")
    assert found.returncode == 1 and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_pushes_the_models_it_was_asked_for(
    infifusion: Command, hub: Hub, suite: Path, make_recipe, tmp_path: Path
) -> None:
    values = make_recipe(suite, fuse={}, merge={}, distill={"sft": {}})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    found = infifusion(
        "run", tmp_path / "recipe.yaml", "--run-dir", tmp_path / "run",
        "--push-to-hub", "sft=org/tuned",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    held = hub.repos["org/tuned"]["files"]
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert wanted | {"README.md", "infifusion_recipe.yaml"} <= set(held)
    results = ModelCard(held["README.md"].decode()).data.eval_results
    assert [one.metric_type for one in results] == ["bits_per_byte"]
    for name, content in held.items():
        assert str(suite).encode() not in content and str(tmp_path).encode() not in content, name


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["unified=org/a", "pairwise=org/b"], {"unified": "org/a", "pairwise": "org/b"}),
        (["pair-a=org/a"], {"pair-a": "org/a"}),
        (["org/a"], "expected MODEL=ORG/NAME .*sft, unified, pair-a, pair-b, pair-c, pairwise"),
        (["gone=org/a"], "expected MODEL=ORG/NAME"),
        (["sft=a b"], "is no name of a hub repository"),
        (["sft=org/a/b"], r"is no name .*'org/a/b'\.$"),
        (["sft=org/a", "unified=org/a"], "named twice"),
    ],
)
def test_models_to_push_are_named(
    asked: list[str], found: object, suite: Path, make_recipe
) -> None:
    recipe = Recipe(**make_recipe(suite))
    if isinstance(found, dict):
        assert models_to_push(asked, recipe) == found
    else:
        with pytest.raises(RecipeError, match=str(found)):
            models_to_push(asked, recipe)


def test_the_one_fused_model_needs_no_name(suite: Path, make_recipe) -> None:
    distill = {"sft": {}, "unified": {"target": "unified"}}
    recipe = Recipe(**make_recipe(suite, distill=distill, merge={}))
    assert models_to_push(["org/a"], recipe) == {"unified": "org/a"}
    with pytest.raises(RecipeError, match="--push-to-hub sft: expected MODEL=ORG/NAME"):
        models_to_push(["sft"], recipe)  # a model of the run, not the name of a repository
