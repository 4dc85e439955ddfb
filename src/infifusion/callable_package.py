"""A package that is also the function of its name: `infifusion.merge` holds the merge methods,
`infifusion.merge(...)` merges."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

API = "infifusion.api"


class CallablePackage(ModuleType):
    """The package, which called is the function of the same name in infifusion.api."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return _function_of(self)(*arguments, **keywords)

    @property
    def __signature__(self) -> inspect.Signature:
        """What a notebook shows of the arguments."""
        return inspect.signature(_function_of(self))


def make_callable(name: str) -> None:
    """Let the imported package `name` be called. The function is imported when it is."""
    sys.modules[name].__class__ = CallablePackage


def _function_of(package: ModuleType) -> Callable[..., Any]:
    return getattr(importlib.import_module(API), package.__name__.rpartition(".")[2])
