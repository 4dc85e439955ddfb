"""Several merges in one file, of which one takes the result of another."""

from __future__ import annotations

import pytest
import torch
import yaml
from made import SMALL, WEIGHTS, loaded, made
from safetensors.torch import load_file
from transformers import LlamaConfig
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.errors import ArtifactError, RecipeError


def linear(*models, **more):
    listed = [{"model": name, "parameters": {"weight": 1.0}} for name in models]
    return {"merge_method": "linear", "models": listed, **more}


@pytest.fixture
def models(tmp_path):
    for seed, name in enumerate("abc"):
        made(tmp_path / name, LlamaConfig(**SMALL), seed=seed)
    return tmp_path


def run(folder, *merges, options=()):
    path = folder / "m.yaml"
    path.write_text(yaml.safe_dump_all(merges), encoding="utf-8")
    arguments = ["merge", str(path), str(folder / "out"), *options]
    found = CliRunner().invoke(cli.app, arguments)
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.output


@pytest.mark.parametrize("turned", [False, True], ids=["in order", "the result first"])
@pytest.mark.parametrize("named", [False, True])
def test_a_merge_takes_the_result_of_another(models, turned, named):
    """((a + b) / 2 + c) / 2, in whatever order the documents stand."""
    result = linear("first", "c", **({"name": "result"} if named else {}))
    merges = [linear("a", "b", name="first"), result]
    run(models, *merges[:: -1 if turned else 1])
    a, b, c = (load_file(models / name / WEIGHTS) for name in "abc")
    for name, tensor in load_file(models / "out" / WEIGHTS).items():
        torch.testing.assert_close(tensor, ((a[name] + b[name]) / 2 + c[name]) / 2)
    loaded(models / "out")
    assert not [path for path in models.iterdir() if path.name.startswith(".")]


def test_intermediate_results_are_kept_where_asked_for_and_found_again(models):
    merges = linear("a", "b", name="first"), linear("first", "c")
    keep = models / "kept"
    said = run(models, *merges, options=["--intermediates", str(keep)])
    assert said.count("Merged 2 models") == 2
    loaded(keep / "first")
    (models / "out").rename(models / "before")
    said = run(models, *merges, options=["--intermediates", str(keep)])
    assert "Found 2 models (a, b) by linear" in said and said.count("Merged 2 models") == 1
    assert (models / "out" / WEIGHTS).read_bytes() == (models / "before" / WEIGHTS).read_bytes()
    (models / "out").rename(models / "again")
    made(models / "b", LlamaConfig(**SMALL), seed=9)  # another input: another intermediate
    said = run(models, *merges, options=["--intermediates", str(keep)])
    assert said.count("Merged 2 models") == 2


@pytest.mark.parametrize(
    ("merges", "match"),
    [
        ((linear("a", "y", name="x"), linear("a", "x", name="y")), "need one another"),
        ((linear("a", "b", name="x"), linear("a", "c", name="y")), "x, y are each taken by no"),
        ((linear("a", "b"), linear("a", "c")), "The|the merge 2 is called None"),
        ((linear("a", "b", name="x/y"), linear("a", "x/y")), "is called 'x/y'"),
        ((linear("a", "b", name=".."), linear("a", "..")), "is called '..'"),
        ((linear("a", "b", name=""), linear("a", "c")), "is called ''"),
        ((linear("a", "b", name=3), linear("a", "c")), "is called 3"),
    ],
)
def test_files_without_one_result_are_refused(models, merges, match):
    with pytest.raises(RecipeError, match=match):
        run(models, *merges)
    assert not (models / "out").exists()


def test_what_lies_where_an_intermediate_result_belongs_is_never_deleted(models):
    """A folder of the user's own that has the name of a merge."""
    merges = linear("a", "b", name="c"), linear("c", "a")
    with pytest.raises(ArtifactError, match="no intermediate result of infifusion"):
        run(models, *merges, options=["--intermediates", str(models)])
    loaded(models / "c")


def test_intermediate_results_inside_of_the_result_are_refused_at_once(models):
    with pytest.raises(ArtifactError, match="lies in"):
        keep = str(models / "out" / "kept")
        run(models, linear("a", "b", name="x"), linear("x", "c"), options=["--intermediates", keep])
    assert not (models / "out").exists()


def test_a_dry_run_of_several_merges_is_refused(models):
    with pytest.raises(RecipeError, match="holds 2 merges.*without --plan"):
        run(models, linear("a", "b", name="x"), linear("x", "c"), options=["--dry-run"])


def test_the_python_function_takes_several_merges_too(models):
    import infifusion

    path = models / "m.yaml"
    merges = linear("a", "b", name="first"), linear("first", "c")
    path.write_text(yaml.safe_dump_all(merges), encoding="utf-8")
    infifusion.merge_models(path, models / "out")
    a, b, c = (load_file(models / name / WEIGHTS) for name in "abc")
    for name, tensor in load_file(models / "out" / WEIGHTS).items():
        torch.testing.assert_close(tensor, ((a[name] + b[name]) / 2 + c[name]) / 2)
