"""What two folders differ in, byte for byte."""

from __future__ import annotations

import hashlib
import re
from itertools import zip_longest
from pathlib import Path

DIARY = re.compile(r"log(-rank\d+)?\.txt|progress\.json")
"""What a run says of itself as it goes: every start adds to them."""
TEXT = (".json", ".jsonl", ".html", ".md", ".yaml")


def contents(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 of a file, `folder` for a folder, `-> target` for a link."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if DIARY.fullmatch(path.name):
            continue
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differences(expected: Path, folder: Path) -> list[str]:
    """One line for every file that is missing, left over or different."""
    wanted, found = contents(expected), contents(folder)
    lines = [f"missing: {name}" for name in wanted if name not in found]
    lines += [f"left over: {name}" for name in found if name not in wanted]
    for name in wanted:
        if name in found and found[name] != wanted[name]:
            lines.append(f"different: {name}{_where(expected / name, folder / name)}")
    return sorted(lines)


def _where(expected: Path, found: Path) -> str:
    """The first line of two texts that differs."""
    if not (expected.suffix in TEXT and found.is_file()):
        return ""
    pairs = zip_longest(
        *(path.read_text(errors="replace").splitlines() for path in (expected, found))
    )
    one, other = next((a, b) for a, b in pairs if a != b)
    return f" ({str(one)[:200]!r} became {str(other)[:200]!r})"
