"""InfiFusion: fuse several LLMs of any architecture and tokenizer into one.

run: a recipe. training_parts: what it trains with. merge_models: weights. align_texts: two
tokenizers. fuse_beliefs: distributions. evaluate: models on tasks. push: a model to the hub.
final_answer, same_answer, extract_program: where the answer of an output stands, whether two say
the same, the program in an answer. Each is documented in infifusion.api.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from infifusion.process import VERSION as __version__

if TYPE_CHECKING:
    from infifusion.api import (
        align_texts,
        evaluate,
        extract_program,
        final_answer,
        fuse_beliefs,
        merge_models,
        push,
        run,
        same_answer,
        training_parts,
    )

__all__ = [
    "__version__",
    "align_texts",
    "evaluate",
    "extract_program",
    "final_answer",
    "fuse_beliefs",
    "merge_models",
    "push",
    "run",
    "same_answer",
    "training_parts",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("infifusion.api"), name)
    raise AttributeError(f"module 'infifusion' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
