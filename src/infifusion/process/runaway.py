"""Whether the pivot's own answers run away: ever longer, ever shorter, or ever less sure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from infifusion.errors import RunError

WINDOW = 64
"""Answers that are looked at together, at least: those of the first rounds, and of the last."""
LEAST_LENGTH, LEAST_ENTROPY = 8.0, 0.5
"""Tokens, and nats a token, by which a mean must have changed at least: what is short or sure may
well become three times as long, or three times as unsure."""
FIGURES = ("answers", "tokens", "positions", "entropy", "cut_off", "learnt")
"""Sums over the answers of a round: how many, tokens drawn, positions of those that can be learnt,
entropy over these (nats), how many ran out of room, how many can be learnt."""
FAULT = "fault/"
"""Before the reason why some cannot: how many."""

REMEDIES = {
    "cut_off": "Raise on_policy.max_new_tokens, or set cut_off: keep",
    "too_long": "Raise data.max_length, or lower on_policy.max_new_tokens",
    "written_otherwise": "Some model's template leaves a part of them out; take form: distribution",
}
"""What to do where a reason is the most frequent one."""

Sums = Mapping[str, float]


class Runaway:
    """Compares the last answers with the first.

    Raises RunError where their mean length or entropy is `growth` times what it was, or the length
    a growth-th part of it, and where none of them can be learnt. growth None: only the latter.
    That the pivot becomes surer is what the sources teach it, and stops nothing.
    """

    def __init__(self, growth: float | None) -> None:
        self._growth = growth
        self._first: dict[str, float] = {}
        self._recent: deque[dict[str, float]] = deque()
        self.healthy = True
        self.last: dict[str, float] = {}

    def add(self, sums: Sums, *, judge: bool = True) -> None:
        """Take in a round. judge: whether to raise."""
        if not sums.get("answers"):
            return
        figures = {key: float(sums.get(key, 0)) for key in FIGURES}
        figures |= {key: value for key, value in sums.items() if key.startswith(FAULT)}
        if self._first.get("answers", 0) < WINDOW:
            self._first = added([self._first, figures])
        self._recent.append(figures)
        while added(list(self._recent)[1:]).get("answers", 0) >= WINDOW:
            self._recent.popleft()
        self.last = {f"own_{key}": round(value, 6) for key, value in means(sums).items()}
        now = added(self._recent)
        if now["answers"] < WINDOW:
            return
        if judge and now["learnt"] == 0:
            raise RunError(
                f"None of the pivot's last {now['answers']:.0f} answers can be learnt: "
                f"{_reasons(now)}. The run's folder rounds/ holds the answers."
            )
        self._judge(means(self._first), means(now), judge)

    def _judge(self, first: Sums, now: Sums, judge: bool) -> None:
        if self._growth is None:
            return
        self.healthy = not _runs(first, now, self._growth**0.5)
        for key in _runs(first, now, self._growth) if judge else []:
            unit = "tokens an answer" if key == "length" else "nats a token"
            raise RunError(
                f"The pivot's own answers run away: {now[key]:.3g} {unit}, after {first[key]:.3g} "
                "in its first. Lower learning_rate or "
                "share, start from a run on given examples, or raise on_policy.stop_at_growth "
                "(null: never)."
            )


def _reasons(sums: Sums) -> str:
    """Why answers cannot be learnt, the most frequent reason first, and what to do about it."""
    found = {k.removeprefix(FAULT): v for k, v in sums.items() if k.startswith(FAULT)}
    order = sorted(found, key=lambda why: -found[why])
    counts = ", ".join(f"{found[why]:.0f} {why.replace('_', ' ')}" for why in order)
    if not order:
        return "no source teaches any of them"
    return f"{counts}. {REMEDIES.get(order[0], 'Start from a run on given examples')}"


def means(sums: Sums) -> dict[str, float]:
    """Mean length (tokens) and entropy (nats a token), share cut off, share that can be learnt."""
    of = {key: sums.get(key, 0) for key in FIGURES}
    answers = max(of["answers"], 1)
    found = {
        "length": of["tokens"] / answers,
        "entropy": of["entropy"] / max(of["positions"], 1),
        "cut_off": of["cut_off"] / answers,
        "learnt": of["learnt"] / answers,
    }
    for key, value in sums.items():
        kind, _, source = key.partition("/")
        if kind == "nats":
            found[f"divergence_{source}"] = value / max(sums[f"bytes/{source}"], 1)
    return found


def in_words(number: int, sums: Sums, per_second: float | None) -> str:
    """A round in a line. per_second: answers written and corrected, where it was made just now."""
    if not sums.get("answers"):
        return ""
    found = means(sums)
    said = [f"round {number + 1}: {found['length']:.0f} tokens an answer"]
    if per_second is not None:
        said.append(f"{per_second:,.3g} answers/s")
    said.append(f"{100 * found['cut_off']:.0f} % cut off")
    away = {k.removeprefix("divergence_"): v for k, v in found.items() if k.startswith("div")}
    if away:
        said.append("nats/byte from " + ", ".join(f"{k} {v:.3f}" for k, v in away.items()))
    return ", ".join(said)


def _runs(first: Sums, now: Sums, growth: float) -> list[str]:
    """Which means have become `growth` times what they were."""
    length, entropy = first["length"], first["entropy"]
    longer = now["length"] > growth * length or now["length"] < length / growth
    found = ["length"] if longer and abs(now["length"] - length) >= LEAST_LENGTH else []
    unsure = now["entropy"] > growth * entropy and now["entropy"] - entropy >= LEAST_ENTROPY
    return [*found, "entropy"] if unsure else found


def added(parts: Iterable[Sums]) -> dict[str, float]:
    """Sums of sums."""
    total: dict[str, float] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0) + value
    return total
