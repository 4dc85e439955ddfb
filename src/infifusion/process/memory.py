"""A batch size that does not fit into memory is halved once; the log says so."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size

from infifusion.errors import RunError
from infifusion.process.runtime import log

Result = TypeVar("Result")


def ran_out(error: BaseException) -> bool:
    """Whether an error means that the memory of a device or of the machine ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):  # NumPy's is a MemoryError
        return True
    return isinstance(error, Exception) and should_reduce_batch_size(error)


class BatchSize:
    """A batch size that is halved, once, where memory runs out. What fails with half of it has
    another cause, or needs another setting."""

    def __init__(self, size: int, *, setting: str, less: str) -> None:
        """setting: the key of the recipe (or option) that holds it; less: what else takes less
        memory, for the error."""
        self.size, self._first = size, size
        self._setting, self._less = setting, less

    @property
    def halved(self) -> bool:
        """Whether the size was halved."""
        return self.size < self._first

    def fit(self, work: Callable[[int], Result]) -> Result:
        """work(size); where memory runs out, all of it once more with half the size, which is kept.

        So the result is what it would be had the recipe named that size. Raises RunError where half
        does not fit either.
        """
        while True:
            try:
                return work(self.size)
            except Exception as error:
                if not ran_out(error):
                    raise
                if self.halved or self.size == 1:
                    raise self._error() from error
            # Outside the handler: the error holds on to the frames and so to their tensors.
            half = self.size // 2
            message = "%s: %d does not fit into memory; going on with %d"
            log.warning(message, self._setting, self.size, half)
            self.size = half
            free_memory()

    def _error(self) -> RunError:
        tried = f"{self._first} and {self.size}" if self.halved else f"{self.size}"
        return RunError(
            f"Memory does not suffice: {self._setting} {tried} did not fit. Set a smaller one; "
            f"less memory is also taken by {self._less}. Then run again: what is finished is kept."
        )


def free_memory() -> None:
    """Collect garbage, and give the GPU's unused memory back to its driver."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
