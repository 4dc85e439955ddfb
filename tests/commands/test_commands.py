"""The command line as a user meets it: outputs that are contracts, exit statuses, messages."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import byte_level_tokenizer, tiny_model, write_jsonl
from safetensors.torch import load_file, save_file


def infifusion(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "infifusion", *(str(a) for a in arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.fixture
def recipe(suite: Path, make_recipe, tmp_path: Path):
    """Writes a recipe with some keys replaced and returns its path."""

    def write(**changes: object) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(make_recipe(suite, **changes)), encoding="utf-8")
        return path

    return write


def test_help_is_fast_and_imports_no_torch() -> None:
    started = time.monotonic()
    found = infifusion("--help")
    # Half a second on an idle machine; this bound only catches an import of torch (seconds).
    assert found.returncode == 0 and time.monotonic() - started < 5
    code = "import sys, infifusion.commands.cli, infifusion.recipe; print('torch' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.stdout.strip() == "False"
    for name in ("run", "demo", "plan", "merge", "align", "evaluate", "report", "check", "list"):
        assert f"  {name} " in found.stdout


def test_version_is_printed() -> None:
    assert infifusion("--version").stdout.startswith("infifusion 0.")


def test_align_prints_one_json_object_with_the_promised_keys(suite: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Ben has 5 coins and buys 2 more. 🙂\r\n", encoding="utf-8")
    same = infifusion(
        "align", "--source", suite / "pivot", "--pivot", suite / "pivot", "--text", text, "--json"
    )
    found = json.loads(same.stdout)
    assert set(found) == {
        "pivot_positions",
        "aligned_positions",
        "aligned_share",
        "vocabulary",
        "worst_tokens",
        "tokens_per_second",
    }
    assert found["aligned_share"] == 1.0 and found["worst_tokens"] == []
    # All but the special token map by equal bytes.
    assert found["vocabulary"] == {"same_bytes": 1.0, "first_token": 0.0, "unmapped": 0.0}
    other = infifusion(
        "align", "--source", suite / "b", "--pivot", suite / "a", "--text", text, "--json"
    )
    found = json.loads(other.stdout)
    assert 0 < found["aligned_positions"] < found["pivot_positions"]
    missed = sum(w["unaligned"] for w in found["worst_tokens"])
    assert missed == found["pivot_positions"] - found["aligned_positions"]


def test_align_counts_by_hand(tmp_path: Path) -> None:
    # Without merges every byte is a token; merged once, "ab" is one token.
    single, merged = byte_level_tokenizer(257, ["a"]), byte_level_tokenizer(258, ["abababab"] * 9)
    for name, tokenizer in (("single", single), ("merged", merged)):
        tokenizer.save_pretrained(tmp_path / name)
    write_jsonl(tmp_path / "t.jsonl", [{"x": "ab ab"}, {"x": "a"}])
    found = infifusion(
        "align",
        "--source",
        tmp_path / "merged",
        "--pivot",
        tmp_path / "single",
        "--text",
        tmp_path / "t.jsonl",
        "--field",
        "x",
        "--json",
    )
    values = json.loads(found.stdout)
    # Pivot: a b _ a b | a = 6 positions; source boundaries at a, _, a | a = 4; both b unaligned.
    assert (values["pivot_positions"], values["aligned_positions"]) == (6, 4)
    assert values["worst_tokens"][0]["token"] == "b" and values["worst_tokens"][0]["unaligned"] == 2


def broken_model(suite: Path, place: Path, change) -> Path:
    """A copy of the pivot with its tensors changed by `change`."""
    shutil.copytree(suite / "pivot", place)
    tensors = load_file(place / "model.safetensors")
    change(tensors)
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    return place


def put_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"][0] = torch.nan


def source(path: Path) -> dict:
    return {"sources": {"a": {"model": str(path)}}}


def no_model(suite: Path, place: Path) -> dict:
    return source(place / "gone")


def no_fast_tokenizer(suite: Path, place: Path) -> dict:
    shutil.copytree(suite / "pivot", place)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (place / name).unlink()
    return source(place)


def lower_casing(suite: Path, place: Path) -> dict:
    shutil.copytree(suite / "pivot", place)
    values = json.loads((place / "tokenizer.json").read_text(encoding="utf-8"))
    values["normalizer"] = {"type": "Lowercase"}
    (place / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    return source(place)


def empty_data(suite: Path, place: Path) -> dict:
    place.mkdir()
    (place / "e.jsonl").touch()
    return {"data": {"train": [{"path": str(place / "e.jsonl"), "domain": "d"}]}}


def all_too_long(suite: Path, place: Path) -> dict:
    train = {"path": str(suite / "train.jsonl"), "domain": "d"}
    return {"data": {"train": [train], "max_length": 8}}


def nan_weights(suite: Path, place: Path) -> dict:
    return source(broken_model(suite, place, put_nan))


def truncated(suite: Path, place: Path) -> dict:
    shutil.copytree(suite / "pivot", place)
    path = place / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return source(place)


def foreign_tokenizer(suite: Path, place: Path) -> dict:
    tiny_model("llama", 40, seed=0).save_pretrained(place)
    byte_level_tokenizer(320).save_pretrained(place)
    return source(place)


def unknown_key(suite: Path, place: Path) -> dict:
    return {"teach": {"top_kk": 5}}


BAD = {
    unknown_key: "teach.top_kk: there is no such key. Did you mean 'top_k'",
    no_model: "there is no model folder",
    no_fast_tokenizer: "No tokenizer could be loaded",
    lower_casing: "do not tile the text",
    empty_data: "holds no examples",
    all_too_long: "longer than data.max_length",
    nan_weights: "model.norm.weight holds NaN",
    truncated: "is no whole safetensors file",
    foreign_tokenizer: "embeds only 40 tokens",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_input_exits_2_with_a_paragraph_and_no_traceback(
    make, recipe, suite: Path, tmp_path: Path
) -> None:
    changes = make(suite, tmp_path / "bad")
    if "sources" in changes:
        changes |= {"fuse": {}, "distill": {}, "merge": {}}
        changes["fuse"] = {"unified": {}}
    found = infifusion("run", recipe(**changes), "--run-dir", tmp_path / "out")
    assert found.returncode == 2, found.stderr
    assert BAD[make] in found.stderr and "Traceback" not in found.stderr
    assert not list((tmp_path / "out").rglob("manifest.json")) or make is nan_weights
    assert not (tmp_path / "out" / "teach" / "a" / "manifest.json").exists()
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_check_and_plan_name_the_run_with_the_same_settings(recipe) -> None:
    path, words = recipe(), ["--set", "training.run_name=a b", "--set", "seed=3"]
    found = infifusion("check", path, *words)
    assert found.stdout.endswith(
        f"Next: infifusion run {path} --set 'training.run_name=a b' --set seed=3\n"
    )
    found = infifusion("plan", path, *words[2:], "--run-dir", "elsewhere")
    assert found.stdout.endswith(f"Next: infifusion run {path} --run-dir elsewhere --set seed=3\n")


def test_a_run_shorter_than_logging_steps_has_a_curve_all_the_same(recipe, tmp_path: Path) -> None:
    path = recipe(distill={"sft": {}}, fuse={}, merge={}, training={"max_steps": 2})
    found = infifusion("run", path, "--run-dir", tmp_path / "out", "--until", "distill")
    assert found.returncode == 0, found.stderr
    assert "distill sft: 2 steps, last loss " in found.stderr and "nan" not in found.stderr
    assert "distill.sft: only 2 optimizer steps on" in found.stderr
    assert "Stopped after distill. The same command without --until goes on." in found.stderr


def test_evaluate_refuses_an_unknown_task_and_a_missing_model(suite: Path, tmp_path: Path) -> None:
    found = infifusion("evaluate", suite / "pivot", "--tasks", "gsm9k", "--data", tmp_path)
    assert found.returncode == 2 and "Did you mean 'gsm8k'" in found.stderr
    found = infifusion("evaluate", tmp_path / "gone", "--tasks", "gsm8k", "--data", tmp_path)
    assert found.returncode == 2 and "gone" in found.stderr


def test_evaluate_scores_bits_per_byte_of_two_models_as_json(suite: Path, tmp_path: Path) -> None:
    record = {"question": "Ben has 5 coins.", "answer": "5+2=7\n#### 7"}
    write_jsonl(tmp_path / "gsm8k_test.jsonl", [record] * 2)
    found = infifusion(
        "evaluate",
        suite / "pivot",
        suite / "b",
        "--tasks",
        "bits_per_byte",
        "--data",
        tmp_path,
        "--json",
    )
    models = json.loads(found.stdout)["models"]
    assert set(models) == {"pivot", "b"}
    for model in models.values():
        assert 1 < model["bits_per_byte"]["gsm8k"] < 12


def test_evaluate_takes_tasks_of_a_table_of_the_users(suite: Path, tmp_path: Path) -> None:
    record = {"id": "one", "prompt": "Ben has 5 coins.", "response": "#### 7", "answer": "7"}
    write_jsonl(tmp_path / "demo_word.jsonl", [record, {**record, "id": "two"}])
    tasks = ["--tasks-from", "infifusion.demo.tasks:TASKS", "--tasks"]
    data = ["--data", tmp_path, "--json"]
    found = infifusion("evaluate", suite / "a", *tasks, "demo_word,bits_per_byte", *data)
    assert found.returncode == 0, found.stderr
    model = json.loads(found.stdout)["models"]["a"]
    assert model["scores"]["demo_word"]["n"] == 2
    assert 1 < model["bits_per_byte"]["demo_word"] < 12
    found = infifusion("evaluate", suite / "a", *tasks, "demo_wrd", *data)
    assert found.returncode == 2 and "Did you mean 'demo_word'" in found.stderr


def test_the_report_of_no_run_is_refused(tmp_path: Path) -> None:
    found = infifusion("report", tmp_path)
    assert found.returncode == 2 and "Traceback" not in found.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_go_on_and_does(recipe, tmp_path: Path, number: int) -> None:
    path = recipe(
        training={"max_steps": 100_000, "per_device_train_batch_size": 4}, fuse={}, merge={},
        distill={"sft": {}},
    )  # fmt: skip
    out = tmp_path / "out"
    command = [sys.executable, "-m", "infifusion", "run", str(path), "--run-dir", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (out / "distill" / "sft").exists() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(1.0)
    second = infifusion("run", path, "--run-dir", out)
    assert second.returncode == 2 and f"in use by process {process.pid}" in second.stderr
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Stopped. What was finished is kept." in said and "Traceback" not in said
    assert not (out / ".lock").exists() and not (out / "distill/sft/manifest.json").exists()
    assert (out / "prepare" / "manifest.json").exists()


def test_a_full_disk_is_said_with_what_is_free(recipe, tmp_path: Path) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from infifusion.commands.cli import main; sys.argv[0] = 'infifusion'; main()"
    )
    out = tmp_path / "out"
    found = subprocess.run(
        [sys.executable, "-c", code, "run", str(recipe()), "--run-dir", str(out)],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1, found.stderr
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: File too large") and "bytes are free on the disk of" in last
    assert not list(out.glob("**/*.tmp")) and not (out / "summary.json").exists()
    # With room it goes on, and what was finished before is kept.
    assert (out / "prepare" / "manifest.json").exists()
    assert infifusion("run", recipe(), "--run-dir", out).returncode == 0
