"""The reference of every field is what the code says."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "make"))
    return importlib.import_module("recipe_fields")


def test_the_page_is_up_to_date(maker: ModuleType) -> None:
    """`make docs` writes it again."""
    assert maker.PAGE.read_text(encoding="utf-8") == maker.page()


def test_every_field_and_parameter_has_a_row(maker: ModuleType) -> None:
    page = maker.page()
    fields = {
        name
        for model, _ in maker.FORMS.values()
        for one in [model, *maker._places(model)]
        for name in one.model_fields
    }
    assert len(fields) > 90 and all(f"| `{name}` |" in page for name in fields)
    rows = [line for line in page.splitlines() if line.startswith("| `rsaf` |")]
    assert len(rows) == len(maker.METHODS["rsaf"].parameters) == 9
