"""The figures of a fused target at the size of real data, in little memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
from conftest import byte_level_tokenizer

from infifusion.recipe import Recipe
from infifusion.stages.teaching import TeachingView
from infifusion.types import Example, Message, Rendered

PARTS, POSITIONS = 1000, 2_000_000


def test_the_tokens_of_all_data_are_counted_in_little_memory(tmp_path: Path) -> None:
    """A part per 128 examples, each with thousands of tokens: as Python objects 13 GB of half a
    million examples, and 36 bytes a position."""
    byte_level_tokenizer(320).save_pretrained(tmp_path)
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "pivot": {"model": str(tmp_path)},
            "sources": {"a": {"model": str(tmp_path)}},
            "data": {"train": [{"path": "x.jsonl", "domain": "d"}]},
            "fuse": {"unified": {"sources": ["a"]}},
        }
    )
    example = Example("d/0", "d", (Message(role="user", content="x"),), "y")
    gold_R = (np.arange(POSITIONS) % 20 + 290).astype(np.int32)
    empty = np.zeros(0, np.int32)
    pivot = Rendered(empty, np.zeros(1, np.int64), empty, empty, np.zeros(1, np.int64))
    view = TeachingView(recipe, ["a"], [example], pivot, gold_R)
    tracemalloc.start()
    try:
        for n in range(PARTS):
            missed = {str(token): token + n for token in range(290, 310)}
            view.add(
                {
                    "weight": [[1.0]],
                    "positions": [2],
                    "taught": [1],
                    "bin_weight": [[1.0]],
                    "bin_positions": [2],
                    "unaligned": [missed | {str(token): 0 for token in range(290)}],
                    "samples": [],
                }
            )
        found = view.as_json()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The token t was missed t + n times in part n.
    worst = found["worst_tokens"]["a"]
    assert worst[0]["unaligned"] == PARTS * 309 + PARTS * (PARTS - 1) // 2
    assert worst[19]["unaligned"] == PARTS * 290 + PARTS * (PARTS - 1) // 2
    assert {one["seen"] for one in worst} == {POSITIONS // 20}
    assert found["by_domain"] == {"d": [0.5]} and found["taught_share"] == {"d": 0.5}
    assert most < 24e6, "20 MB for a million positions at a time, 2 for the small parts"
