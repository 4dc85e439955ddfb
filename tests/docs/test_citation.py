"""CITATION.cff says of the software what the package says."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

import infifusion

ROOT = Path(__file__).parents[2]


def test_the_citation_has_the_version_and_licence_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"] == infifusion.__version__
    assert citation["license"] == project["license"]
    assert citation["references"][0]["url"] == "https://arxiv.org/abs/2501.02795"
