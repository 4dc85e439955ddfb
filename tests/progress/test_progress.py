"""Meters, progress.json, the log, the live view and watch: what a run says while it goes on."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import warnings
from fcntl import ioctl
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from infifusion.errors import ArtifactError, RunError
from infifusion.process.bar import figures, progress_bar, track, work_line
from infifusion.process.meter import CURVE, Curve, Meter, Work
from infifusion.process.runtime import log, set_up_logging
from infifusion.progress.follow import follow
from infifusion.progress.state import PROGRESS, RunState, Step, read_state, write_state
from infifusion.progress.view import sparkline, watch_view
from infifusion.progress.watch import LastSign, is_gone, is_over, sign_of_life


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "infifusion", *(str(a) for a in arguments)]


def state_with(**changes: object) -> RunState:
    now = time.time()
    values = {
        "name": "r", "machine": "elsewhere", "pid": 1, "started": now - 100, "updated": now,
        "moved": now, "steps": [Step("prepare", "done", 2.0), Step("teach/a", "running", 5.0)],
        "current": 1,
    }  # fmt: skip
    return RunState(**{**values, **changes})  # type: ignore[arg-type]


def drawn(view: object, width: int = 100) -> str:
    console = Console(width=width, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    console.print(view)
    return console.export_text()


def test_a_rate_counts_what_was_done_since_the_start_alone(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("infifusion.process.meter.time.monotonic", lambda: now[0])
    meter = Meter("train", 400, "steps")
    meter.start_from(300)  # gone on from a checkpoint
    assert meter.rates() == (None, None)
    for step in range(301, 321):
        now[0] += 2.0
        meter.tokens += 50
        meter.reach(step)
    # 20 steps in 40 s: 0.5 steps/s and 25 tokens/s; 80 steps are left.
    assert meter.rates() == (0.5, 25.0)
    assert Work.of(meter).left == 160.0


def test_a_rate_forgets_all_but_the_last_minute(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("infifusion.process.meter.time.monotonic", lambda: now[0])
    meter = Meter("teach", 10_000, "tokens")
    for _ in range(100):  # slow at first: a token a second
        now[0] += 1
        meter.advance()
    for _ in range(100):  # then ten
        now[0] += 1
        meter.advance(10)
    assert meter.rates() == (10.0, 10.0)


def test_a_full_curve_keeps_the_mean_of_each_two_points() -> None:
    curve = Curve()
    for value in range(CURVE):
        curve.add(float(value))
    # 0 and 1 are 0.5, 2 and 3 are 2.5, ...
    assert curve.points[:3] == [0.5, 2.5, 4.5] and len(curve.points) == CURVE // 2
    curve.add(10.0)
    assert len(curve.points) == CURVE // 2
    curve.add(20.0)
    assert curve.points[-1] == 15.0


def test_a_sparkline_goes_from_the_lowest_to_the_highest() -> None:
    assert sparkline([0.0, 7.0]) == "▁█"
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([float("nan"), float("inf")]) == ""
    assert len(sparkline([float(n) for n in range(1000)], 24)) == 24


def test_figures_name_progress_rate_loss_and_time_left() -> None:
    work = Work("t", 100, 400, "steps", 50.0, 2.0, 1234.0, 0.5131, [])
    assert figures(work) == "100/400 steps, 25 %, 1,234 tokens/s, loss 0.5131, 2 min 30 s left"
    for width in (100, 40, 12):
        lines = drawn(work_line(work, width=width), width).splitlines()
        assert all(len(line) <= width for line in lines)


def test_the_time_left_follows_the_plan_at_the_pace_of_this_machine() -> None:
    state = state_with()
    assert state.left() is None  # no plan
    state.steps = [Step("prepare", "done", 20.0, 10.0), Step("teach/a", "running", 20.0, 20.0),
                   Step("fuse/x", "waiting", 0.0, 30.0)]  # fmt: skip
    state.work = Work("t", 1, 2, "", 20.0, None, None, None, [])
    # 40 s for 10 + half of 20 planned: twice as slow. To do: 10 + 30 planned.
    assert state.left() == 80.0


def test_what_was_made_by_an_earlier_run_says_nothing_of_the_pace() -> None:
    state = state_with(current=1)
    state.steps = [Step("prepare", "done", 0.0, 1000.0), Step("teach/a", "running", 10.0, 20.0)]
    state.work = Work("t", 1, 2, "", 10.0, None, None, None, [])
    assert state.left() == 10.0


def test_progress_is_read_as_it_was_written(tmp_path: Path) -> None:
    state = state_with(work=Work("t", 1, 2, "steps", 1.0, None, None, 0.1, [1.0, 0.5]))
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == [PROGRESS]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"steps": [], "work": null, "current": 3}'])
def test_a_damaged_progress_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / PROGRESS).write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match="progress.json"):
        read_state(tmp_path)


def test_a_folder_without_a_run_is_refused_with_what_to_give(tmp_path: Path) -> None:
    found = subprocess.run(command("watch", tmp_path), capture_output=True, text=True)
    assert found.returncode == 2 and "infifusion run RECIPE.yaml" in found.stderr


def test_a_followed_run_says_what_it_does_in_its_folder(tmp_path: Path, capsys) -> None:
    set_up_logging()
    with follow(tmp_path, name="r", steps=["prepare", "teach/a"], command="c") as followed:
        with followed.step("prepare", made=True):
            pass
        with followed.step("teach/a", made=False), progress_bar("teach a", 10, "tokens") as meter:
            meter.advance(4)
            meter.lose(2.0)
            time.sleep(1.3)
            found = read_state(tmp_path)
            logging.getLogger("other").warning("of a library")
            warnings.warn("of python", stacklevel=1)
    assert found.status == "running" and found.step == found.steps[1]
    assert found.work is not None and (found.work.done, found.work.loss) == (4, 2.0)
    assert found.disk_free and time.time() - found.updated < 10
    last = read_state(tmp_path)
    assert last.status == "done" and [s.status for s in last.steps] == ["done", "done"]
    assert last.steps[0].seconds == 0 and last.steps[1].seconds >= 1.3
    assert last.steps[1].curve == [2.0] and last.work is None
    text = (tmp_path / "log.txt").read_text(encoding="utf-8")
    for part in ("begin: c", "[2/2] teach/a", "WARNING of a library", "of python", "end; this log"):
        assert part in text
    assert "[1/2] prepare" not in text  # it was made before
    said = capsys.readouterr()
    assert said.out == "" and "begin: c" not in said.err and "of a library" in said.err
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", text)


def test_a_run_that_goes_on_appends_its_log_and_keeps_times_and_curves(tmp_path: Path) -> None:
    set_up_logging()
    write_state(tmp_path, state_with(steps=[Step("distill/x", "done", 7.0, None, [3.0, 1.0])],
                                     current=None))  # fmt: skip
    (tmp_path / "log.txt").write_text("earlier\n", encoding="utf-8")
    with (
        follow(tmp_path, name="r", steps=["distill/x"], command="c") as followed,
        followed.step("distill/x", made=True),
    ):
        pass
    found = read_state(tmp_path).steps[0]
    assert (found.seconds, found.curve) == (7.0, [3.0, 1.0])
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").startswith("earlier\n")


def test_a_failed_run_says_why_and_keeps_the_traceback(tmp_path: Path, capsys) -> None:
    set_up_logging()
    with (
        pytest.raises(RunError),
        follow(tmp_path, name="r", steps=["prepare"], command="c") as followed,
        followed.step("prepare", made=False),
        progress_bar("x", 1),
    ):
        raise RunError("it broke")
    found = read_state(tmp_path)
    assert (found.status, found.steps[0].status) == ("failed", "failed")
    assert found.message == "RunError: it broke" and found.step is not None
    assert "Traceback" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "Traceback" not in capsys.readouterr().err
    assert "it broke" in drawn(watch_view(found, life="", width=100))
    # Afterwards messages go where they went before.
    size = (tmp_path / "log.txt").stat().st_size
    log.info("later")
    assert (tmp_path / "log.txt").stat().st_size == size
    assert list(track([1, 2], "no run", 2)) == [1, 2]


def test_what_a_failed_run_says_names_no_home_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(RunError), follow(tmp_path, name="r", steps=[], command="c"):
        raise RunError(f"no room in {tmp_path}/home/x")
    assert read_state(tmp_path).message == "RunError: no room in ~/x"


def test_further_processes_have_logs_of_their_own(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    set_up_logging()
    monkeypatch.setattr("infifusion.progress.follow.LOOK_EVERY", 0.01)
    monkeypatch.setattr("infifusion.progress.follow.SAY_EVERY", 0.01)
    with (
        follow(tmp_path, name="r", steps=[], command="c"),
        progress_bar("teach a", 10, "tokens") as meter,
    ):
        log.info("from the second")
        meter.advance(4)
        time.sleep(0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["log-rank1.txt"]
    text = (tmp_path / "log-rank1.txt").read_text(encoding="utf-8")
    assert "[rank 1 of 2]" in text and "teach a: 4/10 tokens" in text
    # How far it is is said by the first process alone.
    said = capsys.readouterr().err
    assert "from the second" in said and "teach a" not in said


def test_a_folder_that_vanished_is_not_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with follow(folder, name="tiny", steps=["prepare"], command="infifusion run"):
        folder.rename(tmp_path / "away")
    assert [path.name for path in tmp_path.iterdir()] == ["away"]


def test_the_age_of_the_last_sign_survives_a_wrong_clock() -> None:
    sign = LastSign()
    state = state_with(updated=time.time() + 3600)  # their clock is an hour ahead
    assert sign.age(state) == 0.0
    state.updated += 1
    assert sign.age(state) < 1.0  # seen to come just now
    late = state_with(updated=time.time() - 3600)
    assert LastSign().age(late) > 3599


def test_only_a_process_of_this_machine_is_looked_for(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = state_with(machine=socket.gethostname(), pid=ended.pid)
    assert is_gone(here) and is_over(here) and "killed" in sign_of_life(here, 5.0)
    there = state_with(pid=ended.pid)
    assert not is_gone(there) and not is_over(there)
    assert "see to that machine" in sign_of_life(there, 100.0)
    mine = state_with(machine=socket.gethostname(), pid=os.getpid(), moved=time.time() - 90)
    assert not is_over(mine) and "same place for 1 min 30 s" in sign_of_life(mine, 1.0)


def test_watch_shows_every_stage_and_ends_with_the_run(tmp_path: Path) -> None:
    work = Work("distill x", 3, 4, "steps", 9.0, 1.0, 99.0, 0.25, [1.0, 0.5, 0.25])
    steps = [Step("prepare", "done", 2.0), Step("distill/x", "running", 9.0), Step("evaluate/x")]
    write_state(tmp_path, state_with(steps=steps, work=work, disk_free=5 * 10**9))
    once = subprocess.run(command("watch", "--once", tmp_path), capture_output=True, text=True)
    assert once.returncode == 0, once.stderr
    # The curve: 0.5 is a third of the way from 0.25 to 1, so block 7 / 3 = 2.3, the third of eight.
    parts = ["✓  prepare", "▶  distill/x", "·  evaluate/x", "75 %", "99 tokens/s", "loss 0.25"]
    parts += ["1 █▃▁ 0.25", "5.0 GB free", "stage 2 of 3", "process 1 on elsewhere"]
    for part in parts:
        assert part in once.stdout, (part, once.stdout)
    process = subprocess.Popen(command("watch", tmp_path), stdout=subprocess.PIPE, text=True)
    time.sleep(2)
    assert process.poll() is None
    for step in steps:
        step.status = "done"
    write_state(tmp_path, state_with(steps=steps, status="done", current=None))
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "3 of 3 stages done" in said


def read_all(terminal: int, process: int, *, narrow_after: float) -> str:
    """What a process writes to its terminal, which becomes narrow after so many seconds."""
    said, began = b"", time.monotonic()
    while True:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                piece = os.read(terminal, 65536)
            except OSError:
                break
            if not piece:
                break
            said += piece
        if narrow_after and time.monotonic() - began > narrow_after:
            narrow_after = 0.0
            ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 15, 50, 0, 0))
            os.kill(process, signal.SIGWINCH)
    return said.decode("utf-8", "replace")


def in_terminal(
    arguments: list[str], *, narrow_after: float = 0.0, **environment: str
) -> tuple[int, str]:
    """Run a command in a terminal of its own: exit status and everything drawn."""
    process, terminal = pty.fork()
    if process == 0:
        kept = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR")}
        os.execve(arguments[0], arguments, {**kept, "TERM": "xterm", **environment})
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    said = read_all(terminal, process, narrow_after=narrow_after)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said


WORKS = """
import sys, time, pathlib
from infifusion.commands.exits import exit_statuses, stop_on_signals
from infifusion.errors import RunError
from infifusion.progress.follow import follow
from infifusion.process.bar import progress_bar
from infifusion.process.runtime import log, set_up_logging
stop_on_signals()
set_up_logging()
folder, fails = pathlib.Path(sys.argv[1]), len(sys.argv) > 2
with exit_statuses(), follow(folder, name="r", steps=["distill/x"], command="c") as followed:
    with followed.step("distill/x", made=False), progress_bar("distill x", 30, "steps") as meter:
        for step in range(30):
            time.sleep(0.1)
            meter.tokens += 100
            meter.advance()
            meter.lose(3 - step / 10)
            if step == 10:
                log.info("a line [of] the run :smile:")
            if step == 20 and fails:
                raise RunError("it broke; mend it")
print("the end")
"""


def test_the_live_view_shows_the_run_and_survives_a_resize(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", WORKS, str(tmp_path)]
    status, said = in_terminal(arguments, narrow_after=2.5)
    assert status == 0, said
    assert "stage 1 of 1: distill x" in said and "tokens/s" in said and "loss 3 " in said
    assert "GB free on the disk" in said and "\x1b[?25h" in said  # the cursor comes back
    assert "a line [of] the run :smile:" in said and said.rstrip().endswith("the end")


def test_an_error_ends_the_live_view_with_its_message(tmp_path: Path) -> None:
    status, said = in_terminal([sys.executable, "-c", WORKS, str(tmp_path), "fails"])
    assert status == 1 and "Error: it broke; mend it" in said.split("\x1b[?25h")[-1]
    assert "Traceback" not in said


@pytest.mark.parametrize("variable", ["NO_COLOR", "CI"])
def test_plain_lines_where_a_terminal_is_not_to_be_drawn_on(tmp_path: Path, variable: str) -> None:
    arguments = [sys.executable, "-c", WORKS, str(tmp_path)]
    status, said = in_terminal(arguments, **{variable: "1"})
    assert status == 0 and "\x1b" not in said
    assert said.split("\r\n")[:2] == ["[1/1] distill/x", "a line [of] the run :smile:"]


def test_a_whole_run_is_shown_live_logged_and_watched(
    suite: Path, make_recipe, tmp_path: Path
) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    scored = {"models": ["pivot", "sft"]}
    values = make_recipe(suite, distill={"sft": {}}, fuse={}, merge={}, evaluate=scored)
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    status, said = in_terminal(command("run", recipe, "--run-dir", out))
    assert status == 0, said
    assert "[2/4] distill/sft" in said and "stage 1 of 4: prepare" in said
    state = read_state(out)
    assert state.status == "done" and all(step.status == "done" for step in state.steps)
    by_name = {step.name: step for step in state.steps}
    # One loss a step, as logging_steps: 1 says.
    history = json.loads((out / "distill/sft/history.json").read_text(encoding="utf-8"))
    assert by_name["distill/sft"].curve == pytest.approx(
        [line["loss"] for line in history["log"]], rel=1e-4
    )
    assert all(step.expected is not None for step in state.steps)
    assert "evaluate sft" in (out / "log.txt").read_text(encoding="utf-8")
    shown = subprocess.run(command("watch", out), capture_output=True, text=True)
    assert shown.returncode == 0 and "4 of 4 stages done" in shown.stdout
    # Again: everything is there, nothing is announced anew, and times are kept.
    again = subprocess.run(command("run", recipe, "--run-dir", out), capture_output=True, text=True)
    assert again.returncode == 0 and "[2/4]" not in again.stderr
    assert {s.name: s.curve for s in read_state(out).steps} == {
        name: step.curve for name, step in by_name.items()
    }


def test_the_time_left_falls_while_a_long_step_goes_on() -> None:
    """20 of 100 s planned are done in 40 s: 160 s to go, less the time since the last advance."""
    now = time.time()
    work = Work("t", 20, 100, "steps", 40.0, 0.5, None, None, [])

    def left(since: float) -> float | None:
        step = Step("distill/sft", "running", 40.0 + since, expected=100.0)
        return state_with(steps=[step], current=0, work=work, updated=now, moved=now - since).left()

    assert left(0.0) == pytest.approx(160.0)
    assert left(30.0) == pytest.approx(130.0)
    assert left(500.0) == 0.0


def test_a_bar_is_full_when_its_work_is_done() -> None:
    with progress_bar("teach a", 100, "tokens") as meter:
        meter.advance(46)  # the rest of the total was left out
    assert Work.of(meter).share == 1.0
    with pytest.raises(ValueError), progress_bar("teach a", 100, "tokens") as meter:
        meter.advance(46)
        raise ValueError
    assert meter.done == 46
