"""Random input for every reader: nothing but our own errors, no hang, no blow-up of memory.

    python tests/inputs/fuzz.py [--minutes 10] [--seed 0] [TARGET ...]

Half of the inputs are whole documents with values in the wrong places, half are bytes of such
documents moved about. What is found is written to fuzz-TARGET-N/ and printed; each such find
becomes an entry of FOUND in test_fuzz.py.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "report")]
from conftest import tiny_model
from run_folder_maker import make_run_folder

from infifusion.artifacts import read_json
from infifusion.data.examples import read_examples
from infifusion.data.prompts import read_prompts
from infifusion.data.store import load_answers, load_examples, load_responses
from infifusion.errors import InfiFusionError
from infifusion.recipe import DataSource, PromptSource, load_recipe
from infifusion.report.page import write_report
from infifusion.stages.merge_file import read_merge_file
from infifusion.stages.merge_plan import plan_file
from infifusion.sweep import load_sweep

SECONDS = 10
"""Processor time that one input may take; its file has a few thousand bytes."""
MEMORY = 1 << 30
"""Bytes of address space that a process may take beside what it has when it begins."""
LONGEST_MESSAGE = 50_000
Files = dict[str, bytes]

RECIPE: dict[str, Any] = {
    "name": "r",
    "pivot": {"model": "p"},
    "sources": {"a": {"model": "a"}, "b": {"model": "b", "temperature": 1.5}},
    "data": {"train": [{"path": "x.jsonl", "domain": "d"}], "max_length": 64},
    "write_responses": {"prompts": [{"path": "p.jsonl", "domain": "d"}], "samples": 1},
    "teach": {"top_k": 5},
    "fuse": {"u": {"function": "mean", "params": {}}, "e": {"each": True, "gate": "none"}},
    "training": {"max_steps": 2},
    "distill": {"sft": {}, "u": {"target": "u"}, "e": {"target": "e", "each": True}},
    "merge": {"m": {"method": "rsaf", "models": ["e"], "params": {"tau0": 0.5}}},
    "evaluate": {"tasks": ["gsm8k"], "compare": [["sft", "u"]]},
}
SWEEP: dict[str, Any] = {
    "name": "s",
    "recipe": RECIPE,
    "changes": {"teach": {"top_k": [1, 2]}, "fuse": {"u": {"params": {"kappa": [0.1, 1]}}}},
    "seeds": [0, 1],
    "settings": {"training.max_steps": [1, 2]},
    "arms": ["u", "m"],
    "against": ["pivot"],
}
MERGE: dict[str, Any] = {
    "merge_method": "ties",
    "base_model": "base",
    "models": [
        {"model": "one", "parameters": {"weight": 0.5, "density": [0.1, 0.9]}},
        {"model": "two", "parameters": {"weight": [{"filter": "mlp", "value": 1}, {"value": 2}]}},
    ],
    "parameters": {"normalize": True},
    "dtype": "float32",
}
SLICES: dict[str, Any] = {
    "merge_method": "passthrough",
    "slices": [
        {"sources": [{"model": "one", "layer_range": [0, 2]}]},
        {"sources": [{"model": "two", "layer_range": [1, 2]}]},
    ],
    "tokenizer": {"source": "base", "tokens": {"x": {"source": {"kind": "zero"}}}},
}
RECORDS: list[dict[str, Any]] = [
    {"prompt": "p", "response": "r", "id": "1"},
    {"prompt": "q", "response": "", "messages": [{"role": "user", "content": "u"}]},
    {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
]
WORDS = [
    b"&a ", b"*a", b"<<: ", b"<<: [*a, *a]", b"? ", b"- ", b": ", b"\t", b"---\n", b"...\n", b"# ",
    b"!!int ", b"!!bool ", b"!!timestamp ", b"!!binary ", b"!!set ", b"!!omap ", b"!!pairs ",
    b"!!python/none ", b"!!merge ", b"!!null ", b"!!float ", b"!!str ", b"!x ", b"%YAML 9.9\n",
    b"|\n", b">\n", b"{", b"}", b"[", b"]", b",", b'"', b"'", b"\\u0000", b"\\ud800", b"\\", b"\0",
    b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc2\x85", b"\r", b"\n", b"1e999", b".nan",
    b"-.inf", b"NaN", b"0x", b"0b2", b"1:60:99", b"2001-99-99", b"9" * 5000, b"[" * 2000,
    b"{a: " * 400,
    b"null", b"~", b"true", b"-1", b"0", b"1e-400", b"{prompt}", b"{x.y}", b"validate", b"each",
    b"a:b", b"os:system", b"..", b"/", b"x" * 300, b"__proto__", b"{seed}", b"\xf0\x9f\x99\x82",
]  # fmt: skip
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**18, max_value=10**40),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["", "a", "e", "u", "base", "pivot", "previous", "own", "fit", "{seed}", "a.b"]
    ),
    st.sampled_from(["validate", "union", "ties", "rsaf", "mean", "x:y", "math:sqrt", "..", "\0"]),
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


@st.composite
def changed(draw: st.DrawFn, whole: Any) -> Any:
    """A document of which some values stand elsewhere, are gone, or are anything."""
    document = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(document))
        holder, key = draw(st.sampled_from(places)) if places else (None, None)
        if holder is None:
            return draw(VALUES)
        kind = draw(st.sampled_from(["value", "value", "gone", "moved", "renamed", "added"]))
        if kind == "value":
            holder[key] = draw(VALUES)
        elif kind == "gone":
            del holder[key]
        elif kind == "moved":
            other, place = draw(st.sampled_from(places))
            holder[key] = json.loads(json.dumps(other[place])) if place in _keys(other) else None
        elif isinstance(holder, dict):
            value = holder.pop(key) if kind == "renamed" else draw(VALUES)
            holder[
                draw(st.text(max_size=8) | st.sampled_from(sorted(map(str, holder)) or ["x"]))
            ] = value
        else:
            holder.append(draw(VALUES))
    return document


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in _keys(value):
            yield value, key
            yield from _places(value[key])


@st.composite
def moved_about(draw: st.DrawFn, documents: list[bytes]) -> bytes:
    """Bytes of a document: cut, doubled, flipped, and with words of the language put in."""
    content = draw(st.sampled_from(documents))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 40)))
        piece = draw(
            st.sampled_from(WORDS)
            | st.binary(max_size=8)
            | st.just(b"")
            | st.just(content[start:stop] * 2)
        )
        content = content[:start] + piece + content[stop:]
    return content[:20_000]


def as_yaml(value: Any) -> bytes:
    """A document as YAML, or as JSON where YAML has no word for it."""
    try:
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()
    except (yaml.YAMLError, UnicodeEncodeError):
        return json.dumps(value).encode()


def documents(wholes: list[Any], write: Callable[[Any], bytes]) -> st.SearchStrategy[bytes]:
    """Whole documents with changes, and bytes of the documents moved about."""
    return st.one_of(
        *(changed(whole).map(write) for whole in wholes),
        moved_about([write(whole) for whole in wholes]),
    )


def as_lines(values: Any) -> bytes:
    """JSON objects, one a line."""
    listed = values if isinstance(values, list) else [values]
    return b"".join(json.dumps(value).encode() + b"\n" for value in listed)


@dataclass(frozen=True)
class Target:
    """A reader: what is written into its folder, and the call that reads it."""

    files: st.SearchStrategy[Files]
    read: Callable[[Path], object]
    prepare: Callable[[Path], object] = field(default=lambda folder: None)


def _models(folder: Path) -> None:
    for number, name in enumerate(("base", "one", "two")):
        tiny_model("llama", 40, number).save_pretrained(folder / name)


def _data(folder: Path) -> None:
    path = str(folder / "x.jsonl")
    for source in (
        DataSource(path=path, domain="d"),
        DataSource(path=path, domain="d", prompt="Q: {prompt}", response="{response}"),
        DataSource(path=path, domain="d", messages="messages"),
    ):
        with contextlib.suppress(InfiFusionError):
            read_examples(source, seed=0)
    read_prompts([PromptSource(path=path, domain="d")], seed=0)


def _prepared(folder: Path) -> None:
    for load in (load_examples, load_responses, load_answers):
        with contextlib.suppress(InfiFusionError):
            load(folder / "x.jsonl")


def _run(folder: Path) -> None:
    for path in folder.rglob("*.json"):
        with contextlib.suppress(InfiFusionError):
            read_json(path)
    write_report(folder)


def _in_run() -> st.SearchStrategy[Files]:
    with tempfile.TemporaryDirectory() as place:
        folder = make_run_folder(Path(place))
        wholes = {
            str(path.relative_to(folder)): json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(folder.rglob("*.json"))
        }
    return st.sampled_from(sorted(wholes)).flatmap(
        lambda name: documents([wholes[name]], lambda value: json.dumps(value).encode()).map(
            lambda content: {name: content}
        )
    )


def _one(name: str, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[Files]:
    return content.map(lambda found: {name: found})


EXAMPLE = {"id": "d/1", "domain": "d", "prompt": [{"role": "user", "content": "p"}],
           "response": "r", "written_by": None, "winner": "a"}  # fmt: skip
TARGETS = {
    "recipe": Target(
        _one("r.yaml", documents([RECIPE], as_yaml)), lambda f: load_recipe(f / "r.yaml").resolve()
    ),
    "sweep": Target(
        _one("s.yaml", documents([SWEEP], as_yaml)), lambda f: load_sweep(f / "s.yaml", [])
    ),
    "merge": Target(
        _one("m.yaml", documents([MERGE, SLICES], as_yaml)),
        lambda f: plan_file(read_merge_file(f / "m.yaml", base_override=None), f / "m.yaml"),
        _models,
    ),
    "data": Target(_one("x.jsonl", documents([RECORDS, RECORDS[0]], as_lines)), _data),
    "prepared": Target(_one("x.jsonl", documents([[EXAMPLE, EXAMPLE]], as_lines)), _prepared),
    "run": Target(_in_run(), _run, make_run_folder),
}


def feed(target: Target, folder: Path, files: Files) -> None:
    """Read one input. Only an InfiFusionError with a message of bounded length may come of it."""
    before = {name: _content(folder / name) for name in files}
    try:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        with limited_time(SECONDS):
            target.read(folder)
    except InfiFusionError as error:
        assert 0 < len(str(error)) < LONGEST_MESSAGE, f"a message of {len(str(error))} characters"
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


def fuzz(name: str, *, minutes: float, first_seed: int) -> tuple[int, int]:
    """Feed one target for some minutes; how many inputs, and how many finds."""
    target, fed, finds = TARGETS[name], 0, 0
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
