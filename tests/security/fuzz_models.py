"""Random model files for every reader of them: our own errors, no hang, no blow-up of memory.

    python tests/security/fuzz_models.py [--minutes 10] [--seed 0] [TARGET ...]

Half of the inputs are whole documents with values in the wrong places, half are bytes of such
documents moved about. What is found is written to fuzz-TARGET-N and printed; each such find
becomes a case of test_model_files.py. The `peer` target is what a program in the sandbox may send
to its test.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from infifusion.errors import InfiFusionError
from infifusion.evals.sandbox_peer import NONSENSE, Peer
from infifusion.stages.merge_models import open_model
from infifusion.weights.reader import INDEX, SINGLE, Checkpoint, read_header

SECONDS = 10
"""Processor time that one input may take; it has at most 20,000 bytes."""
MEMORY = 1 << 30
"""Bytes of address space that a process may take beside what it has when it begins."""
LONGEST_MESSAGE = 2_000
HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [0, 3], "data_offsets": [16, 16]},
    "c": {"dtype": "I64", "shape": [], "data_offsets": [16, 24]},
}
DATA = bytes(24)
WHOLE_INDEX: dict[str, Any] = {
    "metadata": {"total_size": 24},
    "weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "one.safetensors"},
}
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 1,
    "tie_word_embeddings": True,
    "text_config": {"vocab_size": 4, "n_layer": 2},
}
ADAPTER: dict[str, Any] = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "use_rslora": False}
MESSAGES: list[Any] = [
    ["dict", [["a", ["list", [1, ["tuple", [2.5, None]]]]]]],
    ["made", "datetime", "date", ["tuple", [2020, 1, 2]]],
    ["like", ["list", [1]], 0],
    ["error", 0, "Odd", "ValueError"],
    ["int", "0xff"],
    ["yours", 0],
    ["mine", 3],
    ["type", "int"],
    ["bytes", "00ff"],
]
WORDS = [
    b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"1e999", b"-1", b"NaN", b"Infinity", b"null",
    b"true", b"18446744073709551616", b"1.0", b'""', b"..", b"/", b"\\u0000", b"\\ud800",
    b"\xff", b"\0", b"{", b"}", b"[", b"]", b",", b":", b'"', b"\xef\xbb\xbf", b"x" * 300,
    b"__class__", b"builtins", b"range", b"SystemExit",
]  # fmt: skip
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.integers(1 << 31, 1 << 80),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["F32", "BF16", "X9", "..", "../x", "/etc/passwd", "\0", "LORA", "one"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


class OutOfTime(BaseException):
    """An input took more than SECONDS of processor time."""


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


@st.composite
def changed(draw: st.DrawFn, whole: Any) -> bytes:
    """A document of which some values are gone, or are anything."""
    document = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(document))
        if not places:
            document = draw(VALUES)
            continue
        holder, key = draw(st.sampled_from(places))
        if draw(st.booleans()) and draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = draw(VALUES)
    return json.dumps(document).encode()


@st.composite
def moved_about(draw: st.DrawFn, whole: Any) -> bytes:
    """Bytes of a document: cut, doubled, flipped, and with words of the language put in."""
    content = json.dumps(whole).encode()
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 40)))
        twice = content[start:stop] * 2
        piece = draw(st.sampled_from(WORDS) | st.binary(max_size=8) | st.sampled_from([b"", twice]))
        content = content[:start] + piece + content[stop:]
    return content[:20_000]


def documents(*wholes: Any) -> st.SearchStrategy[bytes]:
    """Whole documents with changes, and bytes of them moved about."""
    return st.one_of(*(make(whole) for whole in wholes for make in (changed, moved_about)))


def as_file(header: bytes) -> bytes:
    """A safetensors file with this header."""
    return len(header).to_bytes(8, "little") + header + DATA


def whole_model(folder: Path) -> None:
    """A model folder that can be read."""
    good = as_file(json.dumps(HEADER).encode())
    for name in ("one.safetensors", SINGLE):
        (folder / name).write_bytes(good)
    (folder / "config.json").write_text(json.dumps(CONFIG))


def read_model(folder: Path) -> None:
    """Every tensor of a folder."""
    found = Checkpoint(folder)
    for name in found:
        with contextlib.suppress(InfiFusionError):
            found.array(name).reshape(found.shape(name))


def unpack(folder: Path) -> None:
    """A message as a peer of the sandbox reads it: a value, or one of the errors it expects."""
    peer = Peer(-1, -1, frozenset())
    try:
        value = json.loads((folder / "message").read_bytes())
    except (ValueError, RecursionError):
        return
    with contextlib.suppress(*NONSENSE):
        peer.unpack(value)


@dataclass(frozen=True)
class Target:
    """A reader: the file of its folder that is random, and the call that reads it."""

    name: str
    content: st.SearchStrategy[bytes]
    read: Callable[[Path], object]


TARGETS = {
    "header": Target(
        "x.safetensors",
        documents(HEADER).map(as_file) | moved_about(HEADER),
        lambda folder: read_header(folder / "x.safetensors"),
    ),
    "tensors": Target(SINGLE, changed(HEADER).map(as_file), read_model),
    "index": Target(INDEX, documents(WHOLE_INDEX), read_model),
    "config": Target(
        "config.json", documents(CONFIG), lambda folder: open_model(str(folder), folder)
    ),
    "adapter": Target(
        "adapter_config.json",
        documents(ADAPTER),
        lambda folder: open_model(f"{folder}+{folder}", folder),
    ),
    "peer": Target("message", documents(*MESSAGES), unpack),
}


def feed(target: Target, folder: Path, content: bytes) -> None:
    """Read one input. Only an InfiFusionError with a message of bounded length may come of it."""
    (folder / target.name).write_bytes(content)
    try:
        with limited_time(SECONDS):
            target.read(folder)
    except InfiFusionError as error:
        assert 0 < len(str(error)) < LONGEST_MESSAGE, f"a message of {len(str(error))} characters"
        str(error).encode()  # it can be printed


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


def fuzz(name: str, *, minutes: float, first_seed: int) -> tuple[int, int]:
    """Feed one target for some minutes; how many inputs, and how many finds."""
    target, fed, finds, last = TARGETS[name], 0, 0, b""
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as place:
        whole_model(Path(place))

        @settings(
            max_examples=200,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(target.content)
        def once(content: bytes) -> None:
            nonlocal fed, last
            if time.monotonic() < end:
                fed, last = fed + 1, content
                feed(target, Path(place), content)

        while time.monotonic() < end:
            first_seed += 1
            try:
                seed(first_seed)(once)()
            except (Exception, OutOfTime) as error:
                finds += 1
                Path(f"fuzz-{name}-{finds}").write_bytes(last)
                print("".join(traceback.format_exception(error)[-6:]), flush=True)
    return fed, finds


def main() -> None:
    """Fuzz the targets named, one after another; exit status 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=10, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    limit_memory(MEMORY)
    found = 0
    for name in options.targets or TARGETS:
        fed, finds = fuzz(name, minutes=options.minutes, first_seed=1000 * options.seed)
        found += finds
        print(f"{name}: {fed:,} inputs in {options.minutes:g} minutes, {finds} finds", flush=True)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
