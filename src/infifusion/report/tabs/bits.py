"""Bits per byte of held-out responses, per model and domain."""

from __future__ import annotations

from typing import Any

from infifusion.report.charts.dots import Dot, dot_chart
from infifusion.report.kinds import kind_of
from infifusion.report.run_folder import PIVOT, Run
from infifusion.report.summary import domains_of
from infifusion.store.records import Json


def bits_view(run: Run, summary: Json) -> dict[str, Any] | None:
    """Bits per byte per model and domain, with the change from the pivot; None without any."""
    domains = domains_of(summary)
    models = {n: m["bits_per_byte"] for n, m in summary["models"].items() if m["bits_per_byte"]}
    if not domains:
        return None
    base = models.get(PIVOT, {})
    bases = {n: b for n, b in models.items() if kind_of(run, n) in ("pivot", "tuned")}
    fused = [n for n in models if kind_of(run, n) == "fused"]
    return {
        "domains": domains,
        "headlines": [said for n in fused if (said := _headline(n, models[n], bases))],
        "rows": [
            {
                "model": name,
                "kind": kind_of(run, name),
                "cells": [
                    {
                        "value": bits.get(domain),
                        "change": bits[domain] - base[domain]
                        if name != PIVOT and domain in bits and domain in base
                        else None,
                        "best": domain in bits
                        and bits[domain] == min(b[domain] for b in models.values() if domain in b),
                    }
                    for domain in domains
                ],
            }
            for name, bits in models.items()
        ],
        "charts": {
            f"bits-{domain}": dot_chart(
                f"{domain}: bits per byte, lower is better",
                [
                    Dot(name, bits[domain], f"{bits[domain]:.3f}", kind_of(run, name))
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
