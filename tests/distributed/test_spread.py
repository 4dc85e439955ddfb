from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import arithmetic, write_jsonl

from infifusion.store.spread import my_part, wait_for


def launch(recipe: Path, out: Path, *, processes: int, until: str = "report") -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command = [
        sys.executable,
        *(launcher if processes > 1 else []),
        *("-m", "infifusion", "run", str(recipe), "--run-dir", str(out), "--until", until),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


def bytes_under(folder: Path) -> dict[str, bytes]:
    kinds = (".safetensors", ".npy", "weights.json")
    paths = sorted(p for p in folder.rglob("*") if p.name.endswith(kinds))
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


@pytest.mark.slow
def test_two_processes_write_the_cache_and_the_targets_that_one_does(
    suite: Path, make_recipe, tmp_path: Path
) -> None:
    training = {"max_steps": 2, "per_device_train_batch_size": 2}
    values = make_recipe(suite, training=training)
    values["teach"] = {"shard_examples": 30}
    values["sources"]["a"]["temperature"] = "fit"  # by the first process alone
    # More examples than one chunk of a target, and shards that do not divide evenly.
    values["data"]["train"][0]["path"] = str(tmp_path / "train.jsonl")
    write_jsonl(tmp_path / "train.jsonl", [arithmetic(n) for n in range(170)])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    launch(recipe, tmp_path / "one", processes=1, until="fuse")
    launch(recipe, tmp_path / "two", processes=2)
    for stage in ("teach", "fuse"):
        one, two = bytes_under(tmp_path / "one" / stage), bytes_under(tmp_path / "two" / stage)
        assert len(one) >= 6 and one.keys() == two.keys()
        assert all(one[name] == two[name] for name in one)
        for manifest in sorted((tmp_path / "one" / stage).rglob("manifest.json")):
            other = tmp_path / "two" / manifest.relative_to(tmp_path / "one")
            counts = [json.loads(path.read_text())["counts"] for path in (manifest, other)]
            assert counts[0] == counts[1]
    # Every model was scored in two parts, put together, and the report is there.
    assert (tmp_path / "two/report/index.html").exists()
    launch(recipe, tmp_path / "two", processes=1)  # nothing is left to do
    for scores in sorted((tmp_path / "two/evaluate").rglob("scores.json")):
        assert json.loads(scores.read_text())["bits_per_byte"]
        assert not (scores.parent / "parts").exists()


def test_every_item_is_one_processs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(my_part(range(8)))
    assert parts == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_waiting_ends_when_the_last_file_is_there(tmp_path: Path) -> None:
    import threading
    import time

    paths = [tmp_path / "a", tmp_path / "b"]
    paths[0].touch()
    timer = threading.Timer(0.5, paths[1].touch)
    timer.start()
    started = time.monotonic()
    wait_for(paths, "test")
    assert paths[1].exists() and time.monotonic() - started >= 0.4


def test_waiting_does_not_look_at_all_files_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher pass waits for a thousand shards of other processes, five looks a second."""
    paths = [tmp_path / str(n) for n in range(100)]
    looks, naps = [], []

    def nap(seconds: float) -> None:
        paths[len(naps)].touch()  # one more file with every look
        naps.append(seconds)

    def there(path: Path) -> bool:
        looks.append(path)
        return path.exists()

    monkeypatch.setattr("time.sleep", nap)
    wait_for(paths, "test", there=there)
    assert len(naps) == len(paths) and all(path.exists() for path in paths)
    assert len(looks) <= 2 * len(paths), "5,050 where every look is at all that are missing"


def test_parts_are_put_together_in_the_tasks_order(tmp_path: Path) -> None:
    from infifusion.data.lines import write_lines
    from infifusion.evals.harness import every_nth, merge_parts
    from infifusion.evals.tasks import TASKS

    places = [[0, 2, 5], [1, 3]]
    assert every_nth(places, (0, 2)) == [[0, 5], [3]]
    assert every_nth(places, (1, 2)) == [[2], [1]]
    task = TASKS["gsm8k"]
    items = [
        {
            "id": str(n),
            "correct": bool(n % 2),
            "invalid": False,
            "truncated": False,
            "too_long": False,
        }
        for n in range(5)
    ]
    folders = [tmp_path / "0", tmp_path / "1"]
    for number, folder in enumerate(folders):
        write_lines(folder / "gsm8k.jsonl", items[number::2])
    assert merge_parts(folders, tmp_path, task)["correct"] == 2
    found = [json.loads(line)["id"] for line in (tmp_path / "gsm8k.jsonl").open()]
    assert found == ["0", "1", "2", "3", "4"]
