"""Random input for readers: what the fuzzers of tests/inputs and tests/security share.

Half of the inputs are whole documents with values in the wrong places, half are bytes of such
documents moved about. What is found is written to fuzz-TARGET-N/ and printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from infifusion.errors import InfiFusionError

SECONDS = 10
"""Processor time that one input may take; its file has a few thousand bytes."""
MEMORY = 1 << 30
"""Bytes of address space that a process may take beside what it has when it begins."""
Files = dict[str, bytes]


@dataclass(frozen=True)
class Language:
    """What a kind of document is made of: pieces of its text, and values that stand in it."""

    words: list[bytes]
    leaves: st.SearchStrategy[Any]

    @property
    def values(self) -> st.SearchStrategy[Any]:
        """Leaves, and lists and mappings of them."""
        return st.recursive(
            self.leaves,
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(st.text(max_size=8), inner, max_size=4)
            ),
            max_leaves=12,
        )

    def documents(
        self, wholes: list[Any], write: Callable[[Any], bytes]
    ) -> st.SearchStrategy[bytes]:
        """Whole documents with changes, and bytes of the documents moved about."""
        return st.one_of(
            *(changed(whole, self).map(write) for whole in wholes),
            moved_about([write(whole) for whole in wholes], self),
        )


@dataclass(frozen=True)
class Target:
    """A reader: what is written into its folder, the call that reads it, what lies in the folder
    besides, and the most characters that an error may have."""

    files: st.SearchStrategy[Files]
    read: Callable[[Path], object]
    prepare: Callable[[Path], object] = lambda folder: None
    longest: int = 50_000


class OutOfTime(BaseException):
    """An input took more than SECONDS of processor time."""


def one_file(name: str, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[Files]:
    """Files of which there is one."""
    return content.map(lambda found: {name: found})


def as_json(value: Any) -> bytes:
    """A document as JSON."""
    return json.dumps(value).encode()


@st.composite
def changed(draw: st.DrawFn, whole: Any, language: Language) -> Any:
    """A document of which some values stand elsewhere, are gone, or are anything."""
    document = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(document))
        holder, key = draw(st.sampled_from(places)) if places else (None, None)
        if holder is None:
            return draw(language.values)
        kind = draw(st.sampled_from(["value", "value", "gone", "moved", "renamed", "added"]))
        if kind == "value":
            holder[key] = draw(language.values)
        elif kind == "gone":
            del holder[key]
        elif kind == "moved":
            other, place = draw(st.sampled_from(places))
            holder[key] = json.loads(json.dumps(other[place])) if place in _keys(other) else None
        elif isinstance(holder, dict):
            value = holder.pop(key) if kind == "renamed" else draw(language.values)
            holder[
                draw(st.text(max_size=8) | st.sampled_from(sorted(map(str, holder)) or ["x"]))
            ] = value
        else:
            holder.append(draw(language.values))
    return document


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in _keys(value):
            yield value, key
            yield from _places(value[key])


@st.composite
def moved_about(draw: st.DrawFn, documents: list[bytes], language: Language) -> bytes:
    """Bytes of a document: cut, doubled, flipped, and with words of the language put in."""
    content = draw(st.sampled_from(documents))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 40)))
        piece = draw(
            st.sampled_from(language.words)
            | st.binary(max_size=8)
            | st.just(b"")
            | st.just(content[start:stop] * 2)
        )
        content = content[:start] + piece + content[stop:]
    return content[:20_000]


def feed(target: Target, folder: Path, files: Files) -> None:
    """Read one input. Only an InfiFusionError with a message of bounded length may come of it."""
    before = {name: _content(folder / name) for name in files}
    try:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        with limited_time(SECONDS):
            target.read(folder)
    except InfiFusionError as error:
        message = str(error)
        assert 0 < len(message) < target.longest, f"a message of {len(message)} characters"
        message.encode()  # it can be printed
    finally:
        for name, content in before.items():
            if content is not None:
                (folder / name).write_bytes(content)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@contextlib.contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Raise OutOfTime once the block has taken so much processor time."""

    def stop(number: int, frame: object) -> None:
        raise OutOfTime(f"more than {seconds} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def limit_memory(more: int) -> None:
    """Let this process take `more` bytes of address space and no more: MemoryError beyond."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def fuzz(name: str, target: Target, *, minutes: float, first_seed: int) -> tuple[int, int]:
    """Feed one target for some minutes; how many inputs, and how many finds."""
    fed, finds = 0, 0
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        target.prepare(folder)
        last: Files = {}

        @settings(
            max_examples=200,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(target.files)
        def once(files: Files) -> None:
            nonlocal fed, last
            if time.monotonic() < end:
                fed, last = fed + 1, files
                feed(target, folder, files)

        while time.monotonic() < end:
            first_seed += 1
            try:
                seed(first_seed)(once)()
            except (Exception, OutOfTime) as error:
                finds += 1
                _keep(f"fuzz-{name}-{finds}", last)
                print("".join(traceback.format_exception(error)[-6:]), flush=True)
    return fed, finds


def _keep(name: str, files: Files) -> None:
    place = Path(name)
    shutil.rmtree(place, ignore_errors=True)
    for inner, content in files.items():
        (place / inner).parent.mkdir(parents=True, exist_ok=True)
        (place / inner).write_bytes(content)


def main(targets: Mapping[str, Target], *, about: str | None) -> None:
    """Fuzz the targets named, one after another; exit status 1 where something was found."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(targets))
    parser.add_argument("--minutes", type=float, default=10, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    limit_memory(MEMORY)
    found = 0
    for name in options.targets or targets:
        fed, finds = fuzz(
            name, targets[name], minutes=options.minutes, first_seed=1000 * options.seed
        )
        found += finds
        print(f"{name}: {fed:,} inputs in {options.minutes:g} minutes, {finds} finds", flush=True)
    sys.exit(1 if found else 0)
