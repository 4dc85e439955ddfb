"""What answers behind a stand-in: a real model of a few thousand parameters."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch
from standin import Brain
from transformers import AutoModelForCausalLM


def brain_of(folder: Path) -> Brain:
    """The model of a folder, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lock = threading.Lock()

    def log_probabilities(ids: list[int]) -> np.ndarray:
        with lock, torch.no_grad():
            return model(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy()

    return log_probabilities
