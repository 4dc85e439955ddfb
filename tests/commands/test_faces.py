"""The command line as a whole: help, versions, completion, exit statuses, doctor."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infifusion.commands.cli import COMMANDS, EPILOG
from infifusion.commands.exits import STATUSES
from infifusion.process.versions import PACKAGES, in_range, required_ranges
from infifusion.setup.doctor import as_values, examine
from infifusion.setup.probes import works_on

DOCS = Path(__file__).parents[2] / "docs" / "commands.md"


def infifusion(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "infifusion", *(str(a) for a in arguments)]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


def test_no_command_imports_torch_before_it_runs() -> None:
    heavy = "torch", "transformers", "datasets", "numpy", "pydantic", "rich.live"
    code = f"import sys, infifusion.commands.cli; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


def test_the_help_names_every_command_and_exit_status() -> None:
    found = infifusion("--help").stdout
    for name in COMMANDS:
        assert f"  {name} " in found
    for status, meaning in STATUSES.items():
        assert f"{status}  {meaning}" in found
    assert set(STATUSES) == {0, 1, 2, 130, 143} and "Exit statuses:" in EPILOG
    assert "..." not in found.partition("Commands:")[2], "a summary is cut off at 80 columns"


def test_every_command_and_status_has_a_row_in_the_docs() -> None:
    text = DOCS.read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `infifusion ([\w-]+)", text, re.MULTILINE))
    assert rows == set(COMMANDS)
    statuses = {int(found) for found in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert statuses == set(STATUSES)


def test_every_option_of_the_docs_exists() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert len(COMMANDS) == 20
    for row in re.findall(r"^\| `infifusion ([\w-]+[^|]*)\|([^|]*)\|", text, re.MULTILINE):
        name = row[0].split()[0].strip("`")
        told = infifusion(name, "--help").stdout
        for option in set(re.findall(r"--[a-z][a-z-]*", " ".join(row))):
            assert option in told, (name, option)


def test_the_versions_that_matter_are_printed() -> None:
    lines = infifusion("--version").stdout.splitlines()
    names = [line.split()[0] for line in lines[:-1]]
    assert names == ["infifusion", "python", *PACKAGES]
    assert sys.executable in lines[-1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_a_shell(shell: str) -> None:
    found = infifusion("--show-completion", shell)
    assert found.returncode == 0 and "_INFIFUSION_COMPLETE" in found.stdout


def test_completion_knows_the_commands() -> None:
    found = infifusion(
        _INFIFUSION_COMPLETE="complete_bash", COMP_WORDS="infifusion wa", COMP_CWORD="1"
    )
    assert found.stdout.split() == ["watch"]


def test_a_mistyped_option_ends_with_status_2_and_the_right_one() -> None:
    found = infifusion("run", "x.yaml", "--run-dri", "y")
    assert found.returncode == 2 and "--run-dir" in found.stderr


@pytest.mark.parametrize("raised", ["MemoryError()", "torch.OutOfMemoryError('CUDA: 2 GiB')",
                                    "numpy.zeros(1 << 50)"])  # fmt: skip
def test_memory_that_ran_out_is_said_with_what_needs_less(raised: str) -> None:
    raising = raised if raised.startswith("numpy") else f"raise {raised}"
    code = (
        f"import numpy, torch\nfrom infifusion.commands.exits import exit_statuses\n"
        f"with exit_statuses():\n    {raising}"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 1 and "Traceback" not in found.stderr
    assert found.stderr.startswith("Error: The memory ran out") and "batch_size" in found.stderr


def test_an_unforeseen_error_keeps_its_traceback() -> None:
    code = "from infifusion.commands.exits import exit_statuses\nwith exit_statuses():\n    1 / 0"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 1 and "ZeroDivisionError" in found.stderr.splitlines()[-1]


def test_versions_are_compared_as_pip_does() -> None:
    assert in_range("2.13.0+cpu", "<3,>=2.6") and not in_range("3.0.0", "<3,>=2.6")
    assert in_range("2.10", ">=2.6") and not in_range("2.5.9", ">=2.6")


def test_the_supported_ranges_are_those_of_the_package() -> None:
    ranges = required_ranges()
    if not ranges:
        pytest.skip("infifusion is not installed here, only on the path")
    assert {"torch", "transformers", "typer"} <= set(ranges) and "pytest" not in ranges
    assert ranges["lm-eval"].startswith(("<", ">")), "extras are no part of the range"


def test_the_doctor_says_what_mends_every_finding() -> None:
    findings = examine()
    assert {"python", "packages", "memory", "disk", "sandbox", "hub", "compiled loops",
            "tokenizers", "cache"} <= {one.check for one in findings}  # fmt: skip
    for one in findings:
        assert one.found and (one.mend == "") == (one.state == "ok"), one
    assert as_values(findings)["ok"] is True, findings


def test_the_doctor_prints_one_json_object_and_takes_no_hub_for_a_note() -> None:
    endpoint = "http://127.0.0.1:9"  # nothing listens there
    found = infifusion("doctor", "--json", HF_HUB_OFFLINE="0", HF_ENDPOINT=endpoint)
    values = json.loads(found.stdout)
    assert found.returncode == 0 and values["ok"]
    hub = next(one for one in values["findings"] if one["check"] == "hub")
    assert hub["state"] == "note" and endpoint in hub["found"] and "HTTPS_PROXY" in hub["mend"]


def test_a_cache_that_cannot_be_written_is_a_problem_with_its_command(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    found = infifusion("doctor", INFIFUSION_CACHE=str(tmp_path / "file" / "cache"))
    assert found.returncode == 1
    said = found.stdout.partition("problem  cache: ")[2]
    assert "Not a directory" in said.splitlines()[0]
    assert "export INFIFUSION_CACHE=" in said.splitlines()[1]


def test_a_device_is_asked_for_a_right_gradient() -> None:
    assert works_on("cpu", "float32") == ""
    assert works_on("cuda:99", "float32") != ""


STOPPED = """
import os, signal, time
from infifusion.commands.exits import exit_statuses, stop_on_signals

class Half:
    def __del__(self):
        raise AttributeError("half built")

kept = [Half()]
stop_on_signals()
with exit_statuses():
    os.kill(os.getpid(), signal.SIGTERM)
    kept.clear()
    time.sleep(5)
"""


def test_what_a_library_was_making_when_the_signal_came_says_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True)
    assert done.returncode == 143
    assert done.stderr.startswith("Stopped. ") and done.stderr.count("\n") == 1
