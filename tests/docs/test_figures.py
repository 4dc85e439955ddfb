"""The figures of docs/concepts.md are what the code draws."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_figures_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make docs` draws them again."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "make"))
    figures = importlib.import_module("figures")
    names = {path.stem for path in figures.FOLDER.glob("*.svg")}
    assert names == set(figures.FIGURES) and len(names) == 8
    for name, draw in figures.FIGURES.items():
        assert (figures.FOLDER / f"{name}.svg").read_text(encoding="utf-8") == draw(), name


def test_every_figure_is_shown_once_and_described() -> None:
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[([^\]]{20,})\]\(figures/([a-z_]+)\.svg\)", page)
    assert sorted(name for _, name in shown) == sorted(
        path.stem for path in (ROOT / "docs" / "figures").glob("*.svg")
    )
