"""adapter_config.json: which adapters are W + s B A, which PEFT has to merge, which nobody can."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.reader import read_config

CONFIG = "adapter_config.json"
LARGEST = 1e30
# Keys that do not change what W + s B A is, or that are read here.
PLAIN = frozenset(
    {
        *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config"),
        *("ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out"),
        *("inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform"),
        *("loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core"),
        *("modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r"),
        *("rank_pattern", "revision", "runtime_config", "target_modules", "task_type"),
        "use_rslora",
    }
)
# What PEFT merges into a whole model in memory.
BY_PEFT = frozenset(
    {"use_dora", "target_parameters", "trainable_token_indices", "lora_bias", "layer_replication"}
)
# Ways to begin the training that leave the base's weights as they are; all others take a part of
# them into the adapter, which then fits another base than the one that is named.
PLAIN_STARTS = frozenset({True, False, None, "gaussian", "eva", "orthogonal"})
CONVERT = (
    "Convert the adapter where it was trained (save_pretrained with "
    "path_initial_model_for_weight_conversion), or give the merged model"
)


@dataclass(frozen=True)
class LoraSettings:
    """What an adapter's config says. by_peft: the keys for which PEFT has to merge it."""

    path: Path
    r: int
    alpha: float
    rslora: bool
    transposed: bool
    ranks: dict[str, int]
    alphas: dict[str, float]
    by_peft: tuple[str, ...]
    base: str

    def rank_of(self, module: str) -> int:
        """The rank that the config gives the module."""
        return int(_by_pattern(self.ranks, module, self.r))

    def scale_of(self, module: str) -> float:
        """The factor of B A."""
        rank, alpha = self.rank_of(module), _by_pattern(self.alphas, module, self.alpha)
        return alpha / (rank**0.5 if self.rslora else rank)


def read_lora_config(folder: Path) -> LoraSettings:
    """Read and check. Raises CheckpointError for adapters of another kind, by the key that says so:
    whatever the installed PEFT has beyond the keys above must be null, false or its default."""
    config = read_config(folder, CONFIG)
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{folder}: only plain LoRA adapters are merged; found "
            f"{config.get('peft_type')!r:.100}. Merge it into its model with peft "
            "(merge_and_unload) and give that folder."
        )
    start = config.get("init_lora_weights", True)
    if isinstance(start, list | dict) or start not in PLAIN_STARTS:
        raise CheckpointError(
            f"{folder}: init_lora_weights is {start!r:.60}: such an adapter fits the base that its "
            "training left behind (a part of the weights was moved into it), not the one that is "
            f"named. {CONVERT}."
        )
    for key in sorted(config.keys() - PLAIN - BY_PEFT):
        if config[key] and not _is_default(key, config[key]):
            raise CheckpointError(
                f"{folder}: its {CONFIG} has {key}: {config[key]!r:.100}; an adapter with that is "
                "no W + s B A. Merge it into its model with peft (merge_and_unload), if it can be "
                "merged, and give that folder."
            )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not _is_number(rank) or not _is_number(alpha) or rank != int(rank) or rank < 1:
        raise CheckpointError(
            f"{folder / CONFIG}: r is {rank!r:.100} and lora_alpha {alpha!r:.100}; expected a "
            "whole number from 1 on, and a number."
        )
    return LoraSettings(
        path=folder / CONFIG,
        r=int(rank),
        alpha=alpha,
        rslora=bool(config.get("use_rslora")),
        transposed=bool(config.get("fan_in_fan_out", False)),
        ranks=_patterns(folder, config, "rank_pattern"),
        alphas=_patterns(folder, config, "alpha_pattern"),
        by_peft=tuple(sorted(key for key in BY_PEFT if config.get(key))),
        base=str(config.get("base_model_name_or_path") or "not said"),
    )


def _patterns(folder: Path, config: dict[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key) or {}
    if not isinstance(found, dict) or not all(
        _is_number(value) and value > 0 for value in found.values()
    ):
        raise CheckpointError(
            f"{folder / CONFIG}: {key} is {found!r:.100}; expected numbers above 0 by the names of "
            "modules."
        )
    return found


def _by_pattern(patterns: dict[str, Any], module: str, default: float) -> float:
    """PEFT's rule: the first pattern that is the end of the module's name, from a dot on."""
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error:
            if pattern == module:
                return value
    return default


def _is_default(key: str, value: object) -> bool:
    """Whether the installed PEFT has the key with this value for a default."""
    from peft import LoraConfig

    for field in dataclasses.fields(LoraConfig):
        if field.name == key:
            if field.default_factory is not dataclasses.MISSING:
                return field.default_factory() == value
            return field.default == value
    return False


def _is_number(value: object) -> TypeGuard[int | float]:
    """A number that float32 can hold."""
    return type(value) in (int, float) and abs(value) < LARGEST  # pyright: ignore
