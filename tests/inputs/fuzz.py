"""Random input for every reader: nothing but our own errors, no hang, no blow-up of memory.

    python tests/inputs/fuzz.py [--minutes 10] [--seed 0] [TARGET ...]

Each find (fuzz-TARGET-N/) becomes an entry of FOUND in test_fuzz.py.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "report")]
from conftest import tiny_model
from fuzzing import Files, Language, Target, as_json, main, one_file
from run_folder_maker import make_run_folder

from infifusion.data.examples import read_examples
from infifusion.data.prompts import read_prompts
from infifusion.data.store import load_answers, load_examples, load_responses
from infifusion.errors import InfiFusionError
from infifusion.merge.engine.file import read_merge_file
from infifusion.merge.engine.plan import plan_file
from infifusion.recipe import DataSource, PromptSource, load_recipe
from infifusion.report.pages.page import write_report
from infifusion.store.records import read_json
from infifusion.sweep.file import load_sweep

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
YAML_AND_JSON = Language(WORDS, LEAVES)


def as_yaml(value: Any) -> bytes:
    """A document as YAML, or as JSON where YAML has no word for it."""
    try:
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()
    except (yaml.YAMLError, UnicodeEncodeError):
        return json.dumps(value).encode()


def as_lines(values: Any) -> bytes:
    """JSON objects, one a line."""
    listed = values if isinstance(values, list) else [values]
    return b"".join(json.dumps(value).encode() + b"\n" for value in listed)


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
        lambda name: YAML_AND_JSON.documents([wholes[name]], as_json).map(
            lambda content: {name: content}
        )
    )


EXAMPLE = {"id": "d/1", "domain": "d", "prompt": [{"role": "user", "content": "p"}],
           "response": "r", "written_by": None, "winner": "a"}  # fmt: skip
TARGETS = {
    "recipe": Target(
        one_file("r.yaml", YAML_AND_JSON.documents([RECIPE], as_yaml)),
        lambda f: load_recipe(f / "r.yaml").resolve(),
    ),
    "sweep": Target(
        one_file("s.yaml", YAML_AND_JSON.documents([SWEEP], as_yaml)),
        lambda f: load_sweep(f / "s.yaml", []),
    ),
    "merge": Target(
        one_file("m.yaml", YAML_AND_JSON.documents([MERGE, SLICES], as_yaml)),
        lambda f: plan_file(read_merge_file(f / "m.yaml", base_override=None), f / "m.yaml"),
        _models,
    ),
    "data": Target(
        one_file("x.jsonl", YAML_AND_JSON.documents([RECORDS, RECORDS[0]], as_lines)), _data
    ),
    "prepared": Target(
        one_file("x.jsonl", YAML_AND_JSON.documents([[EXAMPLE, EXAMPLE]], as_lines)), _prepared
    ),
    "run": Target(_in_run(), _run, make_run_folder),
}


if __name__ == "__main__":
    main(TARGETS, about=__doc__)
