"""A real vLLM server. Skipped where there is none: `make engines` installs and names one.

INFIFUSION_VLLM: the Python of an environment with vLLM. INFIFUSION_REAL_MODELS: a folder with
smollm2 and qwen05, as ../shared/models/fetch.py writes them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from conftest import SHARED, write_jsonl

from infifusion.data.store import load_rendered
from infifusion.recipe import load_recipe
from infifusion.stages.prepare import prepare
from infifusion.stages.teach import teach
from infifusion.store.folders import RunFolder
from infifusion.store.records import read_json
from infifusion.teacher.cache import BeliefReader
from infifusion.teacher.load import vocabulary_size

PYTHON = os.environ.get("INFIFUSION_VLLM", "")
MODELS = Path(os.environ.get("INFIFUSION_REAL_MODELS", SHARED / "models"))
EXAMPLES = 24
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="INFIFUSION_VLLM names no vLLM: make engines"),
    pytest.mark.skipif(
        not (MODELS / "smollm2" / "config.json").is_file(),
        reason=f"{MODELS} holds no smollm2: run ../shared/models/fetch.py",
    ),
]


@pytest.fixture
def recipe_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of two sources, each in a server of its own."""
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    records = [
        {"prompt": f"What is {a} times {b}?", "response": f"{a} times {b} is {a * b}, isn't it? 🙂"}
        for a, b in zip(range(3, 3 + EXAMPLES), range(31, 31 + EXAMPLES), strict=True)
    ]
    write_jsonl(tmp_path / "train.jsonl", records)
    write_jsonl(tmp_path / "held_out.jsonl", records[:4])
    python = str(Path(PYTHON).absolute())
    serve = f"{python} -m vllm.entrypoints.openai.api_server --model {{model}} --enforce-eager"
    serve += " --max-model-len 512 --dtype"

    def source(name: str, dtype: str) -> dict:
        return {
            "model": str(MODELS / name),
            "engine": {"kind": "vllm", "command": f"{serve} {dtype}"},
        }

    values = {
        "name": "real",
        "pivot": {"model": str(MODELS / "smollm2")},
        "sources": {"s": source("smollm2", "float32"), "q": source("qwen05", "bfloat16")},
        "data": {
            "train": [{"path": "train.jsonl", "domain": "sums"}],
            "held_out": [{"path": "held_out.jsonl", "domain": "sums"}],
            "max_length": 256,
        },
        "teach": {"top_k": 10, "shard_examples": 8},
        "fuse": {"unified": {"function": "uncertainty", "gate": "none"}},
        "training": {"max_steps": 2, "per_device_train_batch_size": 1, "learning_rate": 1e-5},
        "distill": {"unified": {"target": "unified"}},
        "evaluate": {"models": ["unified"], "tasks": []},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def read(recipe_file: Path, folder: RunFolder, name: str, *sets: str):
    recipe = load_recipe(recipe_file, sets)
    rendered = load_rendered(folder.rendered(name, "train"))
    size = vocabulary_size(recipe.sources[name])
    return BeliefReader(folder.teach(name), rendered.row_N1, 8, vocabulary=size).examples(
        0, len(rendered)
    )


def test_rows_in_float32_are_those_of_this_process(recipe_file: Path, tmp_path: Path) -> None:
    here, there = RunFolder(tmp_path / "here"), RunFolder(tmp_path / "there")
    sets = ["sources.s={model: %s, dtype: float32}" % (MODELS / "smollm2")]
    for folder, some in ((here, sets), (there, [])):
        recipe = load_recipe(recipe_file, some)
        prepare(recipe, folder)
        teach(recipe, folder, "s")
    mine, theirs = read(recipe_file, here, "s", *sets), read(recipe_file, there, "s")
    assert np.abs(mine.gold_U - theirs.gold_U).max() < 0.02
    same_U = (mine.ids_UK[:, :5] == theirs.ids_UK[:, :5]).all(axis=1)
    assert same_U.mean() >= 0.98
    print("gold", np.abs(mine.gold_U - theirs.gold_U).max(), "top 5 equal", same_U.mean())
    print("entropy: mean difference", np.abs(mine.entropy_U - theirs.entropy_U).mean())


def test_two_sources_through_two_servers_to_a_fused_model(
    recipe_file: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "infifusion", "run", str(recipe_file)]
    command += ["--run-dir", str(tmp_path / "run")]
    subprocess.run(command, check=True)
    assert (tmp_path / "run" / "distill" / "unified" / "model" / "model.safetensors").is_file()
    assert read_json(tmp_path / "run" / "teach" / "q" / "manifest.json")["counts"]["engine"]


def test_a_kill_of_ours_leaves_no_server_behind(recipe_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "infifusion", "run", str(recipe_file)]
    run = subprocess.Popen([*command, "--run-dir", str(tmp_path / "run")])
    end = time.monotonic() + 300
    servers: list[psutil.Process] = []
    while not servers and time.monotonic() < end:
        time.sleep(1)
        below = psutil.Process(run.pid).children(recursive=True)
        servers = [one for one in below if "vllm" in " ".join(one.cmdline())]
    assert servers
    time.sleep(5)
    servers = psutil.Process(run.pid).children(recursive=True)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    _, alive = psutil.wait_procs(servers, timeout=40)
    assert not alive
