"""InfiFusion: fuse several LLMs of any architecture and tokenizer into one.

run: a recipe. merge: weights. align: two tokenizers. fuse: distributions. evaluate: models on
tasks. push: a model to the hub. Each is documented in infifusion.api.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infifusion.api import align, evaluate, fuse, merge, push, run

__version__ = "0.1.0"
__all__ = ["align", "evaluate", "fuse", "merge", "push", "run"]

_PACKAGES = ("align", "fuse", "merge")  # which are called themselves (callable_package.py)


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"infifusion.{name}")
    if name in __all__:
        return getattr(importlib.import_module("infifusion.api"), name)
    raise AttributeError(f"module 'infifusion' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
