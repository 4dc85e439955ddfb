"""Which source taught what: mean weights, weights along the data, and texts token by token."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup, escape

from infifusion.artifacts import Json
from infifusion.report.charts import stacked_chart
from infifusion.report.run_folder import Run

SAMPLES_PER_TARGET = 12


def teaching_view(run: Run) -> dict[str, Any] | None:
    """Weights of every fused target; None where no target was fused.

    Targets of one source carry no choice between sources, only whether the source taught (its
    gate); they share one table.
    """
    if not run.weights:
        return None
    sources = list(dict.fromkeys(s for w in run.weights.values() for s in w["sources"]))
    several = {name: w for name, w in run.weights.items() if len(w["sources"]) > 1}
    single = {name: w for name, w in run.weights.items() if len(w["sources"]) == 1}
    return {
        "sources": sources,
        "targets": [_target(name, weights, sources) for name, weights in several.items()],
        "single": {
            "names": [f"{name} ({w['sources'][0]})" for name, w in single.items()],
            "rows": [
                (domain, [w["taught_share"].get(domain) for w in single.values()])
                for domain in dict.fromkeys(d for w in single.values() for d in w["taught_share"])
            ],
        }
        if single
        else None,
    }


def _target(name: str, weights: Json, sources: list[str]) -> dict[str, Any]:
    numbers = [sources.index(source) for source in weights["sources"]]
    bins = weights["over_examples"]
    samples = weights["examples"][:SAMPLES_PER_TARGET]
    domains = [sample["domain"] for sample in samples]
    return {
        "name": name,
        "sources": weights["sources"],
        "rows": [
            (domain, list(zip(numbers, mean, strict=True)), weights["taught_share"].get(domain))
            for domain, mean in weights["by_domain"].items()
        ],
        "chart": stacked_chart(
            f"{name}: mean weights along the data",
            [bin_["example"] for bin_ in bins],
            [_in_order(bin_["weights"], numbers, len(sources)) for bin_ in bins],
            x_label="example",
        ),
        "samples": [
            {
                "id": sample["id"],
                "domain": sample["domain"],
                "first": sample["domain"] not in domains[:n],
                "prompt": sample["prompt"],
                "tokens": Markup("").join(
                    _token(token, weights["sources"], numbers) for token in sample["tokens"]
                ),
            }
            for n, sample in enumerate(samples)
        ],
    }


def _in_order(weights: list[float], numbers: list[int], count: int) -> list[float]:
    """The weights of a target's sources at the places of all sources, so that colours agree."""
    placed = [0.0] * count
    for number, weight in zip(numbers, weights, strict=True):
        placed[number] = weight
    return placed


def _token(token: Json, sources: list[str], numbers: list[int]) -> Markup:
    """A token in the colour of the source with the largest weight, the deeper the larger."""
    weights = token["weights"]
    text = token["text"].replace("\n", "↵\n")
    entropies = token.get("entropy") or [None] * len(weights)
    if not any(weights):
        return Markup('<i class="untaught" title="{}">{}</i>').format(
            "no source taught here: the gold token alone", text
        )
    listed = [
        f"{source} {weight:.2f}" + (f" (entropy {entropy:.2f} nats)" if entropy is not None else "")
        for source, weight, entropy in zip(sources, weights, entropies, strict=True)
    ]
    if token.get("gold") is not None:
        listed.append(f"target gives this token {token['gold']:.2f}")
    best = max(range(len(weights)), key=weights.__getitem__)
    return Markup('<i class="s{}" style="--w:{:.0f}%" title="{}">{}</i>').format(
        numbers[best] % 8, 15 + 60 * weights[best], escape("; ".join(listed)), text
    )
