"""Which source won how many of the prompts without answers, what was dropped, and examples."""

from __future__ import annotations

from typing import Any

from infifusion.report.chart import Chart
from infifusion.report.dots import Dot, dot_chart
from infifusion.report.run_folder import Json, Run
from infifusion.report.svg import colour


def responses_view(run: Run) -> dict[str, Any] | None:
    """Tables, one chart per domain and sample prompts; None where no source wrote anything."""
    counts = run.counts.get("choose")
    if counts is None:
        return None
    asked = run.resolved.get("recipe", {}).get("write_responses") or {}
    sources = list(counts["won"])
    domains = [sample["domain"] for sample in run.answered]
    return {
        "sources": sources,
        "choosers": list(
            dict.fromkeys(p.get("choose") or asked["choose"] for p in asked.get("prompts", []))
        ),
        "rows": [_row(counts, domain, sources) for domain in counts["prompts"]],
        "charts": {
            f"prompts-won-{domain}": _chart(counts, domain, sources) for domain in counts["prompts"]
        },
        "writers": [_writer(run, counts, source) for source in sources],
        "samples": [
            _sample(sample, first=sample["domain"] not in domains[:n])
            for n, sample in enumerate(run.answered)
        ],
    }


def in_words(why: str) -> str:
    """A reason as it stands in the files, readable."""
    return why.replace("_", " ")


def _row(counts: Json, domain: str, sources: list[str]) -> dict[str, Any]:
    why = {in_words(w): by[domain] for w, by in counts["dropped"].items() if domain in by}
    return {
        "domain": domain,
        "prompts": counts["prompts"][domain],
        "won": [counts["won"][source].get(domain, 0) for source in sources],
        "dropped": sum(why.values()),
        "why": why,
    }


def _chart(counts: Json, domain: str, sources: list[str]) -> Chart:
    prompts, dots = counts["prompts"][domain], []
    for number, source in enumerate(sources):
        share = 100 * counts["won"][source].get(domain, 0) / prompts
        dots.append(Dot(source, share, f"{share:.1f} %", colour(number)))
    return dot_chart(f"{domain}: share of {prompts} prompts won, in %", dots, zero=True)


def _writer(run: Run, counts: Json, source: str) -> dict[str, Any]:
    wrote = run.counts.get(f"respond/{source}", {})
    no_part = counts["no_part"].get(source, {})
    return {
        "source": source,
        "answers": wrote.get("answers"),
        "tokens": wrote.get("tokens"),
        "entropy": wrote.get("entropy_per_byte", {}),
        "no_part": {in_words(why): n for why, n in no_part.items()},
    }


def _sample(sample: Json, *, first: bool) -> dict[str, Any]:
    answers = []
    for answer in sample["answers"]:
        won = (answer["source"], answer["sample"]) == (sample["winner"], sample["sample"])
        outcome = "kept" if won else in_words(answer["no_part"]) or "not kept"
        answers.append({**answer, "won": won, "outcome": outcome})
    return {**sample, "first": first, "why": in_words(sample["why"]), "answers": answers}
