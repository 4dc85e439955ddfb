"""Threads follow the cores that are free."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from infifusion.process import threads


def test_a_busy_process_is_seen_and_ones_own_work_is_not() -> None:
    spin = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(spin) as other:
        try:
            time.sleep(0.3)
            assert threads.busy_cores(0.5) > 0.3
        finally:
            other.kill()


@pytest.mark.parametrize(("busy", "free"), [(0.0, 2), (0.4, 2), (0.6, 1), (1.9, 1), (2.0, 1)])
def test_there_is_always_a_core_to_use(
    busy: float, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.setattr(threads, "busy_cores", lambda: busy)
    assert threads.free_cores() == free


def test_threads_become_fewer_never_more_and_the_environment_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.delenv(threads.SAID, raising=False)
    for had, free, expected in ((4, 3, [3]), (4, 4, []), (4, 8, []), (1, 1, [])):
        taken.clear()
        monkeypatch.setattr(torch, "get_num_threads", lambda had=had: had)
        monkeypatch.setattr(threads, "free_cores", lambda free=free: free)
        threads.use_free_cores()
        assert taken == expected
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(threads, "free_cores", lambda: 1)
    monkeypatch.setenv(threads.SAID, "4")
    threads.use_free_cores()
    assert taken == []


def test_doctor_says_how_busy_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from infifusion.setup import doctor
    from infifusion.setup.machine import Machine

    machine = Machine(2, 8_000_000_000, 8_000_000_000, ())
    monkeypatch.setattr(doctor, "busy_cores", lambda: 1.8)
    monkeypatch.setattr(doctor, "free_cores", lambda: 1)
    (found,) = doctor._processors(machine)
    assert found.state == "note" and "1.8 of them busy" in found.found
    assert "with 1 thread," in found.found and "OMP_NUM_THREADS" in found.mend
    monkeypatch.setattr(doctor, "busy_cores", lambda: 0.1)
    (found,) = doctor._processors(machine)
    assert found.state == "ok"
