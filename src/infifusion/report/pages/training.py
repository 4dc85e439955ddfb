"""Training curves of every run, and of sources that were tuned."""

from __future__ import annotations

import math
from typing import Any

from infifusion.report.chart import Chart
from infifusion.report.curves import Line, Point, line_chart
from infifusion.report.run_folder import Run
from infifusion.report.words import duration

CURVES = {
    "loss": "Loss",
    "cross_entropy": "Cross-entropy on the gold token (nats)",
    "divergence": "Divergence from the target (nats)",
}
SHARE = "share"
SHARE_TITLE = "How far the sources count beside the label (gate: pivot)"
POINTS = 200
"""Most points drawn of one curve; more steps are averaged in equal groups."""


def training_view(run: Run) -> dict[str, Any] | None:
    """Loss, cross-entropy and divergence over the steps; None where nothing was trained."""
    tuned = {f"tune {name}": history for name, history in run.tuned.items()}
    histories = {name: h for name, h in (tuned | run.histories).items() if h.get("log")}
    if not histories:
        return None
    charts = {}
    for key, title in CURVES.items():
        curves = [
            Line(name, points, number)
            for number, (name, history) in enumerate(histories.items())
            if (points := _thinned(history["log"], key))
        ]
        if chart := line_chart(title, curves, x_label="step"):
            charts[f"training-{key}"] = chart
    if chart := line_chart(SHARE_TITLE, _shares(histories), x_label="step"):
        charts["training-share"] = chart
    if chart := _held_out_chart(histories):
        charts["training-held-out"] = chart
    return {
        "charts": charts,
        "runs": [
            {
                "name": name,
                "history": history,
                "time": duration(history.get("seconds")),
                "last": {key: _last(history["log"], key) for key in CURVES},
                "best": history.get("best_step"),
            }
            for name, history in histories.items()
        ],
    }


def _shares(histories: dict[str, Any]) -> list[Line]:
    """Of every run whose gate follows the pivot, how far its sources counted, by domain."""
    found = []
    for name, history in histories.items():
        keys = sorted({key for line in history["log"] for key in line if key.startswith(SHARE)})
        moving = [(key, _thinned(history["log"], key)) for key in keys]
        if any(value is not None and value < 1 for _, points in moving for _, value in points):
            found += [(" ".join([name, *key.split("/")[1:]]), points) for key, points in moving]
    return [Line(title, points, number) for number, (title, points) in enumerate(found)]


def _held_out_chart(histories: dict[str, Any]) -> Chart | None:
    """Bits per byte of held-out data over the steps, in all and by domain, of the runs that were
    scored while they trained."""
    lines = []
    for number, (name, history) in enumerate(histories.items()):
        found = history.get("held_out", [])
        whole: list[Point] = [(one["step"], one["bits_per_byte"]) for one in found]
        lines += [Line(name, whole, number)] if whole else []
        for domain in found[0]["domains"] if found and len(found[0]["domains"]) > 1 else ():
            points: list[Point] = [(one["step"], one["domains"][domain]) for one in found]
            lines.append(Line(f"{name}, {domain}", points, number))
    return line_chart("Held-out data while training (bits per byte)", lines, x_label="step")


def _thinned(log: list[dict[str, Any]], key: str) -> list[Point]:
    """(step, value) of the lines that have the key, averaged in groups to at most POINTS."""
    points = [
        (line["step"], line[key])
        for line in log
        if line.get(key) is not None and math.isfinite(line[key])
    ]
    size = math.ceil(len(points) / POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (sum(step for step, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def _last(log: list[dict[str, Any]], key: str) -> float | None:
    return next((line[key] for line in reversed(log) if line.get(key) is not None), None)
