"""Digests of files: each file is read once, and a change is found."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infifusion.store import hashes
from infifusion.store.hashes import quick_hash, sampled_sha256, sha256_of


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The kinds of digests that each reading of a file computes."""
    made: list[list[str]] = []
    real = hashes._read
    monkeypatch.setattr(
        hashes, "_read", lambda file, kinds: made.append(kinds) or real(file, kinds)
    )
    yield made


def test_a_file_is_read_once_also_under_another_name(
    tmp_path: Path, readings: list[list[str]]
) -> None:
    path = tmp_path / "shard"
    path.write_bytes(b"content")
    for _ in range(2):
        quick_hash(path, sealed=True)
        assert sha256_of(path) == hashlib.sha256(b"content").hexdigest()
    renamed = path.rename(tmp_path / "other")
    assert sha256_of(renamed) == hashlib.sha256(b"content").hexdigest()
    assert readings == [["xxh3", "sha256"]]
    sampled_sha256(renamed), sampled_sha256(renamed)
    assert len(readings) == 2


def test_a_file_is_read_when_a_further_change_would_have_another_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux notes the time of a change in steps of up to 10 ms: a rewrite in the same step would
    have the digest of what it replaced."""
    path, ages = tmp_path / "shard", []
    real = hashes._read

    def read(file, kinds: list[str]) -> dict[str, str]:
        ages.append(time.time_ns() - path.stat().st_mtime_ns)
        return real(file, kinds)

    monkeypatch.setattr(hashes, "_read", read)
    for number in range(5):
        content = f"content {number}".encode()  # always as long
        path.write_bytes(content)
        assert sha256_of(path) == hashlib.sha256(content).hexdigest()
    assert len(ages) == 5 and min(ages) > 10_000_000


def test_a_file_that_grows_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one")
    real = hashes._read

    def grows(file, kinds: list[str]) -> dict[str, str]:
        found = real(file, kinds)
        path.write_bytes(b"one more")
        return found

    monkeypatch.setattr(hashes, "_read", grows)
    sha256_of(path)
    monkeypatch.setattr(hashes, "_read", real)
    assert sha256_of(path) == hashlib.sha256(b"one more").hexdigest()
