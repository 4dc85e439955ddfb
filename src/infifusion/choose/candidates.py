"""What choosers work on, and what they may ask for besides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Candidate:
    """One usable answer. entropy: nats per byte of the answer (types.Written)."""

    source: str
    sample: int
    response: str
    entropy: float


@dataclass(frozen=True)
class Choice:
    """Which answer is kept.

    winner: its place among the candidates; None where none is kept.
    why:    why none is kept, in a word or two joined by underscores; "" where one is.
    votes:  what each candidate said or how it fared, for the record; None where nothing was asked.
    """

    winner: int | None
    why: str
    votes: tuple[str | None, ...]


class Judges(Protocol):
    """What a chooser may ask for besides the texts; stages/choose.py provides it."""

    def run_code(self, program: str, test: str) -> tuple[bool, str]:
        """Run program, then test, in the sandbox: whether it passed, and if not, why."""
        ...

    def final_answer(self, output: str) -> str | None:
        """The final answer of a worked solution, as it stands there; None where there is none."""
        ...

    def extract_program(self, output: str, prompt: str | None) -> str:
        """The program in an answer to code or tests, as the code tasks find it; "" for none."""
        ...

    def same_answer(self, gold: str, answer: str | None) -> bool:
        """Whether two answers say the same."""
        ...


def surest(candidates: Sequence[Candidate], among: Iterable[int]) -> int:
    """The place with the lowest entropy per byte; the first of the places where several have it."""
    return min(among, key=lambda place: candidates[place].entropy)
