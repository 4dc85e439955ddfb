"""Who may import whom (docs/architecture.md): every file is parsed, nothing is run."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "infifusion"
FILES = sorted(ROOT.rglob("*.py"))

WORDS = {"types", "errors", "strict", "registry", "recipe", "redact", "rows", "sweep", "variants"}
WORDS |= {"callable_package"}
MATHS = {"align", "choose", "fuse", "losses", "merge", "plan"}
HANDS = {
    "data",
    "teacher",
    "weights",
    "train",
    "evals",
    "report",
    "artifacts",
    "disk",
    "durable",
    "runtime",
    "lm_head",
    "lock",
    "hashes",
    "receipts",
    "records",
    "memory",
    "finite",
    "progress",
    "versions",
}
FACES = {"cli", "commands", "exits", "api", "demo", "__init__", "__main__"}
NO_TORCH = {"recipe", "strict", "errors", "registry", "artifacts", "cli", "report", "types", "rows"}
NO_TORCH |= {"plan", "sweep", "variants", "hashes", "receipts", "records"}
NO_TORCH |= {"callable_package", "api", "__init__"}
NO_TORCH |= {"commands", "exits", "progress", "versions"}


def part_of(path: Path) -> str:
    """The folder or file right under infifusion/."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path, *, top_level: bool = False) -> set[str]:
    """Modules a file imports; with top_level only those imported when it is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    nodes = _run_at_import(tree) if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            if node.module == "infifusion":
                found |= {f"infifusion.{alias.name}" for alias in node.names}
    return found


def _run_at_import(tree: ast.Module):
    """Nodes outside functions and outside `if TYPE_CHECKING`."""
    stack: list[ast.AST] = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        stack.extend(ast.iter_child_nodes(node))


def ours(modules: set[str]) -> set[str]:
    """The parts of this package among some modules."""
    return {m.split(".")[1] for m in modules if m.startswith("infifusion.")}


def test_every_file_belongs_to_a_layer() -> None:
    known = WORDS | MATHS | HANDS | FACES | {"stages"}
    assert len(FILES) > 60
    assert {part_of(path) for path in FILES} == known


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down_only(path: Path) -> None:
    part, used = part_of(path), ours(imports_of(path))
    if part in WORDS:
        assert used <= WORDS
    elif part in MATHS:
        assert used <= WORDS | {part}
    elif part in HANDS:
        assert used <= WORDS | HANDS
    elif part == "stages":
        assert not used & FACES - {"__init__"}
        calls = {m for m in imports_of(path) if m.startswith("infifusion.stages.")}
        if path.stem not in ("run", "sweep", "sweep_results", "check", "catalogue", "plan_probe"):
            names = ("run", "respond", "choose", "prepare", "teach", "distill")
            started = {f"infifusion.stages.{s}" for s in names}
            assert not calls & started, "stages meet on disk; none calls another"


@pytest.mark.parametrize(
    "path", [p for p in FILES if part_of(p) in MATHS], ids=lambda p: str(p.relative_to(ROOT))
)
def test_maths_imports_numbers_and_words_alone(path: Path) -> None:
    outside = {m.split(".")[0] for m in imports_of(path) if not m.startswith("infifusion")}
    standard = {"__future__", "abc", "collections", "dataclasses", "decimal", "enum", "functools"}
    standard |= {"itertools", "math", "re", "typing"}
    assert outside <= standard | {"torch", "numpy", "numba", "pydantic"}


@pytest.mark.parametrize(
    "path", [p for p in FILES if part_of(p) in NO_TORCH], ids=lambda p: str(p.relative_to(ROOT))
)
def test_light_files_do_not_import_torch(path: Path) -> None:
    heavy = {"torch", "transformers", "datasets", "peft", "accelerate", "lm_eval"}
    assert not {m.split(".")[0] for m in imports_of(path, top_level=True)} & heavy
