from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infifusion.recipe import Model
from infifusion.stages import mapping
from infifusion.stages.mapping import map_between


def maps_of(suite: Path, alignment: str = "bytes") -> mapping.VocabularyMap:
    a, pivot = (Model(model=str(suite / name)) for name in ("a", "pivot"))
    return map_between(a, pivot, end_of_turn=((0,), (0,)), alignment=alignment)


def test_a_map_is_kept_and_a_damaged_one_is_made_anew(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFIFUSION_CACHE", str(tmp_path))
    made = []
    real = mapping.vocabulary_map
    monkeypatch.setattr(mapping, "vocabulary_map", lambda *a, **k: made.append(1) or real(*a, **k))
    first, second = maps_of(suite), maps_of(suite)
    assert len(made) == 1
    assert np.array_equal(first.pivot_V, second.pivot_V)
    assert np.array_equal(first.how_V, second.how_V) and first.counts() == second.counts()
    (kept,) = (tmp_path / "vocabulary").iterdir()
    kept.write_bytes(kept.read_bytes()[:-9])
    assert np.array_equal(maps_of(suite).pivot_V, first.pivot_V) and len(made) == 2


def test_each_kind_of_alignment_keeps_a_map_of_its_own(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFIFUSION_CACHE", str(tmp_path))
    by_bytes, by_distance = maps_of(suite), maps_of(suite, "min_ed")
    assert len(list((tmp_path / "vocabulary").iterdir())) == 2
    assert by_bytes.counts()["same_bytes"] == by_distance.counts()["same_bytes"] > 200
    assert "nearest" not in by_bytes.counts() and by_distance.counts()["nearest"] > 0
    assert np.array_equal(maps_of(suite, "min_ed").pivot_V, by_distance.pivot_V)


def test_a_cache_that_cannot_be_written_is_done_without(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("INFIFUSION_CACHE", str(tmp_path / "file"))
    assert maps_of(suite).counts()["same_bytes"] > 200
