from __future__ import annotations

import json
from pathlib import Path

import pytest

from infifusion.errors import ArtifactError
from infifusion.store.artifacts import State, close_stage, open_stage, read_manifest, verify_files
from infifusion.store.durable import atomic_folder, atomic_write
from infifusion.store.records import read_json

PRINT = {"top_k": 10, "model": {"hash": "a"}}


def close(folder: Path) -> None:
    (folder / "x").write_text("content")
    close_stage(folder, PRINT, counts={"n": 1}, seconds=0.5, files=[folder / "x"])


def test_a_stage_is_fresh_then_resumed_then_done(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    assert open_stage(folder, PRINT) is State.FRESH
    assert open_stage(folder, PRINT) is State.RESUME
    close(folder)
    assert open_stage(folder, PRINT) is State.DONE
    assert read_manifest(folder, made_by="stage")["counts"] == {"n": 1}


@pytest.mark.parametrize("finished", [False, True])
def test_another_fingerprint_is_refused_naming_what_differs(tmp_path, finished: bool) -> None:
    open_stage(tmp_path, PRINT)
    if finished:
        close(tmp_path)
    other = {"top_k": 5, "model": {"hash": "b"}, "new": 1}
    with pytest.raises(ArtifactError) as caught:
        open_stage(tmp_path, other)
    for part in ("top_k: the folder has 10, the recipe wants 5", "model.hash", "new", "--run-dir"):
        assert part in str(caught.value)


@pytest.mark.parametrize("finished", [False, True])
def test_another_home_folder_or_token_makes_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    monkeypatch.setenv("HOME", "/home/one")
    monkeypatch.setenv("SOME_TOKEN", "quantity")
    print_of = {"model": "/home/one/x", "files": {"/home/one/y": "1"}, "prompt": "the quantity"}
    stage, found = tmp_path / "stage", State.RESUME
    assert open_stage(stage, print_of) is State.FRESH
    if finished:
        close_stage(stage, print_of, counts={}, seconds=0.0, files=[])
        found = State.DONE
    assert "/home/one" not in "".join(path.read_text() for path in stage.iterdir())
    monkeypatch.setenv("HOME", "/home/two")
    monkeypatch.delenv("SOME_TOKEN")
    assert open_stage(stage, print_of) is found
    with pytest.raises(ArtifactError, match="model: the folder has"):
        open_stage(stage, {**print_of, "model": "/home/one/z"})
    # The whole home folder moved.
    monkeypatch.setenv("SOME_TOKEN", "quantity")
    moved = {"model": "/home/two/x", "files": {"/home/two/y": "1"}, "prompt": "the quantity"}
    assert open_stage(stage, moved) is found


def test_a_changed_or_missing_file_is_noticed(tmp_path: Path) -> None:
    open_stage(tmp_path, PRINT)
    close(tmp_path)
    manifest = read_manifest(tmp_path, made_by="stage")
    verify_files(tmp_path, manifest)
    (tmp_path / "x").write_text("Content")
    with pytest.raises(ArtifactError, match="SHA-256 differs"):
        verify_files(tmp_path, manifest)
    (tmp_path / "x").unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        verify_files(tmp_path, manifest)


def test_an_unfinished_stage_has_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="the stage 'teach' is not finished"):
        read_manifest(tmp_path, made_by="teach")


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"a": ')
    with pytest.raises(ArtifactError, match=r"m\.json is damaged"):
        read_json(tmp_path / "m.json")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps({"old": 1}))
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as temporary:
        (temporary / "a").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "a").touch()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a"]
    with pytest.raises(ArtifactError, match="exists already"), atomic_folder(tmp_path / "out"):
        pass
