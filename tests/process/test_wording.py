"""Names and counts as people read them."""

from __future__ import annotations

import pytest

from infifusion.process.wording import counted, short_names


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 sources"), (1, "1 source"), (2, "2 sources"), (1319, "1,319 sources")],
)
def test_one_thing_is_singular(count: int, said: str) -> None:
    assert counted(count, "source") == said


def test_models_of_runs_are_called_as_the_runs_call_them() -> None:
    paths = ["/w/runs/first/distill/unified/model", "/w/runs/first/merge/pairwise/model", "/w/base"]
    assert list(short_names(paths).values()) == ["unified", "pairwise", "base"]
    assert list(short_names(paths, whole=True).values()) == [
        "unified/model", "pairwise/model", "base",
    ]  # fmt: skip


def test_names_take_as_many_folders_as_tell_them_apart() -> None:
    paths = ["/w/first/distill/unified/model", "/w/second/distill/unified/model"]
    assert list(short_names(paths).values()) == ["first/distill/unified", "second/distill/unified"]
    paths = ["a/checkpoint-500", "b/checkpoint-500", "/x/checkpoint-500"]
    assert list(short_names(paths).values()) == [
        "a/checkpoint-500", "b/checkpoint-500", "x/checkpoint-500",
    ]  # fmt: skip


def test_a_model_with_its_adapter_is_named_part_by_part() -> None:
    paths = ["/w/pivot+/w/runs/r/distill/a/adapter", "/w/pivot+/w/runs/r/distill/b/adapter"]
    assert list(short_names(paths).values()) == ["pivot+a/adapter", "pivot+b/adapter"]


def test_the_same_path_twice_and_a_bare_model_folder_have_names() -> None:
    assert short_names(["/w/a", "/w/a"]) == {"/w/a": "a"}
    assert short_names(["/model"]) == {"/model": "model"}
    assert short_names(["/", "x"]) == {"/": "", "x": "x"}
