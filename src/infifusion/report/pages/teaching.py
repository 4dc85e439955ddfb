"""Which source taught what: mean weights by domain and along the data."""

from __future__ import annotations

from typing import Any

from infifusion.report.bars import bar_chart
from infifusion.report.chart import Chart
from infifusion.report.curves import stacked_chart
from infifusion.report.run_folder import Json, Run

NO_SOURCE = "no source (gold token alone)"


def taught_sources(run: Run) -> list[str]:
    """Every source of every target; its place decides its colour."""
    return list(dict.fromkeys(s for w in run.weights.values() for s in w["sources"]))


def teaching_view(run: Run) -> dict[str, Any] | None:
    """Weights of every fused target; None where no target was fused.

    Targets of one source carry no choice between sources, only whether the source taught (its
    gate); they share one table.
    """
    if not run.weights:
        return None
    sources = taught_sources(run)
    several = {name: w for name, w in run.weights.items() if len(w["sources"]) > 1}
    single = {name: w for name, w in run.weights.items() if len(w["sources"]) == 1}
    domains = dict.fromkeys(d for w in single.values() for d in w["taught_share"])
    return {
        "sources": sources,
        "targets": [
            {
                "name": name,
                "sources": weights["sources"],
                "rows": _rows(weights, sources),
                "charts": _charts(name, weights, sources),
            }
            for name, weights in several.items()
        ],
        "single": single
        and {
            "names": [f"{name} ({w['sources'][0]})" for name, w in single.items()],
            "rows": [(d, [w["taught_share"].get(d) for w in single.values()]) for d in domains],
        },
    }


def _rows(weights: Json, sources: list[str]) -> list[tuple[str, list[Any], float | None]]:
    """(domain, [(place of the source among all, mean weight)], share of positions taught)."""
    places = [sources.index(source) for source in weights["sources"]]
    return [
        (domain, list(zip(places, mean, strict=True)), weights["taught_share"].get(domain))
        for domain, mean in weights["by_domain"].items()
    ]


def _charts(name: str, weights: Json, sources: list[str]) -> dict[str, Chart]:

    def in_order(values: list[float]) -> list[float]:
        """A target's sources at the places of all sources, so that colours agree."""
        by_source = dict(zip(weights["sources"], values, strict=True))
        return [by_source.get(source, 0.0) for source in sources]

    bins = weights["over_examples"]
    along = stacked_chart(
        f"{name}: mean weights along the training data",
        [bin_["example"] for bin_ in bins],
        [in_order(bin_["weights"]) for bin_ in bins],
        names=sources,
        x_label="example",
    )
    by_domain = bar_chart(
        f"{name}: mean weight of each source by domain",
        [(domain, in_order(mean)) for domain, mean in weights["by_domain"].items()],
        names=sources,
        rest=NO_SOURCE,
    )
    charts = {f"weights-by-domain-{name}": by_domain}
    return charts | ({f"weights-along-data-{name}": along} if along else {})
