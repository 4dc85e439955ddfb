"""The versions that matter, read from the installed packages' metadata: nothing is imported."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from infifusion.process import VERSION

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "tokenizers",
    "safetensors",
    "lm-eval",
    "math-verify",
    "latex2sympy2_extended",
    "sympy",
    "antlr4-python3-runtime",
    "numba",
    "numpy",
)
"""What decides results or speed."""


def version_of(package: str) -> str | None:
    """The installed version; None where the package is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def version_lines() -> list[str]:
    """`infifusion --version`: one line each."""
    versions = {"infifusion": VERSION, "python": platform.python_version()}
    versions |= {package: version_of(package) or "not installed" for package in PACKAGES}
    return [
        *(f"{name} {version}" for name, version in versions.items()),
        f"{platform.system().lower()} {platform.machine()}, {sys.executable}",
    ]


def in_range(version: str, wanted: str) -> bool:
    """Whether a version such as 2.13.0+cpu lies in a range such as <3,>=2.6."""
    return SpecifierSet(wanted).contains(version, prereleases=True)


def required_ranges() -> dict[str, str]:
    """Package -> supported range such as `<6,>=5.0`, as the installed infifusion declares it.

    Empty where it is not installed but run from a checkout's `src`.
    """
    try:
        declared = importlib.metadata.requires("infifusion") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    ranges = {}
    for requirement in map(Requirement, declared):
        if "extra" not in str(requirement.marker):
            ranges[requirement.name] = str(requirement.specifier)
    return ranges
