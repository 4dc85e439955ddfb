"""Bits per byte of held-out responses, per model and domain."""

from __future__ import annotations

from typing import Any

from infifusion.artifacts import Json
from infifusion.report.charts.dots import Dot, dot_chart
from infifusion.report.kinds import kind_of
from infifusion.report.run_folder import PIVOT, Run
from infifusion.report.summary import domains_of


def bits_view(run: Run, summary: Json) -> dict[str, Any] | None:
    """Bits per byte per model and domain, with the change from the pivot; None without any."""
    domains = domains_of(summary)
    models = {n: m["bits_per_byte"] for n, m in summary["models"].items() if m["bits_per_byte"]}
    if not domains:
        return None
    base = models.get(PIVOT, {})
    return {
        "domains": domains,
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
