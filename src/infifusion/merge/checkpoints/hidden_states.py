"""What a dense model makes of prompts, layer by layer: the routers of a mixture are made of it.

Axes: L layers, H width of the hidden states.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.checkpoints.architecture import Architecture, quiet
from infifusion.merge.checkpoints.tokens import load_tokenizer


class HiddenStates:
    """What the routers of the base's layers would see of a prompt's last token; cheap: the mean of
    its embeddings, for all layers."""

    def __init__(
        self, folder: Path, known: Architecture, tensors: Mapping[str, Any], *, cheap: bool
    ) -> None:
        """folder: of the tokenizer. tensors: the model's, by stored names, for torch, with what an
        adapter changes. CheckpointError where transformers would make up some of them."""
        self.cheap = cheap
        self.folder = folder
        self.tokenizer = load_tokenizer(folder)
        with quiet():
            found: Any = type(known.model).from_pretrained(
                None,
                config=known.config,
                state_dict=dict(tensors),
                dtype=next(iter(tensors.values())).dtype,
                output_loading_info=True,
            )
        self.model, told = found
        lacking = [*sorted(told["missing_keys"]), *sorted(map(str, told["mismatched_keys"]))]
        if lacking:
            raise CheckpointError(
                f"{folder}: loaded by transformers, the model lacks {lacking[0]}, so what it makes "
                "of prompts is not known. Save it again, or write gate_mode: random."
            )
        self.model.eval()

    def mean(self, prompts: list[str]) -> np.ndarray:
        """[L, H]: the mean over the prompts."""
        return np.mean([self._of(prompt) for prompt in prompts], axis=0)

    def _of(self, prompt: str) -> np.ndarray:
        import torch

        ids = self.tokenizer(prompt, return_tensors="pt").input_ids
        if not ids.numel():
            raise RecipeError(
                f"The prompt {prompt!r:.60} has no token in the tokenizer of {self.folder}. Give "
                "some text."
            )
        layers = self.model.model.layers
        seen: list[Any] = []
        with torch.no_grad():
            if self.cheap:
                mean = self.model.get_input_embeddings()(ids.long())[0].float().mean(dim=0)
                return mean.numpy()[None].repeat(len(layers), axis=0)
            hooks = [
                layer.mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0][0, -1]))
                for layer in layers
            ]
            try:
                self.model(ids)
            finally:
                for hook in hooks:
                    hook.remove()
        return torch.stack(seen).float().numpy()
