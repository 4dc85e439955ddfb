"""Where and how we run: rank, device, dtype, seed, logging."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import logging
import multiprocessing
import os
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from infifusion.errors import RecipeError
from infifusion.process.redact import redact_text

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

log = logging.getLogger("infifusion")
console = Console(stderr=True)
TOKENIZERS = "TOKENIZERS_PARALLELISM"
TOKENIZERS_ASKED = os.environ.get(TOKENIZERS)
"""What the environment says of it, before `quiet_libraries` does."""


class RedactedFormatter(logging.Formatter):
    """Lines without secrets, the home folder as ~."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return redact_text(super().format(record))


class ConsoleHandler(logging.Handler):
    """Messages to standard error through `console`, so that they stand above a live view."""

    def __init__(self, level: int = logging.INFO) -> None:
        super().__init__(level)
        self.setFormatter(RedactedFormatter("%(message)s"))
        self.addFilter(lambda record: not getattr(record, "only_in_log_file", False))

    def emit(self, record: logging.LogRecord) -> None:
        """One message as it is: no markup, no colours, no wrapping."""
        text = self.format(record)
        console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def set_up_logging() -> None:
    """Our messages to standard error; other libraries' only when they are warnings."""
    log.handlers = [ConsoleHandler()]
    log.propagate = False
    log.setLevel(logging.INFO)


def shows_live() -> bool:
    """Whether standard error is a terminal that may be drawn on: no pipe, no CI, no NO_COLOR; and
    not by a worker process, whose parent shows the work of all."""
    plain = any(os.environ.get(name) for name in ("CI", "NO_COLOR"))
    plain = plain or multiprocessing.parent_process() is not None
    return console.is_terminal and not console.is_dumb_terminal and not plain


def quiet_libraries() -> None:
    """Hide the progress bars and notices of libraries that run inside a stage."""
    os.environ.setdefault(TOKENIZERS, "false")  # else each later fork is commented on
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@contextlib.contextmanager
def tokenizing_on_all_processors() -> Iterator[None]:
    """Let the tokenizers library share its work among all processors while the block runs, unless
    the environment of this process said what it wants. The tokens are the same."""
    before = os.environ.get(TOKENIZERS)
    if TOKENIZERS_ASKED is None:
        os.environ[TOKENIZERS] = "true"
    try:
        yield
    finally:
        if TOKENIZERS_ASKED is None:
            os.environ[TOKENIZERS] = before or "false"


def rank() -> int:
    """This process's number under torchrun or accelerate; 0 otherwise."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes torchrun or accelerate started; 1 otherwise."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def pick_device() -> str:
    """`cuda:<local rank>`, `mps` or `cpu`, whichever is the best that torch can use."""
    import torch

    if torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def keep_freed_memory() -> None:
    """Let glibc keep the buffers that a step frees, for the next one.

    By default it gives large ones back to the system at once, which then hands out pages that have
    to be faulted in and zeroed: with logits over 150k tokens that took half of every training step
    on a CPU (docs/log.md). No effect with another C library, or where MALLOC_* variables decide.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    arena_max, mmap_max, top_pad, trim_threshold = -8, -4, -2, -1  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(arena_max, 1)
        mallopt(mmap_max, 0)
        mallopt(top_pad, 64 << 20)
        mallopt(trim_threshold, -1)  # never


def pick_dtype(name: str, device: str) -> torch.dtype:
    """A torch dtype by name; `auto` is bfloat16 on an accelerator and float32 on a CPU."""
    import torch

    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def quantization_config(name: str) -> BitsAndBytesConfig:
    """What from_pretrained needs to load weights in `4bit` (NF4) or `8bit`.

    Raises RecipeError where bitsandbytes is not installed.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(
            f"quantization: {name} needs the package bitsandbytes, which is not installed. Run "
            "`pip install bitsandbytes`, or remove quantization."
        )
    if name == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
    )


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
