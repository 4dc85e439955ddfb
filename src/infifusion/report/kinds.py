"""What a model of a run is: decides its colour and where it is named."""

from __future__ import annotations

from infifusion.report.run_folder import PIVOT, Run

KINDS = {
    "pivot": "pivot",
    "source": "source",
    "tuned": "fine-tuned on the gold text alone",
    "fused": "fused",
}


def kind_of(run: Run, model: str) -> str:
    """pivot, source, tuned (on gold alone) or fused."""
    if model == PIVOT:
        return "pivot"
    if model.startswith("source:"):
        return "source"
    tuned = {r["name"] for r in run.plan.get("runs", []) if r.get("target") is None}
    return "tuned" if model in tuned or model == "sft" else "fused"
