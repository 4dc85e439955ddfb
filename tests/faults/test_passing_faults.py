"""A disk that fails just now, or too many open files: what may be whole is kept, and nobody is told
to delete it."""

from __future__ import annotations

import contextlib
import errno
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infifusion.data.store import load_rendered, write_rendered
from infifusion.errors import RunError
from infifusion.store.artifacts import open_stage
from infifusion.store.receipts import FilePieces, hashes_of, sign
from infifusion.teacher.cache import BeliefReader, shard_path, write_shard
from infifusion.train.checkpoints import WHOLE, Checkpoints
from infifusion.types import Beliefs, Rendered

ROWS = 3


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """As long as the block runs, this process has as many open files as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as held:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with contextlib.suppress(OSError):
            while True:
                held.enter_context(open("/dev/null", "rb"))
        yield


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """failing(name): opening files of this name gives an input/output error from now on."""
    opened = Path.open

    def begin(name: str) -> None:
        def fails(self: Path, *arguments: Any, **keywords: Any) -> Any:
            if self.name == name:
                raise OSError(errno.EIO, "Input/output error", str(self))
            return opened(self, *arguments, **keywords)

        monkeypatch.setattr(Path, "open", fails)

    return begin


def beliefs() -> Beliefs:
    zero = np.zeros(ROWS, np.float32)
    two = (ROWS, 2)
    ids, logs = np.zeros(two, np.int32), np.zeros(two, np.float16)
    return Beliefs(ids, logs, zero, zero, zero, zero, zero)


def test_a_shard_that_cannot_be_opened_just_now_is_not_to_be_deleted(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, beliefs(), vocabulary=9)
    row_N1 = np.array([0, ROWS])
    with no_more_files(), pytest.raises(RunError) as caught:
        BeliefReader(tmp_path, row_N1, 1, vocabulary=9)
    said = str(caught.value)
    assert "Too many open files" in said and "Delete" not in said
    assert str(shard_path(tmp_path, 0)) in said
    BeliefReader(tmp_path, row_N1, 1, vocabulary=9)


def test_prepared_data_that_cannot_be_opened_just_now_is_not_to_be_deleted(tmp_path: Path) -> None:
    path = tmp_path / "r.safetensors"
    none, one = np.zeros(0, np.int32), np.zeros(1, np.int64)
    write_rendered(path, Rendered(none, one, none, none, one))
    with no_more_files(), pytest.raises(RunError) as caught:
        load_rendered(path)
    assert "Too many open files" in str(caught.value) and "Delete" not in str(caught.value)
    assert len(load_rendered(path)) == 0


def test_a_shard_that_cannot_be_read_just_now_is_not_made_anew(
    tmp_path: Path, failing: Callable[[str], None]
) -> None:
    open_stage(tmp_path, {"settings": 1})
    shard = tmp_path / "shard-00000.jsonl"
    shard.write_text("hours of work")
    pieces = FilePieces(tmp_path)
    pieces.sign(shard)
    receipts = list((tmp_path / "receipts").iterdir())
    assert not pieces.must_be_made(shard) and len(receipts) == 1
    failing(shard.name)
    with pytest.raises(RunError, match="shard-00000.jsonl cannot be read: Input/output error"):
        pieces.must_be_made(shard)
    assert receipts[0].exists()


def test_a_checkpoint_that_cannot_be_read_just_now_is_not_deleted(
    tmp_path: Path, failing: Callable[[str], None]
) -> None:
    last = tmp_path / "checkpoint-7"
    last.mkdir()
    (last / "weights").write_text("days of work")
    sign(last / WHOLE, hashes_of([last / "weights"], tmp_path), mark="m")
    checkpoints = Checkpoints(tmp_path, "m", 1)
    assert checkpoints.last_whole(clean=True) == str(last)
    failing("weights")
    with pytest.raises(RunError, match="nothing was changed"):
        checkpoints.last_whole(clean=True)
    assert (last / "weights").exists() and (last / WHOLE).exists()
