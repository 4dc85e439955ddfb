"""What servers are asked, word for word. Every parameter of sampling is written out: a server fills
in what is left out from the model's generation_config, where a repetition_penalty may stand, with
which temperature 0 is not greedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NEUTRAL: dict[str, Any] = {
    "n": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "seed": 0,
    "min_tokens": 0,
    "stop": [],
    "stop_token_ids": [],
    "ignore_eos": True,
    "echo": False,
    "stream": False,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "add_special_tokens": False,
}


def scoring(model: str, ids: Sequence[int], entries: int) -> dict[str, Any]:
    """The log-probabilities of the tokens of a text, and the `entries` largest before each."""
    asked = {"model": model, "prompt": [*ids], "prompt_logprobs": entries, "max_tokens": 1}
    return {**NEUTRAL, **asked}


def writing(
    model: str,
    ids: Sequence[int],
    *,
    room: int,
    ends: Sequence[int],
    stops: Sequence[str],
    temperature: float,
    top_p: float,
    seed: int,
) -> dict[str, Any]:
    """An answer of at most `room` tokens to a prompt: greedy at temperature 0. It ends at one of
    the tokens `ends`, and where one of the texts `stops` has been written."""
    return {
        **NEUTRAL,
        "model": model,
        "prompt": [*ids],
        "max_tokens": room,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed % 2**63,
        "stop": [*stops],
        "include_stop_str_in_output": True,
        "stop_token_ids": [*ends],
        "return_token_ids": True,
    }
