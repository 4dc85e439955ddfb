"""The locks name every dependency, and every file that may be installed has a hash."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("build", "torch-cpu", "torch", "run", "work")


def entries(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    found = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    return {re.split(r"[=<>! ;]", one)[0]: one for one in found if one.strip()}


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_is_one_version_with_hashes(name):
    found = entries(name)
    assert found
    for package, entry in found.items():
        assert re.match(rf"{re.escape(package)}==[^\s;]+", entry), package
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), package


def test_the_locks_name_every_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {
        "run": project["dependencies"],
        "work": [one for extra in project["optional-dependencies"].values() for one in extra],
    }
    for lock, wanted in names.items():
        locked = entries(lock).keys() | entries("torch").keys() | entries("run").keys()
        for one in wanted:
            name = re.split(r"[\[<>=~! ]", one)[0].lower().replace("_", "-")
            assert name in locked, f"{name}: run `make lock`"


def test_what_runs_is_what_was_tested():
    run, work = entries("run"), entries("work")
    assert len(run) > 60
    assert {name: work.get(name) for name in run} == run
