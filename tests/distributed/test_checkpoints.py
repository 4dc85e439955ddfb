"""Which checkpoint several processes go on from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infifusion.store.receipts import hashes_of, sign
from infifusion.train.checkpoints import WHOLE

ASK = """
import sys
from pathlib import Path
import torch.distributed as dist
from infifusion.train.checkpoints import Checkpoints
dist.init_process_group("gloo")
found = Checkpoints(Path(sys.argv[1]), "mark", None).to_go_on_from()
Path(sys.argv[1], f"found-{dist.get_rank()}").write_text(str(found))
"""


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "weights").write_text(f"weights of step {step}")
    sign(path / WHOLE, hashes_of([path / "weights"], folder), mark="mark")
    return path


@pytest.mark.slow
def test_all_processes_go_on_from_the_one_that_the_first_finds_whole(tmp_path: Path) -> None:
    whole, damaged = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    (damaged / "weights").write_text("weights of stop 10")
    script = tmp_path / "ask.py"
    script.write_text(ASK)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / f"found-{rank}").read_text() for rank in (0, 1)] == [str(whole)] * 2
    assert not damaged.exists() and done.stderr.count("Made anew: whole") == 1
