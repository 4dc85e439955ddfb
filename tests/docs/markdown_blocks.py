"""The fenced code blocks of the documentation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

FENCE = re.compile(
    r"(?P<mark><!-- not run: (?P<reason>[^\n]*?) -->\s*\n)?"
    r"^(?P<indent>[ ]*)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One fenced block. title: the file it stands for, if any; reason: why it is not run."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of one page, in order."""
    content = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(content):
        info, indent = match["info"].strip(), len(match["indent"])
        title = TITLE.search(info)
        found.append(
            Block(
                page=page,
                line=content.count("\n", 0, match.start("info")) + 1,
                language=info.partition(" ")[0],
                title=title[1] if title else None,
                text="".join(line[indent:] for line in match["text"].splitlines(keepends=True)),
                reason=match["reason"],
            )
        )
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
