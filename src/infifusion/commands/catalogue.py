"""What a recipe can name: the entries of every table, with their line of help and their file."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from infifusion.choose import CHOOSERS
from infifusion.evals.tasks import TASKS
from infifusion.fuse import FUSION_FUNCTIONS
from infifusion.losses import LOSSES
from infifusion.merge.methods import METHODS, Method
from infifusion.registry import first_line
from infifusion.teacher.bits import bits_per_byte_by_domain

Catalogue = dict[str, dict[str, dict[str, str]]]


def catalogue() -> Catalogue:
    """Kind -> name -> its line of help and its source file."""
    functions = {
        "fusion functions": FUSION_FUNCTIONS,
        "losses": LOSSES,
        "merge methods": METHODS,
        "choosers": CHOOSERS,
    }
    table: Catalogue = {kind: {} for kind in functions}
    for kind, entries in functions.items():
        for name, entry in entries.items():
            if isinstance(entry, Method):
                table[kind][name] = {"line": entry.line, "file": _file(entry.function)}
            else:
                line = first_line(inspect.getmodule(entry))
                table[kind][name] = {"line": line, "file": _file(entry)}
    table["tasks"] = {
        name: {"line": task.description, "file": _file(task.score)} for name, task in TASKS.items()
    }
    table["tasks"]["bits_per_byte"] = {
        "line": "Bits per byte of reference responses, comparable across tokenizers.",
        "file": _file(bits_per_byte_by_domain),
    }
    return table


def _file(function: Any) -> str:
    root = Path(__file__).parents[2]
    file = Path(inspect.getfile(function))
    return f"src/{file.relative_to(root)}" if root.name == "src" else str(file)
