"""A short, repeatable run of the fuzzer over every reader, and what its long runs found."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import TARGETS
from fuzzing import Files, OutOfTime, feed, limited_time
from hypothesis import HealthCheck, Phase, given, settings

EXAMPLES = 40
RECIPE = b"name: r\npivot: {model: p}\nsources: {a: {model: a}}\n"
DATA = b"data: {train: [{path: x.jsonl, domain: d}]}\n"
FOUND: dict[str, tuple[str, Files]] = {
    "a date that is none": ("recipe", {"r.yaml": b"name: 2001-99-99\n"}),
    "a truth that is none": ("recipe", {"r.yaml": b"name: !!bool many\n"}),
    "a time stamp that is none": ("merge", {"m.yaml": b"seed: !!timestamp x\n"}),
    "depth": ("recipe", {"r.yaml": b"a: " + b"[" * 3000}),
    "an alias of itself": ("recipe", {"r.yaml": b"a: &a {b: *a}\n"}),
    "merge keys of merge keys": (
        "recipe",
        {"r.yaml": b"a: &a {x: 1}\n" + b"".join(
            b"%c: &%c {<<: [%s]}\n" % (98 + n, 98 + n, b", ".join([b"*%c" % (97 + n)] * 10))
            for n in range(9)
        )},
    ),
    "a mapping for a target": (
        "sweep",
        {"s.yaml": b"name: s\nrecipe:\n  distill: {u: {target: {k: [1, 2]}}}\n"},
    ),
    "a list for entries": ("sweep", {"s.yaml": b"name: s\nrecipe: {fuse: [1]}\n"}),
    "a number for a name": ("sweep", {"s.yaml": b"name: s\nrecipe: {fuse: {1: {keep: [1, 2]}}}\n"}),
    "a million combinations": (
        "sweep",
        {"s.yaml": b"name: s\nrecipe: {x: [%s]}\nsettings: {a: [%s], b: [%s]}\n"
         % ((b"1," * 99,) * 3)},
    ),
    "a number for words": ("recipe", {"r.yaml": RECIPE + DATA + b"seed: true\n"}),
    "half a character": ("data", {"x.jsonl": b'{"prompt": "\\ud800", "response": "r"}\n'}),
    "a deep line": ("data", {"x.jsonl": b'{"prompt": ' + b"[" * 9000 + b"]" * 9000 + b"}\n"}),
    "a list for a line": ("prepared", {"x.jsonl": b"[1]\n"}),
    "bytes for a line": ("prepared", {"x.jsonl": b"\xff\n"}),
    "a record of nothing": ("prepared", {"x.jsonl": b"{}\n"}),
    "a plan that is a word": ("run", {"resolved.json": b'{"plan": "x", "recipe": {}}'}),
    "a manifest of nothing": ("run", {"prepare/manifest.json": b'{"counts": []}'}),
    "a score of words": ("run", {"evaluate/sft/scores.json": b'{"scores": {"demo_sums": "x"}}'}),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per target, with what lies beside the file that is read."""
    made = {name: tmp_path_factory.mktemp(name) for name in TARGETS}
    for name, folder in made.items():
        TARGETS[name].prepare(folder)
    return made


@pytest.mark.parametrize("kind", FOUND)
def test_what_was_found_stays_mended(kind: str, folders: dict[str, Path]) -> None:
    name, files = FOUND[kind]
    feed(TARGETS[name], folders[name], files)


@pytest.mark.parametrize("name", TARGETS)
def test_random_input_gives_nothing_but_our_errors(name: str, folders: dict[str, Path]) -> None:
    fed = 0

    @settings(
        max_examples=EXAMPLES if name != "run" else EXAMPLES // 4,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(TARGETS[name].files)
    def once(files: Files) -> None:
        nonlocal fed
        fed += 1
        feed(TARGETS[name], folders[name], files)

    once()
    assert fed >= EXAMPLES // 4


def test_a_reader_that_hangs_would_be_found() -> None:
    def hang() -> None:
        while True:
            pass

    with pytest.raises(OutOfTime), limited_time(0.05):
        hang()
