"""Pieces of a stage under way, when several processes go on with it."""

from __future__ import annotations

from pathlib import Path

from infifusion.store.artifacts import State, close_stage, open_stage
from infifusion.store.receipts import FilePieces, is_whole, mark_of, must_be_made, sign

PRINT = {"a": 1}


def test_a_piece_is_made_where_it_is_missing_or_changed(tmp_path: Path) -> None:
    open_stage(tmp_path, PRINT)
    pieces, shard = FilePieces(tmp_path), tmp_path / "shard"
    assert pieces.must_be_made(shard)
    shard.write_text("content")
    pieces.sign(shard)
    assert pieces.is_whole(shard) and not pieces.must_be_made(shard)
    shard.write_text("Content")
    assert not pieces.is_whole(shard) and pieces.must_be_made(shard)


def test_a_process_that_comes_late_makes_nothing_of_a_stage_that_was_signed_meanwhile(
    tmp_path: Path,
) -> None:
    assert open_stage(tmp_path, PRINT) is State.FRESH
    shard, scratch = tmp_path / "shard", tmp_path / "done" / "0.json"
    shard.write_text("content")
    FilePieces(tmp_path).sign(shard)
    sign(scratch, {}, mark=mark_of(tmp_path))
    # The late one has opened the stage; now the first one finds every piece there, and signs.
    assert open_stage(tmp_path, PRINT) is State.RESUME
    close_stage(tmp_path, PRINT, counts={}, seconds=0.0, files=[shard])
    late = FilePieces(tmp_path)
    assert not late.is_whole(shard) and not late.must_be_made(shard)
    receipts = list((tmp_path / "receipts").iterdir())
    assert len(receipts) == 1 and not scratch.exists()
    mark = mark_of(tmp_path)
    assert mark == "" and not is_whole(scratch, dict, mark=mark)
    assert not must_be_made(scratch, dict, mark=mark, stage=tmp_path)
