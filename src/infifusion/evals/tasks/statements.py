"""Code by its statements: what each binds, needs and changes, and which ones a function needs."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterator
from functools import cached_property

# Of modules, calls that set something (sys.setrecursionlimit, random.seed) belong to the program;
# those that run or end it do not.
NOT_SETTINGS = {"doctest", "unittest", "pytest", "timeit", "subprocess"}
NOT_SETTING = {"exit", "main", "print", "run", "show", "sleep", "testmod", "write"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)
OTHER_SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Piece:
    """Code that compiles, by statements."""

    def __init__(self, text: str) -> None:
        self.text = text
        lines = text.split("\n")
        self.statements = [Statement(node, lines) for node in ast.parse(text).body]

    def defines(self, name: str) -> bool:
        """Whether it says more of a name than its signature."""
        return any(name in one.binds and not one.is_stub for one in self.statements)

    @cached_property
    def whole(self) -> frozenset[str]:
        """The names that it defines in earnest."""
        return frozenset(n for one in self.statements if not one.is_stub for n in one.binds)


class Statement:
    """One statement at the margin of a piece."""

    def __init__(self, node: ast.stmt, lines: list[str]) -> None:
        self.node = node
        self._lines = lines

    @cached_property
    def source(self) -> str:
        """Its lines, decorators included; written anew where it shares a line with another."""
        end = self.node.end_lineno or self.node.lineno
        rest = self._lines[end - 1].encode()[self.node.end_col_offset :].strip()
        if self.node.col_offset == 0 and (not rest or rest.startswith(b"#")):
            return "\n".join(self._lines[first_line(self.node) - 1 : end])
        return ast.unparse(self.node)

    @cached_property
    def needs(self) -> set[str]:
        """Names that it reads from the module, those inside its functions included."""
        return set(_free(symtable.symtable(self.source + "\n", "<answer>", "exec"), top=True))

    @cached_property
    def binds(self) -> set[str]:
        """Names that it gives a value in the module."""
        return set(_bound(self.node))

    @cached_property
    def changes(self) -> set[str]:
        """Names that it binds, or whose value it changes by a method, an item or an attribute."""
        found = set(self.binds)
        for node in in_scope(self.node):
            if isinstance(node, ast.Attribute | ast.Subscript) and _is_target(node):
                found.add(_root(node))
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                found.add(_root(node.value.func, through_calls=False))
        for one in getattr(self.node, "decorator_list", ()):
            found.add(_registering(one))
        return found - {""}

    @property
    def is_stub(self) -> bool:
        """A function without anything in it but its docstring."""
        return isinstance(self.node, FUNCTIONS) and all(map(says_nothing, self.node.body))

    @property
    def is_future(self) -> bool:
        """from __future__ import ..."""
        return isinstance(self.node, ast.ImportFrom) and self.node.module == "__future__"

    @property
    def is_main(self) -> bool:
        """if __name__ == "__main__"."""
        return isinstance(self.node, ast.If) and "__name__" in ast.unparse(self.node.test)

    def is_setting(self, imported: set[str], defined: set[str]) -> bool:
        """A call or an assignment that sets something of a module: sys.setrecursionlimit(10**6)."""
        if isinstance(self.node, ast.Expr) and isinstance(self.node.value, ast.Call):
            target = self.node.value.func
        elif isinstance(self.node, ast.Assign) and isinstance(self.node.targets[0], ast.Attribute):
            target = self.node.targets[0]
        else:
            return False
        root, last = _root(target), getattr(target, "attr", "")
        return (
            root in imported
            and root not in NOT_SETTINGS
            and last not in NOT_SETTING
            and not self.needs & defined
        )


def assembled(head: str, pieces: list[Piece], roots: dict[str, int]) -> str:
    """The statements that the roots need, in order; other pieces' before those of the roots."""
    kept: dict[tuple[int, int], Statement] = {}
    wanted = list(roots.items())
    seen: set[tuple[str, int]] = set()
    while wanted:
        name, at = wanted.pop()
        if (name, at) in seen:
            continue
        seen.add((name, at))
        for place in _binders(name, pieces[at]):
            if (at, place) not in kept:
                one = kept[at, place] = pieces[at].statements[place]
                wanted += _homes(one, at, pieces)
    own = set(roots.values())
    for at in {at for at, _ in kept}:
        kept |= _settings(at, pieces[at])
    futures = [one.source for one in kept.values() if one.is_future]
    order = sorted(kept, key=lambda where: (where[0] in own, *where))
    body = "\n\n".join(kept[where].source for where in order if not kept[where].is_future)
    parts = [*dict.fromkeys(futures), head.strip("\n"), body]
    return "\n\n".join(part for part in parts if part.strip()) + "\n"


def _homes(one: Statement, at: int, pieces: list[Piece]) -> Iterator[tuple[str, int]]:
    """Where the names that a statement reads come from: its own piece, one before it, one after."""
    order = [at, *range(at - 1, -1, -1), *range(at + 1, len(pieces))]
    for name in one.needs | (one.changes - one.binds):
        home = next((n for n in order if name in pieces[n].whole), None)
        if home is not None:
            yield name, home


def _binders(name: str, piece: Piece) -> Iterator[int]:
    """Places of the statements that make a name what it is: its first whole definition, and
    whatever changes it; not what merely uses it, as calls of functions and modules do."""
    imported = any(isinstance(o.node, IMPORTS) and name in o.binds for o in piece.statements)
    defined = False
    for place, one in enumerate(piece.statements):
        if one.is_main:
            continue
        if isinstance(one.node, DEFINITIONS):
            first = name in one.binds and not one.is_stub and not defined
            defined = defined or first
            if first or name in one.changes - one.binds:
                yield place
        elif name in one.binds:
            # Behind its definition f = f(3) is no example of use: so a cache is put around it.
            if not defined or name in one.needs or not isinstance(one.node, ast.Assign):
                yield place
        elif (
            name in one.changes
            and not imported
            and (not defined or not isinstance(one.node, ast.Expr) or _registering(one.node.value))
        ):
            yield place


def _settings(at: int, piece: Piece) -> dict[tuple[int, int], Statement]:
    """Star imports, imports from the future, settings of modules, and the imports those need."""
    found: dict[tuple[int, int], Statement] = {}
    imports = {
        n: p for p, o in enumerate(piece.statements) if isinstance(o.node, IMPORTS) for n in o.binds
    }
    defined = {n for o in piece.statements if not isinstance(o.node, IMPORTS) for n in o.binds}
    for place, one in enumerate(piece.statements):
        if one.is_future or (isinstance(one.node, ast.ImportFrom) and "*" in one.binds):
            found[at, place] = one
        elif one.is_setting(set(imports), defined):
            found[at, place] = one
            for name in one.needs & imports.keys():
                found[at, imports[name]] = piece.statements[imports[name]]
    return found


def first_line(node: ast.stmt) -> int:
    """Where a statement begins, its decorators included; from 1."""
    return min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])


def says_nothing(node: ast.stmt) -> bool:
    """A docstring, an ellipsis, pass, or raise NotImplementedError."""
    if isinstance(node, ast.Raise):
        return "NotImplemented" in ast.unparse(node)
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant or isinstance(node, ast.Pass)


def in_scope(node: ast.AST) -> Iterator[ast.AST]:
    """A node and what is inside it, but for the insides of functions, classes, comprehensions."""
    yield node
    if not isinstance(node, DEFINITIONS):
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, OTHER_SCOPES):
                yield from in_scope(child)


def _bound(node: ast.stmt) -> Iterator[str]:
    for one in in_scope(node):
        if isinstance(one, DEFINITIONS):
            yield one.name
        elif isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
            yield one.id
        elif isinstance(one, ast.alias):
            yield one.asname or one.name.partition(".")[0]


def _free(table: symtable.SymbolTable, *, top: bool) -> Iterator[str]:
    for symbol in table.get_symbols():
        if symbol.is_referenced() if top else symbol.is_global():
            yield symbol.get_name()
    for child in table.get_children():
        yield from _free(child, top=False)


def _is_target(node: ast.Attribute | ast.Subscript) -> bool:
    return not isinstance(node.ctx, ast.Load)


def _registering(node: ast.AST) -> str:
    """The function to which `f.register`, a decorator or a call, adds a case; or nothing."""
    node = node.func if isinstance(node, ast.Call) else node
    node = node.func if isinstance(node, ast.Call) else node
    return _root(node) if isinstance(node, ast.Attribute) and node.attr == "register" else ""


def _root(node: ast.AST, *, through_calls: bool = True) -> str:
    """The name at the bottom of a.b[c].d, or nothing; of a().b, too, where calls are no end."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        if isinstance(node, ast.Call):
            if not through_calls:
                return ""
            node = node.func
        else:
            node = node.value
    return node.id if isinstance(node, ast.Name) else ""
