"""A small sweep from the command line: what it makes, shares, resumes and says."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from test_whole_run import command

from infifusion.evals.statistics import mcnemar_exact
from infifusion.progress.state import read_state
from infifusion.store.lock import claim, release_claims
from infifusion.store.records import read_json

SETTINGS = {"max_steps": [2, 4]}


@pytest.fixture(scope="module")
def swept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep in out/, its file beside it: two settings, two seeds, three arms."""
    suite = request.getfixturevalue("suite")
    make = request.getfixturevalue("make_recipe")
    folder = tmp_path_factory.mktemp("sweep")
    recipe = make(
        suite,
        fuse={"pair": {"function": "mean", "each": True, "gate": "bits_per_byte"}},
        distill={"sft": {}, "pair": {"target": "pair", "each": True}},
        merge={"merged": {"method": ["linear", "rsaf"], "models": ["pair"]}},
        evaluate={
            "tasks": ["demo_word"],
            "tasks_from": "infifusion.demo.tasks:TASKS",
            "data": str(folder / "tasks"),
            "max_new_tokens": 4,
        },
    )
    recipe["data"]["validation_share"] = 0.0
    recipe["training"]["max_steps"] = SETTINGS["max_steps"]
    values = {"name": "small", "recipe": recipe, "seeds": [0, 1]}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    items = [{"id": f"i{n}", "prompt": "Ben", "response": "1 #### 1", "answer": "1"}
             for n in range(6)]  # fmt: skip
    (folder / "tasks").mkdir()
    text = "".join(json.dumps(item) + "\n" for item in items)
    (folder / "tasks" / "demo_word.jsonl").write_text(text, encoding="utf-8")
    assert run(folder).exit_code == 0
    return folder


def run(folder: Path, *more: object):
    """The command; errors as exit codes."""
    return command("sweep", folder / "sweep.yaml", "--run-dir", folder / "out", "--jobs", 2, *more)


def test_every_arm_is_scored_with_every_setting_and_seed(swept: Path) -> None:
    results = read_json(swept / "out" / "results.json")
    assert results["arms"] == ["pivot", "sft", "merged,method=linear", "merged,method=rsaf"]
    assert list(results["settings"]) == ["max_steps=2", "max_steps=4"]
    assert len(results["cells"]) == 2 * 2 * 4 and results["missing"] == []
    for cell in results["cells"]:
        place = swept / "out" / cell["setting"] / f"seed{cell['seed']}" / "evaluate" / cell["arm"]
        scores = read_json(place / "scores.json")
        assert cell["bits"] == scores["bits_per_byte"]
        assert cell["accuracy"]["demo_word"] == 100 * scores["scores"]["demo_word"]["accuracy"]
    by_arm = {(c["setting"], c["arm"], c["seed"]): c for c in results["cells"]}
    assert by_arm["max_steps=2", "pivot", 0]["flops"] == 0
    merged = by_arm["max_steps=2", "merged,method=linear", 0]
    twice = by_arm["max_steps=4", "merged,method=linear", 0]
    assert merged["flops"] < twice["flops"], "twice the steps, the same teacher passes"
    assert merged["seconds"] > merged["training_seconds"] > 0


def test_means_and_comparisons_are_those_of_the_cells(swept: Path) -> None:
    results = read_json(swept / "out" / "results.json")
    row = next(r for r in results["rows"]
               if (r["setting"], r["arm"]) == ("max_steps=4", "merged,method=rsaf"))  # fmt: skip
    bits = {
        (c["arm"], c["seed"]): c["bits"]["sums"]
        for c in results["cells"]
        if c["setting"] == "max_steps=4"
    }
    differences = [bits[row["arm"], seed] - bits["sft", seed] for seed in (0, 1)]
    mean, error = row["against"]["sft"]["bits"]
    assert mean == pytest.approx(sum(differences) / 2)
    assert error == pytest.approx(abs(differences[0] - differences[1]) / 2)
    items = [i for i in results["items"] if i["setting"] == "max_steps=4"]
    pairs = [p for i in items
             for p in zip(i["correct"]["sft"], i["correct"][row["arm"]], strict=True)]  # fmt: skip
    assert len(pairs) == 12
    gained, lost = pairs.count(("0", "1")), pairs.count(("1", "0"))
    test = row["against"]["sft"]
    assert (test["gained"], test["lost"], test["n"]) == (gained, lost, 12)
    assert test["p_value"] == mcnemar_exact(gained, lost) <= test["p_holm"]


def test_a_sweep_can_be_watched(swept: Path) -> None:
    state = read_state(swept / "out")
    assert state.name == "small" and [step.name for step in state.steps] == ["sweep"]
    assert (state.status, state.steps[0].status) == ("done", "done")
    watched = command("watch", swept / "out")
    assert watched.exit_code == 0 and "small: done" in watched.stdout
    said = (swept / "out" / "log.txt").read_text(encoding="utf-8")
    assert "begin: infifusion" in said and "distill sft: 2 steps" in said  # parent and workers


def test_no_teacher_pass_is_made_twice(swept: Path) -> None:
    # No validation share: both settings of a seed, and both seeds, see the same examples.
    assert len(list((swept / "out" / "shared").glob("teach-*"))) == 4  # a, b, c and the pivot
    assert (swept / "out" / "max_steps=4" / "seed1" / "teach" / "a").is_symlink()


def test_a_training_run_that_settings_have_in_common_is_made_and_scored_once(
    swept: Path, tmp_path: Path
) -> None:
    recipe = yaml.safe_load((swept / "sweep.yaml").read_text(encoding="utf-8"))["recipe"]
    recipe["teach"]["top_k"] = [3, 5]
    recipe["training"]["max_steps"] = 2
    one = {"sources": ["a"], "gate": "none"}
    recipe["fuse"] = {
        "all": {"function": "mean", "gate": "none"},
        "mean_of_one": {"function": "mean", **one},
        "best_of_one": {"function": "min_ce", **one},
    }
    recipe["distill"] = {
        "sft": {},
        "unified": {"target": "all"},
        "again": {"target": "all"},
        "mean": {"target": "mean_of_one"},
        "best": {"target": "best_of_one"},
    }
    recipe["merge"] = {}
    values = {"name": "top_k", "recipe": recipe, "seeds": [0]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    assert run(tmp_path).exit_code == 0
    made = [path.name for path in (tmp_path / "out" / "shared").iterdir()]
    counts = Counter(name.rsplit("-", 1)[0] for name in made)
    assert counts["distill"] == 1 + 2 + 2  # sft, and for each top_k two runs under two names each
    assert counts["evaluate"] == 1 + 2 + 2 + 1  # and the pivot
    cells = read_json(tmp_path / "out" / "results.json")["cells"]
    bits = {(cell["setting"], cell["arm"]): cell["bits"] for cell in cells}
    assert bits["top_k=3", "sft"] == bits["top_k=5", "sft"]
    assert bits["top_k=3", "unified"] == bits["top_k=3", "again"]


def test_what_another_sweep_makes_is_waited_for(swept: Path) -> None:
    """Here another process holds the place of a score for some seconds."""
    place = (swept / "out" / "max_steps=2" / "seed0" / "evaluate" / "pivot").resolve()
    shutil.rmtree(place)
    script = "import sys, time; from pathlib import Path; from infifusion.store.lock import claim\n"
    script += f"claim(Path({str(place)!r})); print('claimed', flush=True); time.sleep(8)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        assert run(swept).exit_code == 0
        assert other.poll() is not None, "it did not wait"
    assert (place / "manifest.json").exists()


def test_a_place_that_another_process_makes_is_left_alone_by_a_run_by_itself(swept: Path) -> None:
    one_run = swept / "out" / "max_steps=2" / "seed1"
    place = (one_run / "evaluate" / "pivot").resolve()
    shutil.rmtree(place)
    claim(place)
    script = "import sys; from pathlib import Path; from infifusion.store.lock import claim\n"
    script += f"claim(Path({str(place)!r}))"
    try:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert "is being made by another process. Wait until it is done." in done.stderr
    finally:
        release_claims()
    # By itself the run makes what its link leads to.
    assert command("run", one_run / "recipe.yaml", "--run-dir", one_run).exit_code == 0
    assert (place / "manifest.json").exists()


def test_a_setting_is_a_run_of_its_own(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished stage was computed again")

    for name in ("teach.teacher_of", "distill.train", "merge.merge_checkpoints"):
        monkeypatch.setattr(f"infifusion.stages.{name}", refuse)
    one_run = swept / "out" / "max_steps=2" / "seed1"
    assert command("run", one_run / "recipe.yaml", "--run-dir", one_run).exit_code == 0
    assert "merged,method=linear" in (one_run / "report/index.html").read_text(encoding="utf-8")


def test_tables_and_page_hold_every_arm(swept: Path) -> None:
    out = swept / "out"
    with (out / "results.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    results = read_json(out / "results.json")
    for row in results["rows"]:
        found = [line for line in lines
                 if (line["setting"], line["arm"]) == (row["setting"], row["arm"])]  # fmt: skip
        bits = next(line for line in found if line["figure"] == "bits mean")
        assert float(bits["value"]) == row["mean_bits"][0]
        if row["arm"] == "merged,method=rsaf":
            accuracy = next(line for line in found if line["figure"] == "accuracy mean")
            assert float(accuracy["difference"]) == row["against"]["sft"]["difference"]
    text = (out / "results.md").read_text(encoding="utf-8")
    page = (out / "results.html").read_text(encoding="utf-8")
    for arm in results["arms"]:
        assert text.count(f"| {arm} |") == 2 and arm in page
    assert page.count("<svg") == 4 and "://" not in page.replace("http://www.w3.org", "")


def test_a_second_sweep_makes_what_is_missing_alone_and_names_what_failed(
    swept: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(swept, folder, symlinks=True)
    one_run = folder / "out" / "max_steps=2" / "seed0"
    (one_run / "distill" / "sft").unlink()  # a link to what the other seeds and settings share
    shutil.rmtree(one_run / "merge" / "merged,method=linear")
    shutil.rmtree(one_run / "evaluate" / "merged,method=linear")
    (one_run / "distill" / "sft").write_text("in the way", encoding="utf-8")
    models = list((folder / "out").glob("*/*/distill/*/model/model.safetensors"))
    assert len(models) == 2 * 2 * 4 - 1
    before = {path: path.stat().st_mtime_ns for path in models}
    result = run(folder)
    assert result.exit_code == 1
    assert {path: path.stat().st_mtime_ns for path in models} == before
    message = str(result.exception)
    assert "max_steps=2/seed0: distill/sft: " in message
    assert "evaluate/sft: needs distill/sft, which failed" in message
    assert (one_run / "evaluate" / "merged,method=linear" / "manifest.json").exists()


def test_a_dry_run_says_what_would_be_compared_and_writes_nothing(
    swept: Path, tmp_path: Path
) -> None:
    shutil.copy(swept / "sweep.yaml", tmp_path)
    result = run(tmp_path, "--dry-run")
    assert result.exit_code == 0 and not (tmp_path / "out").exists()
    assert "max_steps=4/seed1: pivot, sft, merged,method=linear" in result.output
