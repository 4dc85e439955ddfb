"""Random model files for every reader of them: our own errors, no hang, no blow-up of memory.

    python tests/security/fuzz_models.py [--minutes 10] [--seed 0] [TARGET ...]

Each find (fuzz-TARGET-N/) becomes a case of test_model_files.py. The `peer` target is what a
program in the sandbox may send to its test.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1]))
from fuzzing import Language, Target, as_json, changed, main, moved_about, one_file

from infifusion.errors import InfiFusionError
from infifusion.merge.checkpoints.header import read_header
from infifusion.merge.checkpoints.reader import INDEX, SINGLE, Checkpoint
from infifusion.merge.engine.models import open_model
from infifusion.sandbox.peer import NONSENSE, Peer

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
JSON = Language(WORDS, LEAVES)


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


def _target(name: str, content: st.SearchStrategy[bytes], read: Callable[[Path], object]) -> Target:
    return Target(one_file(name, content), read, whole_model, longest=2_000)


TARGETS = {
    "header": _target(
        "x.safetensors",
        JSON.documents([HEADER], as_json).map(as_file) | moved_about([as_json(HEADER)], JSON),
        lambda folder: read_header(folder / "x.safetensors"),
    ),
    "tensors": _target(SINGLE, changed(HEADER, JSON).map(as_json).map(as_file), read_model),
    "index": _target(INDEX, JSON.documents([WHOLE_INDEX], as_json), read_model),
    "config": _target(
        "config.json",
        JSON.documents([CONFIG], as_json),
        lambda folder: open_model(str(folder), folder),
    ),
    "adapter": _target(
        "adapter_config.json",
        JSON.documents([ADAPTER], as_json),
        lambda folder: open_model(f"{folder}+{folder}", folder),
    ),
    "peer": _target("message", JSON.documents(MESSAGES, as_json), unpack),
}


if __name__ == "__main__":
    main(TARGETS, about=__doc__)
