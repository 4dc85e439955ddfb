"""Write the locks: exact versions with the hashes of every file of them. `make lock` runs this.

    build.lock       what builds the few packages that have no wheels, and this one
    torch-cpu.lock   torch without CUDA, as pytorch.org builds it: where a registry offers it
    torch.lock       torch as PyPI has it, with the CUDA libraries that it needs on Linux
    run.lock         everything else that InfiFusion runs with
    work.lock        the same, and what tests, benchmarks, checks and the documentation site need

One resolution for Python 3.11 to 3.13 on every system (`uv pip compile --universal`). Versions stay
as they are in the locks that are there; delete a lock, or give `--upgrade`, for newer ones. The
hash in torch-cpu.lock is that of the wheel that this machine is offered: it cannot be compared
with PyPI, which does not have that wheel.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
BUILD = "setuptools>=77\n"
PYTHON = "3.11"  # the oldest; markers cover the others
EXTRAS = {"run": (), "work": ("test", "bench", "check", "docs", "gguf", "vllm")}


def main() -> None:
    upgrade = [flag for flag in sys.argv[1:] if flag == "--upgrade"]
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder) / "build.in"
        build.write_text(BUILD)
        compile_lock("build", [str(build)], upgrade)
        project = str(HERE.parent / "pyproject.toml")
        compile_lock("torch", [project], upgrade)
        version, torch = only_torch((HERE / "torch.lock").read_text())
        (HERE / "torch.lock").write_text(torch)
        left_out = [x for name in names(torch) for x in ("--no-emit-package", name)]
        pinned = Path(folder) / "torch.txt"
        pinned.write_text(f"torch=={version}\n")
        for name, extras in EXTRAS.items():
            chosen = [x for extra in extras for x in ("--extra", extra)]
            compile_lock(name, [project, "-c", str(pinned), *chosen, *left_out], upgrade)
        write_cpu_lock(version, Path(folder) / "wheel")


def compile_lock(name: str, arguments: list[str], upgrade: list[str]) -> None:
    """One lock by uv. torch's is resolved with all the rest and cut to size afterwards."""
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
    command += ["--no-header", "--no-annotate", "--python-version", PYTHON]
    lock = str(HERE / f"{name}.lock")
    subprocess.run([*command, *upgrade, *arguments, "--output-file", lock], check=True)


def only_torch(lock: str) -> tuple[str, str]:
    """torch's version, and the entries of torch and of the libraries that only it needs."""
    entries = re.split(r"^(?=\S)", lock, flags=re.MULTILINE)
    kept = [entry for entry in entries if re.match(r"(torch|triton|nvidia-|cuda-)", entry)]
    version = next(m[1] for entry in kept if (m := re.match(r"torch==([0-9.]+)", entry)))
    return version, "".join(kept)


def names(lock: str) -> list[str]:
    """The packages of a lock."""
    return re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE)


def write_cpu_lock(version: str, folder: Path) -> None:
    """The hash of the wheel without CUDA, where this machine is offered one."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    done = subprocess.run([*command, "--dest", str(folder), f"torch=={version}+cpu"])
    if done.returncode:
        print(f"torch-cpu.lock stays as it is: torch {version}+cpu is not offered here.")
        return
    [wheel] = folder.iterdir()
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    text = f"torch=={version}+cpu \\\n    --hash=sha256:{digest}\n"
    (HERE / "torch-cpu.lock").write_text(text)


if __name__ == "__main__":
    main()
