"""How long a text a model can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WINDOWS = ("max_position_embeddings", "n_positions")
"""What a config.json calls it; the second is GPT-2's."""


def window_of(config: Mapping[str, Any] | PreTrainedConfig) -> int | None:
    """Most tokens that a model can hold, by its text configuration (as transformers has it, or what
    its config.json holds); None where that names no limit."""
    if isinstance(config, Mapping):
        said = [config.get(key) for key in WINDOWS]
    else:
        said = [getattr(config, key, None) for key in WINDOWS]
    return min((value for value in said if isinstance(value, int) and value > 0), default=None)
