"""The program that a model's answer to a programming task stands for.

As the harnesses of the field do it, in one place: the first block of code that defines what is
asked counts (OpenAI's simple-evals take the first block), alternatives, tests and examples of use
behind it do not (bigcode's stop strings), and of it those statements alone that the asked function
needs (EvalPlus's sanitize). A body without its signature continues the prompt.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from infifusion.evals.tasks.passages import (
    Passage,
    clean,
    joined,
    longest,
    margin_of,
    passages,
    runs,
    spans,
    wrong_line,
)
from infifusion.evals.tasks.statements import (
    DEFINITIONS,
    FUNCTIONS,
    Piece,
    assembled,
    first_line,
    in_scope,
    says_nothing,
)

MOST_JOINED = 12  # passages; an answer with more fences inside docstrings is not put together
CORRECTED = re.compile(r"\b(?:corrected|correction|fixed|revised|made a mistake)\b", re.IGNORECASE)
DEFINES = re.compile(r"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)
TESTED = re.compile(r"^.*\bassert\b.*$", re.MULTILINE)
CALLED = re.compile(r"(?<![\w.])([A-Za-z_]\w*)[ \t]*\(")
QUOTED = re.compile(r"`([A-Za-z_]\w*)(?:\([^`]*\))?`")
# A line at the margin that can begin the body of a function.
BEGINS_BODY = re.compile(
    r"(?:return|yield|raise|if|for|while|with|try|import|from|global|nonlocal|assert|del|pass"
    r"|def|async|#|\"\"\"|''')(?!\w)"
    r"|[A-Za-z_][\w.,\[\]\"' ]*(?::[^=]+)?[-+*/%|&^<>]*=|[A-Za-z_][\w.]*\("
)


@dataclass(frozen=True)
class Asked:
    """What a prompt says of the program.

    code:  Python that the answer continues: it ends inside the body of `entry`. Or nothing.
    head:  the part of it in front of that function (or class, that ends in its last method).
    entry: the function.
    names: what has to be defined.
    """

    code: str = ""
    head: str = ""
    entry: str = ""
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, prompt: str | None, entry: str | None = None) -> Asked:
        """Read a prompt: code, words with a block of code, or words. entry: the function that is
        asked, where that is known; else the last one of the code."""
        if not prompt or not prompt.strip():
            return cls()
        text = clean(prompt)
        for code in _codes_in(text):
            tree = _tree(code) or _tree(f"{code.rstrip()}\n{_indent_of(code)}pass\n")
            last = tree.body[-1] if tree and tree.body else None
            if isinstance(last, DEFINITIONS) and entry in (None, last.name):
                head = "".join(f"{line}\n" for line in code.split("\n")[: first_line(last) - 1])
                return cls(code, head, last.name, (last.name,))
        if entry is not None:
            return cls(head=f"{text.rstrip()}\n" if _tree(text) else "", names=(entry,))
        named = [name for line in TESTED.findall(text) for name in CALLED.findall(line)]
        named = named or DEFINES.findall(text) or QUOTED.findall(text) or CALLED.findall(text)
        return cls(names=tuple(n for n in dict.fromkeys(named) if n not in vars(builtins)))


def program_of(output: str, asked: Asked) -> str:
    """The program that an answer, its reasoning apart, stands for; see evals.extract_program."""
    found = passages(clean(output))
    program = _program(asked, found)
    if not program and not any(passage.fenced for passage in found):
        program = _program(asked, spans(found))
    return program or _as_it_stands(asked, found)


def _program(asked: Asked, found: list[Passage]) -> str:
    """The program in these passages, or nothing."""
    pieces = _pieces(found)
    body = _body_of(asked, found[:1], returning=True) if asked.entry else None
    roots = {} if body else _chosen(asked.names, pieces, found)
    tries = not body and not roots and _tries(asked, found, pieces)
    if tries:
        pieces = _in_one_piece(asked, found) or pieces
        roots = _chosen(asked.names, pieces, found)
    if asked.entry and not roots:
        blocks = [passage for passage in found if passage.fenced]
        others = [passage for passage in found if not passage.fenced]
        body = body or _body_of(asked, [*blocks, *others])
        if body:
            pieces = [*pieces, Piece(asked.code.removeprefix(asked.head) + body)]
            roots = {asked.entry: len(pieces) - 1}
    if not roots and not (tries and asked.names):
        roots = _chosen(_defined(pieces), pieces, found)
    return assembled(asked.head, pieces, roots) if roots else ""


def _pieces(found: Iterable[Passage]) -> list[Piece]:
    return [Piece(run) for passage in found for run in runs(passage.lines)]


def _tries(asked: Asked, found: list[Passage], pieces: list[Piece]) -> bool:
    """Whether the answer defines what is asked, or anything, in code that does not compile."""
    names = {name for passage in found for name in DEFINES.findall("\n".join(passage.lines))}
    if asked.names:
        stubs = {name for piece in pieces for one in piece.statements for name in one.binds}
        return bool(names & {*asked.names} - stubs)
    return not any(piece.defines(name) for piece in pieces for name in names)


def _in_one_piece(asked: Asked, found: list[Passage]) -> list[Piece]:
    """A function whose docstring holds fences: the passages that make it up, together."""
    for lines in joined(found[:MOST_JOINED]):
        pieces = _pieces([Passage(lines, fenced=False)])
        names = asked.names or _defined(pieces)
        if any(piece.defines(name) for piece in pieces for name in names):
            return pieces
    return []


def _chosen(names: Iterable[str], pieces: list[Piece], found: list[Passage]) -> dict[str, int]:
    """Name -> the first piece that defines it, or a later one that is said to correct it."""
    chosen: dict[str, int] = {}
    for name in names:
        for at, piece in enumerate(pieces):
            if piece.defines(name) and (
                name not in chosen or _announced(pieces[chosen[name]], piece, found)
            ):
                chosen[name] = at
    return chosen


def _announced(earlier: Piece, later: Piece, found: list[Passage]) -> bool:
    """Whether what is said between two pieces calls the later one a correction."""
    said = "\n".join("\n".join(passage.lines) for passage in found)
    begin = said.find(earlier.text.strip())
    end = said.find(later.text.strip(), begin + len(earlier.text.strip()))
    return 0 <= begin < end and bool(CORRECTED.search(said[begin + len(earlier.text) : end]))


def _defined(pieces: list[Piece]) -> list[str]:
    """What all pieces define, where nothing is asked by name: functions, classes, plain values."""
    functions = [
        n for p in pieces for o in p.statements if isinstance(o.node, DEFINITIONS) for n in o.binds
    ]
    used = {*functions, "input", "open", "print"}
    values = [
        name
        for piece in pieces
        for one in piece.statements
        if isinstance(one.node, ast.Assign | ast.AnnAssign) and not one.needs & used
        for name in one.binds
    ]
    made = any(
        isinstance(one.node, ast.Assign) and isinstance(one.node.value, ast.Lambda)
        for piece in pieces
        for one in piece.statements
    )
    return [*functions, *values] if functions or made else []


def _body_of(asked: Asked, found: list[Passage], *, returning: bool = False) -> str | None:
    """What an answer without the signature adds to the prompt; None where nothing fits.

    It begins with the first line of code, or behind a line of words: broken code is not cut.
    returning: it is moved in and gives something back, whatever may follow it.
    """
    for passage in found:
        words = True
        for begin, line in enumerate(passage.lines):
            if not line.strip():
                continue
            code = bool(margin_of(line) or BEGINS_BODY.match(line))
            if returning and not margin_of(line):
                return None
            if code and words:
                body = _body(asked, passage.lines[begin:], returning=returning)
                if body is not None or returning:
                    return body
            words = not code
    return None


def _body(asked: Asked, lines: tuple[str, ...], *, returning: bool) -> str | None:
    """The lines as the body of the asked function, by the indentation that takes most of them."""
    indent, margin = _indent_of(asked.code), margin_of(lines[0])
    code = asked.code if asked.code.endswith("\n") else f"{asked.code}\n"
    before = code.removeprefix(asked.head)
    first = indent + lines[0].strip()
    ways = [list(lines)] if margin else []
    ways += [_moved(lines, margin, indent), [first, *lines[1:]]]
    inner = min((m for line in lines[1:] if (m := margin_of(line))), key=len, default="")
    ways += [[first, *_moved(lines[1:], inner, indent)]]
    best: tuple[int, str] | None = None
    for way in ways:
        taken = longest(way, before, edge="" if margin or way is not ways[0] else indent)
        if not taken or (best and best[0] >= taken):
            continue
        text = "\n".join(way[:taken]) + "\n"
        if _is_body(asked, before + text, returning=returning or not margin):
            best = taken, text
    return None if best is None else code[len(asked.code) :] + best[1]


def _moved(lines: tuple[str, ...], margin: str, indent: str) -> list[str]:
    """The lines with `indent` in place of `margin`, as far as they have it: what begins with a line
    that does not stays as it is."""
    for at, line in enumerate(lines):
        if line.strip() and not line.startswith(margin):
            return [*_moved(lines[:at], margin, indent), *lines[at:]]
    return [indent + line[len(margin) :] if line.strip() else "" for line in lines]


def _is_body(asked: Asked, text: str, *, returning: bool) -> bool:
    """Whether the asked function now says something; returning: and gives something back."""
    entry = next(
        one
        for one in ast.parse(text).body
        if isinstance(one, DEFINITIONS) and one.name == asked.entry
    )
    function = entry
    while isinstance(function, ast.ClassDef) and isinstance(function.body[-1], DEFINITIONS):
        function = function.body[-1]
    said = [one for one in function.body if not says_nothing(one)]
    if any(isinstance(one, FUNCTIONS) and one.name == function.name for one in said):
        return False  # the whole function, moved in
    calls = (ast.Call, ast.Yield, ast.YieldFrom, ast.Await)
    if not said or (isinstance(said[0], ast.Expr) and not isinstance(said[0].value, calls)):
        return False
    ends = (ast.Return, ast.Yield, ast.YieldFrom, ast.Raise)
    inside = (inner for one in said for inner in in_scope(one))
    return not returning or any(isinstance(one, ends) for one in inside)


def _as_it_stands(asked: Asked, found: list[Passage]) -> str:
    """The code that is there, whatever is wrong with it: what runs it says what."""
    texts = ["\n".join(passage.lines).strip("\n") for passage in found]
    for text in texts:
        if any(name in asked.names for name in DEFINES.findall(text)):
            return f"{asked.head}{text}\n"
    blocks = [text for text, passage in zip(texts, found, strict=True) if passage.fenced]
    for text in [*blocks, *texts[:1]]:
        if blocks or margin_of(text) or DEFINES.search(text) or wrong_line(text) is None:
            return f"{asked.code}{text}\n"
    return ""


def _codes_in(prompt: str) -> Iterator[str]:
    """The prompt as code; its blocks, the last first; what follows its first line of code."""
    yield prompt
    for passage in reversed(passages(prompt)):
        if passage.fenced:
            yield "\n".join(passage.lines) + "\n"
    begun = re.search(r"^(?:from|import|def|async def|class|@)\b", prompt, re.MULTILINE)
    if begun and begun.start():
        yield prompt[begun.start() :]


def _tree(code: str) -> ast.Module | None:
    return ast.parse(code) if wrong_line(code) is None else None


def _indent_of(code: str) -> str:
    """How the body at the end of the code is moved in: as its last line, else by four blanks."""
    lines = [line for line in code.split("\n") if line.strip()]
    return margin_of(lines[-1]) if lines and margin_of(lines[-1]) else "    "
