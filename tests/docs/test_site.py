"""The site's pages and links, as far as they can be known without building it (`make docs`)."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES_AT_THE_ROOT = sorted(ROOT.glob("*.md"))


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "make"))
    return importlib.import_module("hooks")


def test_every_page_has_its_place_in_the_navigation(hooks) -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    pages |= {page for page, source in hooks.ROOT_PAGES.items() if (ROOT / source).exists()}
    assert len(named) == len(set(named)) >= 20
    assert set(named) == pages


def test_links_between_files_at_the_root_and_the_docs_lead_somewhere() -> None:
    assert len(FILES_AT_THE_ROOT) >= 4
    for path in FILES_AT_THE_ROOT:
        content = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", content):
            assert target.startswith("http") or (ROOT / target).exists(), f"{path.name}: {target}"
        for target in re.findall(r"`(docs/[\w/.]+\.\w+)`", content):
            assert (ROOT / target).exists(), f"{path.name}: {target}"


def test_what_a_page_would_fetch_from_elsewhere_is_found(hooks) -> None:
    found = hooks.fetched(
        '<script src="https://a.example/x.js"></script><img alt="x" src=//b.example/y.png>'
        '<link rel="stylesheet" href="https://c.example/z.css"><img src="figures/own.svg">'
        '<a href="https://d.example">a link is not fetched</a>'
    )
    assert found == ["https://a.example/x.js", "//b.example/y.png", "https://c.example/z.css"]
