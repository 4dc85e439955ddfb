"""Who may import whom (docs/architecture.md): every file is parsed, nothing is run."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "infifusion"
FILES = sorted(ROOT.rglob("*.py"))

WORDS = {"errors", "named", "registry", "rows", "strict", "types", "recipe"}
MATHS = {"align", "choose", "fuse", "losses", "merge.blocks", "merge.methods", "estimate.costs"}
HANDS = {
    "process",
    "store",
    "data",
    "engine",
    "teacher",
    "train",
    "evals",
    "evals.same_answer",
    "evals.tasks",
    "sandbox",
    "merge.checkpoints",
    "report",
    "report.pages",
    "progress",
}
STAGES = {"stages", "merge", "merge.engine", "estimate", "sweep"}
FACES = {"api", "commands", "setup", "demo", "__init__", "__main__"}
LAYERS = [WORDS, MATHS, HANDS, STAGES, FACES]
NO_TORCH = {"recipe", "strict", "errors", "registry", "types", "rows", "named"}
NO_TORCH |= {"report", "report.pages", "progress", "commands"}
NO_TORCH |= {"estimate.costs", "__init__"}
NO_TORCH_FILES = {
    "api/__init__.py",
    "store/artifacts.py",
    "store/hashes.py",
    "store/receipts.py",
    "store/records.py",
    "process/versions.py",
    "process/runtime.py",
    "process/bar.py",
    "process/meter.py",
    "sweep/file.py",
}
NINE = ("respond", "choose", "prepare", "teach", "fuse", "distill", "merge", "evaluate", "report")
MOST_FILES, MOST_AT_ROOT, MOST_LINES, MOST_ARROWS = 20, 8, 300, 150


def room_of(path: Path) -> str:
    """The folder of a file, with dots; a file right under infifusion/ is a room of its own."""
    parts = path.relative_to(ROOT).parts
    return ".".join(parts[:-1]) or parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    """Its dotted name below infifusion."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imports_of(path: Path, *, top_level: bool = False) -> set[str]:
    """Modules a file imports; with top_level only those imported when it is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in _run_at_import(tree) if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
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


def ours(path: Path) -> set[str]:
    """Our modules that a file imports, by their dotted names, the top package left out."""
    found = set()
    for name in imports_of(path):
        parts = name.split(".")[1:] if name.startswith("infifusion.") else []
        while parts and ".".join(parts) not in MODULES:
            parts.pop()
        if parts and ".".join(parts) != module_of(path):
            found.add(".".join(parts))
    return found


IMPORTS = {module_of(path): ours(path) for path in FILES}


def rooms_used(path: Path) -> set[str]:
    """The rooms that a file imports from, its own apart."""
    return {room_of(MODULES[m]) for m in IMPORTS[module_of(path)]} - {room_of(path)}


def layer_of(room: str) -> int:
    """0 for words to 4 for faces."""
    return next(i for i, layer in enumerate(LAYERS) if room in layer)


def in_a_circle(arrows: dict[str, set[str]]) -> set[str]:
    """What can be reached from itself."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for other in arrows.get(waiting.pop(), set()) - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    return {name for name in arrows if name in reached(name)}


def test_every_file_belongs_to_a_layer() -> None:
    assert len(FILES) > 200
    assert {room_of(path) for path in FILES} == set().union(*LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down_only(path: Path) -> None:
    room, used = room_of(path), rooms_used(path)
    layer = layer_of(room)
    assert all(layer_of(other) <= layer for other in used)
    if room in MATHS:
        family = {other for other in MATHS if other.split(".")[0] == room.split(".")[0]}
        assert used <= WORDS | family, "maths imports words and its own family alone"
    if room in HANDS:
        assert used <= WORDS | HANDS, "hands never import maths"


def test_names_become_functions_in_stages_and_faces_alone() -> None:
    """registry.look_up makes a function of a name; all other code is handed functions."""
    callers = {
        module_of(path)
        for path in FILES
        if "infifusion.registry.look_up" in imports_of(path) and room_of(path) not in STAGES | FACES
    }
    assert callers <= {"named"}


def test_there_is_no_circle_of_files_or_rooms() -> None:
    assert in_a_circle(IMPORTS) == set()
    rooms: dict[str, set[str]] = {}
    for path in FILES:
        rooms.setdefault(room_of(path), set()).update(rooms_used(path))
    assert in_a_circle(rooms) == set()


def test_files_and_rooms_stay_small() -> None:
    """Lines of a file, files of a room, modules beside the rooms."""
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {p.name: n for p, n in lines.items() if n > MOST_LINES} == {}
    sizes = Counter(path.parent for path in FILES)
    assert {folder.name: n for folder, n in sizes.items() if n > MOST_FILES} == {}
    assert sizes[ROOT] <= MOST_AT_ROOT


def test_rooms_import_few_others() -> None:
    """An arrow goes from a folder to another of which one of its files imports a file; the modules
    beside the rooms are one folder."""
    arrows = {
        (path.parent, MODULES[module].parent)
        for path in FILES
        for module in IMPORTS[module_of(path)]
        if MODULES[module].parent != path.parent
    }
    assert len(arrows) <= MOST_ARROWS, f"{len(arrows)} arrows between folders"


def test_stages_meet_on_disk() -> None:
    nine = {f"stages.{name}" for name in NINE}
    assert nine <= MODULES.keys()
    for name in nine:
        assert not IMPORTS[name] & nine, f"{name} calls another stage"


@pytest.mark.parametrize(
    "path", [p for p in FILES if room_of(p) in MATHS], ids=lambda p: str(p.relative_to(ROOT))
)
def test_maths_imports_numbers_and_words_alone(path: Path) -> None:
    outside = {m.split(".")[0] for m in imports_of(path) if not m.startswith("infifusion")}
    standard = {"__future__", "abc", "collections", "dataclasses", "decimal", "enum", "functools"}
    standard |= {"itertools", "math", "re", "typing", "unicodedata"}
    assert outside <= standard | {"torch", "numpy", "numba", "pydantic"}


def is_light(path: Path) -> bool:
    """Whether it must not import torch."""
    return room_of(path) in NO_TORCH or str(path.relative_to(ROOT)) in NO_TORCH_FILES


@pytest.mark.parametrize(
    "path", [p for p in FILES if is_light(p)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_light_files_do_not_import_torch(path: Path) -> None:
    heavy = {"torch", "transformers", "datasets", "peft", "accelerate", "lm_eval"}
    assert not {m.split(".")[0] for m in imports_of(path, top_level=True)} & heavy
