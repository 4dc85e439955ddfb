"""docs/architecture.md says where things are: every file that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "infifusion"
PATH = re.compile(r"`([a-z_/]+(?:\.py|/))`")


def test_every_file_of_the_table_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("## Where things are")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \|$", table, re.MULTILINE)[1:]
    found = 0
    for row in rows:
        folder = PACKAGE
        for name in PATH.findall(row):
            # A bare name lies beside the one before it, unless the package has it.
            path = folder / name if (folder / name).exists() else PACKAGE / name
            assert path.exists(), (row, name)
            folder = path if path.is_dir() else path.parent
            found += 1
        assert PATH.search(row), row
    assert len(rows) >= 25 and found >= 50, (len(rows), found)


def test_the_readme_is_short_and_its_pages_and_pictures_are_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 125
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert len(links) >= 15
    for link in links:
        assert (ROOT / link).is_file(), link
