"""Models behind stand-ins of vLLM's server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from standin import StandIn, bigrams
from tokenizers import Tokenizer


@pytest.fixture
def serve(suite: Path) -> Iterator[Callable[..., StandIn]]:
    """serve("a", **faults) starts a stand-in with the tokenizer of the suite's model `a`."""
    with ExitStack() as stack:

        def start(name: str, **faults: object) -> StandIn:
            folder = suite / name
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            size = json.loads((folder / "config.json").read_text())["vocab_size"]
            brain = faults.pop("brain", None) or bigrams(size, seed=1)
            return stack.enter_context(StandIn(brain, tokenizer, **faults))

        yield start
