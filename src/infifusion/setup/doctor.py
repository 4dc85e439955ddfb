"""doctor: is this machine ready? One line per check, each with the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from infifusion.process.processor import LEAST_GAIN, LEAST_WIDTH, gain_of_bfloat16, has_instructions
from infifusion.process.threads import busy_cores, free_cores
from infifusion.process.versions import in_range, required_ranges, version_of
from infifusion.process.wording import counted
from infifusion.sandbox.programs import available, bubblewrap
from infifusion.setup.machine import Machine, this_machine
from infifusion.setup.probes import (
    answer_of_hub,
    seconds_to_compile,
    tokenizer_round_trip,
    works_on,
)
from infifusion.store.artifacts import cache_folder

State = Literal["ok", "note", "problem"]
LITTLE_DISK = 20e9
"""Bytes. A pivot of 1 B parameters in three copies with a cache and checkpoints."""
LITTLE_MEMORY = 8e9
"""Bytes. A model of 0.5 B parameters with its optimizer state in float32."""
MUCH_BUSY = 0.25
"""Share of the cores that other jobs may keep busy without a word."""
EXTRAS = {
    "gguf": "a model in a GGUF file",
    "aiohttp": "a model in a vLLM server (engine)",
    "bitsandbytes": "quantization: 4bit or 8bit of a model",
    "deepspeed": "parallel: deepspeed",
}


@dataclass(frozen=True)
class Finding:
    """One line. mend: the command or edit that makes it ok, empty where it is."""

    check: str
    state: State
    found: str
    mend: str = ""


def examine() -> list[Finding]:
    """Everything that is looked at, in order. A check that breaks is itself a finding."""
    findings: list[Finding] = []
    machine = this_machine()
    checks: list[Callable[[], Iterator[Finding]]] = [
        _installation,
        _extras,
        partial(_devices, machine),
        partial(_processors, machine),
        partial(_room, machine),
        _folders,
        _kernels,
        _sandbox,
        _hub,
    ]
    for check in checks:
        try:
            findings += check()
        except Exception as error:  # whatever is broken here is what the user came to learn
            name = getattr(check, "__name__", "machine").strip("_<>")
            said = f"{type(error).__name__}: {error}"
            findings.append(Finding(name, "problem", said, "mend what it says, and run it again"))
    return findings


def as_values(findings: list[Finding]) -> dict[str, object]:
    """For --json."""
    return {
        "ok": not any(one.state == "problem" for one in findings),
        "findings": [asdict(one) for one in findings],
    }


def _installation() -> Iterator[Finding]:
    ranges = required_ranges()
    yield Finding("python", "ok", platform.python_version())
    if not ranges:
        yield Finding(
            "infifusion",
            "note",
            "run from its source folder: versions cannot be compared",
            "pip install -e . (in the checkout)",
        )
    for package, wanted in ranges.items():
        found = version_of(package)
        if found is None or not in_range(found, wanted):
            said = f"{found or 'missing'}; supported: {wanted}"
            yield Finding(package, "problem", said, f"pip install '{package}{wanted}'")
    named = ("torch", "transformers", "tokenizers", "numba", "numpy")
    versions = ", ".join(f"{name} {version_of(name)}" for name in named)
    yield Finding("packages", "ok", f"{len(ranges)} checked: {versions}")


def _extras() -> Iterator[Finding]:
    for name, needed_for in EXTRAS.items():
        if importlib.util.find_spec(name) is None:
            said = f"not installed; only {needed_for} needs it"
            yield Finding(name, "note", said, f"pip install {name}")


def _devices(machine: Machine) -> Iterator[Finding]:
    if not machine.gpus:
        yield Finding(
            "devices",
            "note",
            f"no GPU that torch can use (torch {version_of('torch')}): all runs on "
            f"{machine.cores} cores, which suits models of some million parameters",
            "with an NVIDIA GPU: nvidia-smi must list it; then pip install torch as pytorch.org "
            "says for its driver",
        )
    for number, gpu in enumerate(machine.gpus):
        size = f"{gpu.name}, {gpu.memory / 1e9:,.0f} GB, {gpu.free / 1e9:,.0f} GB free"
        yield Finding(f"cuda:{number}", "ok", size)
    for device in ["cpu", *(f"cuda:{number}" for number in range(len(machine.gpus)))]:
        for dtype in ("float32", "bfloat16"):
            error = works_on(device, dtype)
            if error:
                mend = f"set dtype: float32 for every model, and training.bf16: false ({dtype})"
                yield Finding(f"{dtype} on {device}", "note", f"does not work: {error}", mend)
            else:
                yield Finding(f"{dtype} on {device}", "ok", "calculates")
    if not machine.gpus:
        yield Finding("arithmetic", "ok", _arithmetic())


def _arithmetic() -> str:
    """What `dtype: auto` stands for on this processor, and why."""
    if not has_instructions():
        return "float32 (the processor has no instructions for bfloat16)"
    gain = gain_of_bfloat16(cache_folder())
    measured = f"a product is {gain:.1f} times as fast in bfloat16 as in float32"
    if gain < LEAST_GAIN:
        return f"float32 ({measured})"
    return f"bfloat16 from {LEAST_WIDTH} hidden units on, float32 logits ({measured})"


def _processors(machine: Machine) -> Iterator[Finding]:
    busy = busy_cores()
    said = f"{counted(machine.cores, 'core')}, {busy:.1f} of them busy with other jobs"
    if busy < MUCH_BUSY * machine.cores:
        yield Finding("processors", "ok", said)
    else:
        yield Finding(
            "processors",
            "note",
            f"{said}: on a CPU, runs calculate with {counted(free_cores(), 'thread')}, and take "
            "longer than planned",
            "wait until the other jobs are done, or set OMP_NUM_THREADS yourself",
        )


def _room(machine: Machine) -> Iterator[Finding]:
    state: State = "ok" if machine.memory >= LITTLE_MEMORY else "note"
    said = f"{machine.memory / 1e9:,.1f} GB, {machine.free_memory / 1e9:,.1f} GB free"
    mend = "" if state == "ok" else "set lora and a small batch; infifusion plan says what fits"
    yield Finding("memory", state, said, mend)
    free = shutil.disk_usage(Path.cwd()).free
    state = "ok" if free >= LITTLE_DISK else "note"
    mend = "" if state == "ok" else "give --run-dir on a larger disk; infifusion plan says the need"
    yield Finding("disk", state, f"{free / 1e9:,.1f} GB free at {Path.cwd()}", mend)


def _folders() -> Iterator[Finding]:
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    for name, folder, variable in (
        ("cache", cache_folder(), "INFIFUSION_CACHE"),
        ("hub cache", hub, "HF_HOME"),
        ("temporary files", Path(tempfile.gettempdir()), "TMPDIR"),
        ("this folder", Path.cwd(), ""),
    ):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"x")
            yield Finding(name, "ok", f"{folder} can be written")
        except OSError as error:
            mend = (
                f"export {variable}=/a/folder/of/yours" if variable else "cd to a folder of yours"
            )
            yield Finding(name, "problem", f"{folder}: {error.strerror}", mend)


def _kernels() -> Iterator[Finding]:
    try:
        said = f"numba compiles a loop in {seconds_to_compile():.1f} s; no C compiler is needed"
        yield Finding("compiled loops", "ok", said)
    except (ImportError, RuntimeError) as error:
        mend = "export NUMBA_CACHE_DIR=/a/folder/of/yours; or pip install --force-reinstall numba"
        yield Finding("compiled loops", "problem", str(error).partition("\n")[0], mend)
    tokenizer_round_trip()
    yield Finding("tokenizers", "ok", "a tokenizer is made, and gives back the bytes of a text")


def _sandbox() -> Iterator[Finding]:
    enforced, why = available()
    if enforced:
        outer = " and bubblewrap" if bubblewrap() else ""
        yield Finding("sandbox", "ok", f"the kernel enforces Landlock and seccomp{outer}")
    else:
        yield Finding(
            "sandbox",
            "note",
            f"generated code cannot be run safely here: {why}",
            "score code tasks (humaneval) on Linux 5.13 or later with Landlock, or leave them out",
        )


def _hub() -> Iterator[Finding]:
    answer = answer_of_hub()
    if answer.user:
        yield Finding("hub", "ok", f"{answer.endpoint}: logged in as {answer.user}")
    elif answer.reached:
        yield Finding(
            "hub",
            "note",
            f"{answer.endpoint} answers; {answer.why}: gated models (Llama) and "
            "uploads need a login",
            "hf auth login",
        )
    else:
        yield Finding(
            "hub",
            "note",
            f"{answer.endpoint} cannot be reached ({answer.why}): local folders "
            "and what lies in the cache work",
            "go online, or unset HF_HUB_OFFLINE; behind a proxy: export HTTPS_PROXY=...",
        )
