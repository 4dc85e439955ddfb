"""What a dense model makes of prompts, layer by layer: the routers of a mixture are made of it.

Axes: L layers, H width of the hidden states.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from infifusion.merge.checkpoints.tokens import load_tokenizer


class HiddenStates:
    """What the routers of the base's layers would see of a prompt's last token; cheap: the mean of
    its embeddings, for all layers."""

    def __init__(self, folder: Path, *, cheap: bool) -> None:
        from transformers import AutoModelForCausalLM

        self.cheap = cheap
        self.tokenizer = load_tokenizer(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", local_files_only=True, trust_remote_code=False
        ).eval()

    def mean(self, prompts: list[str]) -> np.ndarray:
        """[L, H]: the mean over the prompts."""
        return np.mean([self._of(prompt) for prompt in prompts], axis=0)

    def _of(self, prompt: str) -> np.ndarray:
        import torch

        ids = self.tokenizer(prompt, return_tensors="pt").input_ids
        layers = self.model.model.layers
        seen: list[Any] = []
        with torch.no_grad():
            if self.cheap:
                mean = self.model.get_input_embeddings()(ids)[0].float().mean(dim=0)
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
