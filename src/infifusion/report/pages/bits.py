"""Bits per byte of held-out responses, per model and domain."""

from __future__ import annotations

from typing import Any

from infifusion.report.dots import Dot, dot_chart
from infifusion.report.run_folder import PIVOT, Json, Run
from infifusion.report.summary import domains_of


def bits_view(run: Run) -> dict[str, Any] | None:
    """Bits per byte per model and domain, with the change from the pivot; None without any."""
    summary = run.summary
    domains = domains_of(summary)
    models = {n: m["bits_per_byte"] for n, m in summary["models"].items() if m["bits_per_byte"]}
    if not domains:
        return None
    bases = {n: b for n, b in models.items() if run.kind_of(n) in ("pivot", "tuned")}
    fused = [n for n in models if run.kind_of(n) == "fused"]
    lowest = {d: min(bits[d] for bits in models.values() if d in bits) for d in domains}
    return {
        "domains": domains,
        "headlines": [said for n in fused if (said := _headline(n, models[n], bases))],
        "models": models,
        "pivot": models.get(PIVOT, {}),
        "lowest": lowest,
        "charts": {
            f"bits-{domain}": dot_chart(
                f"{domain}: bits per byte, lower is better",
                [
                    Dot(name, bits[domain], f"{bits[domain]:.3f}", run.kind_of(name))
                    for name, bits in models.items()
                    if domain in bits
                ],
            )
            for domain in domains
        },
    }


def _headline(model: str, bits: Json, bases: dict[str, Json]) -> str:
    """In how many domains a model needs fewer bits than each base, as one sentence."""
    said = []
    for base, theirs in bases.items():
        shared = [domain for domain in bits if domain in theirs]
        fewer = sum(bits[domain] < theirs[domain] for domain in shared)
        if shared:
            name = "the pivot" if base == PIVOT else base
            said.append(f"than {name} in {fewer} of {len(shared)} domains")
    return f"{model} needs fewer bits per byte {', '.join(said)}." if said else ""
