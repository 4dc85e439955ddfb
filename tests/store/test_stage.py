"""The protocol of a stage, by one that writes three small files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infifusion.errors import ArtifactError
from infifusion.store.artifacts import MANIFEST, read_manifest
from infifusion.store.folders import RunFolder
from infifusion.store.receipts import FilePieces
from infifusion.store.records import Json
from infifusion.store.stage import Finished, Parts, Stage, Work, run_stage


class Killed(BaseException):
    """What ends a process between two of its lines."""


class Numbers:
    """A stage that writes its numbers, a file each, and counts what each process does."""

    def __init__(self, root: Path, reads: tuple[Path, ...] = ()) -> None:
        self.run = RunFolder(root)
        self.out = self.run.teach("numbers")
        self.reads, self.begun, self.made = reads, 0, []
        self.killed_at: str | None = None

    def start(self, **settings: object) -> None:
        stage = Stage(
            title="teach numbers",
            folder=self.out,
            fingerprint={"numbers": 3, **settings},
            work=self.work,
            reads=self.reads,
        )
        run_stage(stage, self.run)

    def work(self) -> Work:
        self.begun += 1
        paths = [self.out / f"{number}.txt" for number in range(3)]

        def make(missing: list[Path]) -> Iterator[tuple[Path, Json]]:
            for path in missing:
                if path.name == self.killed_at:
                    raise Killed
                path.write_text(path.stem)
                self.made.append(path.name)
                yield path, {}

        def finish() -> Finished:
            total = sum(int(path.read_text()) for path in paths)
            return Finished(paths, {"total": total}, f"{total} in all")

        return Work(finish, Parts(paths, FilePieces(self.out), make))


def test_a_stage_goes_on_with_the_parts_it_lacks_and_is_then_skipped(tmp_path: Path) -> None:
    stage = Numbers(tmp_path)
    stage.killed_at = "1.txt"
    with pytest.raises(Killed):
        stage.start()
    assert stage.made == ["0.txt"] and not (stage.out / MANIFEST).exists()
    stage.killed_at = None
    stage.start()
    assert stage.made == ["0.txt", "1.txt", "2.txt"]
    manifest = read_manifest(stage.out, made_by="teach")
    assert manifest["counts"] == {"total": 3} and len(manifest["files"]) == 3
    stage.start()
    assert stage.begun == 2
    with pytest.raises(
        ArtifactError, match="seed: the folder has '\\(absent\\)', the recipe wants 1"
    ):
        stage.start(seed=1)


def test_processes_make_every_part_once_and_the_first_one_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    second = Numbers(tmp_path)
    second.start()
    assert second.made == ["1.txt"] and not (second.out / MANIFEST).exists()
    (second.out / "1.txt").rename(tmp_path / "later")
    monkeypatch.setenv("RANK", "0")
    first = Numbers(tmp_path)
    timer = threading.Timer(0.5, lambda: (tmp_path / "later").rename(first.out / "1.txt"))
    timer.start()
    first.start()  # waits for the part of the second one
    assert first.made == ["0.txt", "2.txt"] and (first.out / MANIFEST).exists()


def test_nothing_is_begun_where_what_is_read_has_changed(tmp_path: Path) -> None:
    source = Numbers(tmp_path)
    source.start()
    reader = Numbers(tmp_path, reads=(source.out,))
    reader.out = reader.run.fuse("numbers")
    (source.out / "2.txt").write_text("3")
    with pytest.raises(ArtifactError, match=r"2\.txt is not the file that was written"):
        reader.start()
    assert reader.begun == 0
