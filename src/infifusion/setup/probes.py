"""What the doctor tries for real: a product on a device, a compiled loop, a tokenizer, the hub."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

HUB_SECONDS = 4.0
"""How long the hub may take to answer."""


@dataclass(frozen=True)
class HubAnswer:
    """What the hub said. why: the reason of no user, or of no answer."""

    endpoint: str
    reached: bool
    user: str | None
    why: str


def works_on(device: str, dtype: str) -> str:
    """Nothing where a product and its gradient come out right, else what went wrong."""
    import torch

    try:
        x_ij = torch.eye(64, device=device, dtype=getattr(torch, dtype), requires_grad=True)
        (x_ij @ x_ij * 2).sum().backward()
        # d/dx sum(2 x x) at the identity: 2 (x 1 + 1 x) = 4 everywhere.
        right = x_ij.grad is not None and bool((x_ij.grad == 4).all())
        return "" if right else "a product has the wrong gradient"
    except (RuntimeError, TypeError, AssertionError) as error:  # torch asserts that CUDA is there
        return str(error).partition("\n")[0]


def seconds_to_compile() -> float:
    """Compile a small loop as the merge kernels are; RuntimeError where numba cannot keep it."""
    import numpy as np

    from infifusion.merge.blocks.compiled import compiled

    started = time.monotonic()

    @compiled
    def total(x_P):  # type: ignore[no-untyped-def]
        found = 0.0
        for value in x_P:
            found += value
        return found

    if total(np.arange(4.0)) != 6.0:
        raise RuntimeError("a compiled sum is wrong")
    return time.monotonic() - started


def tokenizer_round_trip() -> None:
    """Make a byte-level tokenizer; RuntimeError where it does not give back a text's bytes."""
    from infifusion.demo.tokenizers import byte_level

    text = "naïve 日本 🙂\r\n"
    tokenizer = byte_level([text], size=260).backend_tokenizer
    found = tokenizer.decode(tokenizer.encode(text).ids)
    if found != text:
        raise RuntimeError(f"tokenizers gives back {found!r} for {text!r}: pip install tokenizers")


def answer_of_hub() -> HubAnswer:
    """Ask the hub who we are, in a process of its own that can be given up."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return HubAnswer(endpoint, False, None, "HF_HUB_OFFLINE is set")
    code = (
        "import urllib.request, sys\n"
        "from huggingface_hub import get_token, HfApi\n"
        f"urllib.request.urlopen({endpoint!r}, timeout={HUB_SECONDS})\n"
        "print('reached', flush=True)\n"
        "print('user', HfApi().whoami()['name'] if get_token() else '')\n"
    )
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=3 * HUB_SECONDS)
    except subprocess.TimeoutExpired:
        return HubAnswer(endpoint, False, None, f"no answer within {3 * HUB_SECONDS:.0f} s")
    lines = done.stdout.splitlines()
    last = (done.stderr.strip().splitlines() or [""])[-1]
    if "reached" not in lines:
        return HubAnswer(endpoint, False, None, last or "no answer")
    user = next((line.removeprefix("user").strip() for line in lines if line[:4] == "user"), "")
    why = "not logged in" if done.returncode == 0 else f"the token is refused ({last})"
    return HubAnswer(endpoint, True, user or None, why)
