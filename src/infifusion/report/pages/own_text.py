"""Text that the pivot wrote while it trained: how it changed by round, and how it was corrected."""

from __future__ import annotations

import math
from typing import Any

from infifusion.report.curves import Line, line_chart
from infifusion.report.run_folder import Json, Run
from infifusion.report.visible import cut

CURVES = {
    "length": "Mean length of an answer (tokens)",
    "entropy": "Entropy of the pivot on its own answers (nats a token)",
    "cut_off": "Share of answers that ran out of room",
    "learnt": "Share of answers that were learnt",
}
AWAY = "divergence_"
STRONGEST = 8
"""Corrections listed of a sample."""
LEAST = 1e-4
"""Probabilities below count as this where a correction is measured."""


def own_text_view(run: Run) -> dict[str, Any] | None:
    """Curves over the rounds, and sample answers with what the sources made of each token; None
    where no run wrote its own text."""
    sheets = {name: sheet for name, sheet in run.own_texts.items() if sheet.get("rounds")}
    if not sheets:
        return None
    charts = {}
    for key, title in CURVES.items():
        lines = [_line(name, sheet, key, n) for n, (name, sheet) in enumerate(sheets.items())]
        if chart := line_chart(title, lines, x_label="round"):
            charts[f"own-{key}"] = chart
    for name, sheet in sheets.items():
        sources = [k.removeprefix(AWAY) for k in sheet["rounds"][0] if k.startswith(AWAY)]
        lines = [_line(source, sheet, AWAY + source, n) for n, source in enumerate(sources)]
        title = f"{name}: divergence of the pivot from each source on its own text (nats a byte)"
        if chart := line_chart(title, lines, x_label="round"):
            charts[f"own-divergence-{name}"] = chart
    samples = [
        _sample(name, sample) for name, sheet in sheets.items() for sample in sheet["samples"]
    ]
    return {"charts": charts, "samples": samples}


def _line(label: str, sheet: Json, key: str, number: int) -> Line:
    return Line(label, [(one["round"] + 1, one.get(key)) for one in sheet["rounds"]], number)


def _sample(name: str, sample: Json) -> dict[str, Any]:
    tokens = [_token(place, token) for place, token in enumerate(sample["tokens"])]
    corrected = sorted((t for t in tokens if t["by"] is not None), key=lambda t: -abs(t["by"]))
    return {
        "run": name,
        "round": sample["round"] + 1,
        "id": sample["id"],
        "domain": sample["domain"],
        "prompt": cut(sample["prompt"]),
        "tokens": tokens,
        "strongest": corrected[:STRONGEST],
    }


def _token(place: int, token: Json) -> dict[str, Any]:
    """by: nats by which the sources find the token likelier (above 0) or rarer; None where nobody
    speaks. rather: what they would rather have read, where that is something else."""
    given, own, by, rather = token.get("gold"), token["own"], None, None
    if given is not None:
        by = math.log(max(given, LEAST)) - math.log(max(own, LEAST))
        likeliest = token.get("target") or [("", 0.0)]
        rather = likeliest[0] if likeliest[0][0] != token["text"] else None
    shade = 0 if by is None else min(60, 15 * abs(by))
    return {
        "place": place + 1,
        "text": token["text"],
        "own": own,
        "given": given,
        "by": by,
        "advantage": token.get("advantage"),
        "rather": rather,
        "shade": shade,
    }
