"""Where code stands in an answer: passages between fences, and runs of lines that are Python.

Nothing is decided here. A passage is what lies between two fence lines (or the ends); a run is a
stretch of lines that compiles, its margin taken away. `programs.py` chooses among them.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

# A Markdown fence, in a list or not, whatever language or attributes stand behind it.
FENCE = re.compile(r"^[ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+)?(?P<mark>`{3,}|~{3,})(?P<info>.*)$")
# Lines that some models write in place of fences.
TAG = re.compile(
    r"^[ \t]*(?:\[/?(?:PYTHON|BEGIN|DONE|CODE)\]|</?(?:code|pre|python)\b[^>]*>)[ \t]*$"
)
# The first line of code right behind a fence, where its language is left out or followed by it.
BEHIND_FENCE = re.compile(
    r"^[ \t]*(?:(?i:python3?|py3?)[ \t]+)?"
    r"((?:async[ \t]+def|def|class)[ \t]+\w+.*:.*|@\w.*"
    r"|from[ \t]+\S+[ \t]+import[ \t].*|import[ \t]+\w.*)$"
)
# A fence at the end of a line of code (it closes) or of words (it opens).
AT_END = re.compile(r"^(?P<text>.*[^`\s])[ \t]*(?P<mark>`{3,})[ \t]*(?P<info>[\w+-]*)[ \t]*$")
END_OF_TEXT = re.compile(r"(?:<\|[\w-]+\|>|</s>|<eos>|<end_of_turn>)[ \t]*(?=\n|\Z)")
PROMPTED = re.compile(r"^[ \t]*>>> ?(?:def|class|async|import|from|@)", re.MULTILINE)
UNPROMPTED = re.compile(r"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]", re.MULTILINE)
QUOTED = re.compile(r"^>[ \t]*(?:```|~~~)", re.MULTILINE)
MOST_CUTS, MOST_STARTS = 12, 2000
"""Ends that are tried for a stretch of lines (an answer needs one or two), and lines of a passage
at which no code begins (a long answer has some hundreds)."""
SPAN = re.compile(r"(?<!`)(`{1,2})(?!`)([^`\n]+)\1(?!`)")


@dataclass(frozen=True)
class Passage:
    """Lines between two fences. fenced: whether the first of the two opens a block."""

    lines: tuple[str, ...]
    fenced: bool


def clean(text: str) -> str:
    """One kind of line end, plain blanks in front of lines, no end-of-text marks."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    if QUOTED.search(text):
        text = re.sub(r"^> ?", "", text, flags=re.MULTILINE)
    text = re.sub(r"^[ \t\u00a0\u3000]+", _plain_blanks, text, flags=re.MULTILINE)
    return END_OF_TEXT.sub("", text)


def passages(text: str) -> list[Passage]:
    """The text cut at its fences, in order, empty passages left out.

    Fences open and close in turn; a first one that only closes is seen by what stands before it
    (code) and behind it (no code), which is for the caller to see.
    """
    found: list[Passage] = []
    inside = False
    lines: list[str] = []
    mark = ""

    def cut(now_inside: bool) -> None:
        nonlocal inside, lines
        if any(line.strip() for line in lines):
            found.append(Passage(tuple(_unprompted(lines)), inside))
        inside, lines = now_inside, []

    for line in text.split("\n"):
        fence = FENCE.match(line)
        if fence is None and TAG.match(line):
            cut(not line.strip().startswith(("[/", "</", "[DONE")))
        elif fence is None:
            at_end = AT_END.match(line) if line.count("```") == 1 else None
            closes = bool(at_end and inside and not at_end["info"] and mark[:1] == "`")
            lines.append(at_end["text"] if at_end and (closes or not inside) else line)
            if at_end and (closes or not inside):
                cut(not inside)
                mark = at_end["mark"]
        elif inside and mark and (fence["mark"][0] != mark[0] or len(fence["mark"]) < len(mark)):
            lines.append(line)  # a fence of another kind inside the block
        else:
            opens = not inside or bool(re.fullmatch(r"[ \t]*[\w{][^`]*", fence["info"]))
            cut(opens)
            mark = fence["mark"] if opens else ""
            code, closing, _ = fence["info"].partition(fence["mark"])
            if begun := BEHIND_FENCE.match(code):
                lines.append(begun[1])
            if closing:
                cut(False)
    cut(False)
    return found


def spans(found: list[Passage]) -> list[Passage]:
    """Code inside lines, between single or double backticks."""
    texts = [match[2].strip() for p in found for match in SPAN.finditer("\n".join(p.lines))]
    return [Passage((text,), fenced=True) for text in texts]


def joined(found: list[Passage]) -> Iterator[tuple[str, ...]]:
    """Every stretch of several passages as one, its fences as they may stand inside a docstring."""
    for first in range(len(found)):
        lines = list(found[first].lines)
        for more in found[first + 1 :]:
            lines += ["```", *more.lines]
            yield tuple(lines)


def runs(lines: tuple[str, ...]) -> Iterator[str]:
    """Stretches of the lines that compile, longest first from where each begins, in order."""
    at = failed = 0
    while at < len(lines) and failed < MOST_STARTS:
        margin = margin_of(lines[at])
        block = _block(lines[at:], margin)
        taken = longest(block) if lines[at].strip() else 0
        if taken:
            yield "\n".join(block[:taken]) + "\n"
        failed += bool(lines[at].strip()) and not taken
        at += max(taken, 1)


def longest(lines: list[str], before: str = "", edge: str = "") -> int:
    """How many of the lines compile together behind the text `before`.

    They end in front of a line that is moved in by `edge` and no further: what is broken inside a
    function is not repaired.
    """
    count, offset = len(lines), before.count("\n")
    for _ in range(MOST_CUTS):
        if count <= 0:
            break
        wrong = wrong_line(before + "\n".join(lines[:count]) + "\n")
        if wrong is None:
            return count
        count = min(count - 1, wrong - offset - 1)
        while count > 0 and not (lines[count].strip() and margin_of(lines[count]) == edge):
            count -= 1
    return 0


_compiling = threading.Lock()


def wrong_line(text: str) -> int | None:
    """The line, from 1, at which Python gives up; None where the text compiles."""
    with _compiling, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in the model's strings
        try:
            compile(text, "<answer>", "exec", dont_inherit=True)
        except SyntaxError as error:
            return max(error.lineno or 1, 1)
        except (ValueError, RecursionError, MemoryError, OverflowError):
            return 1
    return None


def margin_of(line: str) -> str:
    """The blanks in front of a line."""
    return line[: len(line) - len(line.lstrip(" \t"))]


def _block(lines: tuple[str, ...], margin: str) -> list[str]:
    """The first lines that all begin with the margin, without it."""
    block = []
    for line in lines:
        if line.strip() and not line.startswith(margin):
            break
        block.append(line[len(margin) :] if line.strip() else "")
    return block


def _unprompted(lines: list[str]) -> list[str]:
    """What was typed, where the lines are a session of the interpreter that defines something."""
    text = "\n".join(lines)
    if not PROMPTED.search(text) or UNPROMPTED.search(text):
        return lines
    import doctest  # not before it is needed: the help is quick

    try:
        typed = doctest.DocTestParser().get_examples(text + "\n")
    except ValueError:
        return lines
    return "".join(example.source for example in typed).split("\n")


def _plain_blanks(blanks: re.Match[str]) -> str:
    return blanks[0].replace("\u00a0", " ").replace("\u3000", "  ")
