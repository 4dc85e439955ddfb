"""Texts of the targets token by token: what every source believed, what the target says.

The page's script draws them; here they are put into few bytes: every word stands once in a list
and is named by its place.
"""

from __future__ import annotations

from typing import Any

from infifusion.report.document import size_in_page
from infifusion.report.pages.teaching import taught_sources
from infifusion.report.run_folder import Json, Run
from infifusion.report.visible import cut

SAMPLES_PER_TARGET = 12
BUDGET = 1_500_000
"""Bytes of all texts together, about; their words stand apart, once each."""


def tokens_view(run: Run) -> dict[str, Any] | None:
    """Sample texts of the targets of several sources, or of all targets where none has several;
    None without any.

    `words[i]` is a token's text. A token is [word, weights, entropies, gold, guesses, target]:
    guesses holds, per source, [word, probability] of its likeliest tokens, or null where it took
    no part; target the same of the fused target.
    """
    sources = taught_sources(run)
    chosen = {n: w for n, w in run.weights.items() if len(w["sources"]) > 1} or run.weights
    words: dict[str, int] = {}
    targets, spent = [], 0
    for name, weights in chosen.items():
        samples = []
        for sample in weights["examples"][:SAMPLES_PER_TARGET]:
            if spent > BUDGET:
                break
            tokens = [_token(token, words) for token in sample["tokens"]]
            spent += size_in_page(tokens)
            prompt = cut(sample["prompt"])
            samples.append(
                {"id": sample["id"], "domain": sample["domain"], "prompt": prompt, "tokens": tokens}
            )
        places = [sources.index(source) for source in weights["sources"]]
        if samples:
            targets.append({"name": name, "sources": places, "samples": samples})
    return {"sources": sources, "words": list(words), "targets": targets} if targets else None


def _token(token: Json, words: dict[str, int]) -> list[Any]:
    def place(word: str) -> int:
        return words.setdefault(word, len(words))

    def guesses(likeliest: list[tuple[str, float]] | None) -> list[Any] | None:
        return None if likeliest is None else [[place(word), share] for word, share in likeliest]

    return [
        place(token["text"]),
        token["weights"],
        token.get("entropy"),
        token.get("gold"),
        [guesses(one) for one in token["top"]] if token.get("top") else None,
        guesses(token.get("target")),
    ]
