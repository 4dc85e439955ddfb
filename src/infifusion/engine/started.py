"""A server that we start, wait for and stop, on every way out."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infifusion.engine import keeper
from infifusion.errors import RecipeError, RunError
from infifusion.process.redact import redact_text
from infifusion.process.runtime import log, world_size
from infifusion.recipe import Engine
from infifusion.recipe.engine import MODEL

LAST_LINES = 12
"""Of a server's log, where it ends by itself: of those that tell of an error, if there are any."""
WRONG = re.compile(r"\b\w*(Error|Exception)\b|\bKilled\b|out of memory", re.IGNORECASE)
OURS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


@dataclass(frozen=True)
class Started:
    """A server of ours: its address and key, its process (the keeper's), and where its log lies."""

    url: str
    key: str
    process: subprocess.Popen[bytes]
    log_file: Path

    def require_alive(self) -> None:
        """RunError with the end of its log where it has ended by itself."""
        status = self.process.poll()
        if status is None:
            return
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        wrong = [line for line in lines if WRONG.search(line)][-LAST_LINES:]
        said = "\n".join(f"  {redact_text(line)}" for line in wrong or lines[-LAST_LINES:])
        raise RunError(
            f"The server that engine.command starts ended by itself (status {status}); all that it "
            f"said stands in {self.log_file}:\n{said}\nMend it, and run again: what was received "
            "is kept."
        )


@contextlib.contextmanager
def started(engine: Engine, model: str) -> Iterator[Started]:
    """Start engine.command for this model folder; stop all that it started at the end of the block.

    A keeper (engine.keeper) runs it, which ends it too where this process is killed. It listens on
    this machine alone, with a key of its own. It may not be ready yet. Its log is deleted at the
    end, but where it ended by itself.
    """
    if world_size() > 1:
        raise RecipeError(
            "engine.command starts one server for one process. With several processes start the "
            "server yourself and give its address as engine.url; all of them share it."
        )
    folder = Path(tempfile.mkdtemp(prefix="infifusion-engine-"))
    log_file, port, key = folder / "log", _free_port(), secrets.token_hex(16)
    command = [*command_of(engine, model), "--host", "127.0.0.1", "--port", str(port)]
    log.info("engine: %s", redact_text(shlex.join(command)))
    reading, writing = os.pipe()
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    with log_file.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, keeper.__file__, str(reading), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[reading],
            env={**environment, "VLLM_API_KEY": key},
        )
    os.close(reading)
    try:
        yield Started(f"http://127.0.0.1:{port}/v1", key, process, log_file)
    finally:
        by_itself = process.poll() is not None
        os.close(writing)  # the keeper sees it, and ends what it runs
        process.wait()
        if not by_itself:
            shutil.rmtree(folder, ignore_errors=True)


def command_of(engine: Engine, model: str) -> list[str]:
    """The words of the command with the model's folder and the parallel sizes in it."""
    words = [word.replace(MODEL, model) for word in shlex.split(engine.command or "")]
    sizes = {
        "--tensor-parallel-size": engine.tensor_parallel_size,
        "--pipeline-parallel-size": engine.pipeline_parallel_size,
    }
    for option, size in sizes.items():
        words += [] if size is None else [option, str(size)]
    return words


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
