"""`infifusion plan`: its bytes against a run's files, its errors, and that it stays light."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from infifusion.errors import CheckpointError, DataError, RecipeError, TokenizerError
from infifusion.estimate.calibration import read_calibration, write_calibration
from infifusion.estimate.costs.case import SPREAD
from infifusion.estimate.costs.rates import CPU_UNITS
from infifusion.estimate.costs.work import UNITS, Work
from infifusion.estimate.plan import plan_recipe
from infifusion.estimate.tokens import given_sizes
from infifusion.recipe import load_recipe
from infifusion.setup.calibrate import fit, probe, solve
from infifusion.stages.run import run_recipe

PAPER = Path(__file__).parents[2] / "recipes" / "paper.yaml"
SHAPES = ["pivot=8b-llama", "math=7b-qwen2", "code=7b-qwen2", "chat=7b-mistral"]


@pytest.fixture(autouse=True)
def no_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of this machine's user are not the tests'."""
    monkeypatch.setenv("INFIFUSION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))


@pytest.fixture
def recipe_file(suite: Path, make_recipe, tmp_path: Path):
    def write(**changes: object) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(make_recipe(suite, **changes)), encoding="utf-8")
        return path

    return write


def planned(path: Path, run_dir: Path = Path("absent"), **changes) -> dict:
    values = {"device": "cpu", "count": 1, "nodes": 1, "given": None, "shapes": []}
    return plan_recipe(load_recipe(path), run_dir=run_dir, **{**values, **changes})


def test_bytes_are_those_that_a_run_writes(recipe_file, tmp_path: Path) -> None:
    path, run = recipe_file(), tmp_path / "run"
    before = planned(path, run)
    run_recipe(load_recipe(path), run, until="merge", recipe_file=path, command="test")
    after = planned(path, run)
    assert any("counted in" in note for note in after["notes"])
    for plan in (before, after):
        rows = {(row["stage"], row["name"]): row for row in plan["rows"]}
        for name in (*"abc", "pivot"):
            written = sum(f.stat().st_size for f in (run / "teach" / name).glob("*.safetensors"))
            # Exactly, once the positions are known; the split of a sample is rounded before.
            tolerance = 1e-3 if plan is after else 0.02
            assert rows["teach", name]["bytes"] == pytest.approx(written, rel=tolerance)
        for name in ("unified", "pair-a"):
            written = sum(f.stat().st_size for f in (run / "fuse" / name).glob("*.npy"))
            assert rows["fuse", name]["bytes"] == pytest.approx(written, rel=0.02)
        for place in ("distill/sft", "distill/pair-b", "merge/pairwise"):
            # The card and the recipe beside the weights, some kB, are no part of a plan.
            model = [f for f in (run / place / "model").iterdir() if f.name not in CARD]
            written = sum(f.stat().st_size for f in model)
            details = run / place / "merge_details.json"  # beside the weights, and once more here
            written += details.stat().st_size if details.exists() else 0
            found = rows[tuple(place.split("/"))]["bytes"]
            assert found == pytest.approx(written, rel=0.02), place


CARD = ("README.md", "infifusion_recipe.yaml")
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ eos_token }}{% endgeneration %}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize("template", [None, CHAT])
def test_a_sample_counts_the_tokens_that_prepare_does(
    suite: Path, recipe_file, tmp_path: Path, template: str | None
) -> None:
    pivot = {"model": str(suite / "pivot"), "chat_template": template}
    path, run = recipe_file(pivot=pivot), tmp_path / "run"
    before = {r["stage"]: r for r in planned(path, run)["rows"] if r["stage"] == "prepare"}
    run_recipe(load_recipe(path), run, until="prepare", recipe_file=path, command="test")
    after = {r["stage"]: r for r in planned(path, run)["rows"] if r["stage"] == "prepare"}
    assert before["prepare"]["tokens"] == pytest.approx(after["prepare"]["tokens"], rel=0.005)


def test_what_is_not_counted_of_written_answers_is_said(recipe_file, tmp_path: Path) -> None:
    prompts = [{"path": "prompts.jsonl", "domain": "sums"}]
    notes = planned(recipe_file(write_responses={"prompts": prompts}))["notes"]
    said = "write_responses: writing the answers is not counted, nor are the examples"
    assert any(note.startswith(said) for note in notes)


def test_examples_beyond_the_window_of_any_model_are_not_counted(
    suite: Path, recipe_file, tmp_path: Path
) -> None:
    source = tmp_path / "short"
    shutil.copytree(suite / "b", source)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    key = "n_positions" if "n_positions" in config else "max_position_embeddings"

    def prepared(window: int) -> float:
        (source / "config.json").write_text(json.dumps({**config, key: window}), encoding="utf-8")
        path = recipe_file(sources={"b": {"model": str(source)}}, fuse={}, distill={}, merge={})
        plan = planned(path, tmp_path / "run")
        return next(row["tokens"] for row in plan["rows"] if row["stage"] == "prepare")

    # Of 40 examples 33 to 38 tokens long, 22 have at most 36 (with the end of the turn).
    whole, cut = prepared(1024), prepared(36)
    assert 0.4 * whole < cut < 0.65 * whole
    path = tmp_path / "recipe.yaml"
    run_recipe(
        load_recipe(path), tmp_path / "run", until="prepare", recipe_file=path, command="test"
    )
    assert cut == pytest.approx(prepared(36), rel=0.01)  # now counted in what was prepared


def test_the_papers_case_is_planned_without_data_or_hub() -> None:
    found = planned(
        PAPER,
        device="h200",
        count=8,
        given=given_sizes(130_000, 600, 450),
        shapes=SHAPES,
    )
    rows = {(row["stage"], row["name"]): row for row in found["rows"]}
    positions = 0.99 * 130_000 * 450  # 1 % of the examples are kept apart
    assert rows["teach", "math"]["bytes"] == pytest.approx(positions * 63, rel=1e-3)
    # About 2 FLOPs per parameter and token, embedding and attention apart.
    assert rows["teach", "math"]["flops"] == pytest.approx(2 * 7.6e9 * 78e6, rel=0.15)
    # 8 FLOPs per parameter and token with gradient checkpointing; four examples of 0 to 1,200
    # tokens are padded to 4/5 of 1,200 on average, 1.6 times their mean.
    assert rows["distill", "unified"]["flops"] == pytest.approx(8 * 7.5e9 * 1.6 * 78e6, rel=0.1)
    assert rows["distill", "unified"]["bytes"] == pytest.approx(16.06e9, rel=0.01)
    assert found["fits"] and found["total"]["seconds"] > 3600
    assert found["teacher"]["cheaper"] in ("cached", "online")


def test_more_machines_take_less_time_where_a_stage_spreads() -> None:
    sizes = {"given": given_sizes(130_000, 600, 450), "shapes": SHAPES, "device": "h200"}

    def seconds(**changes) -> dict[str, float]:
        rows = planned(PAPER, **sizes, **changes)["rows"]
        return {stage: sum(r["seconds"] for r in rows if r["stage"] == stage) for stage in SPREAD}

    one, many = seconds(count=8), seconds(count=8, nodes=4)
    assert all(many[stage] < one[stage] / 2 for stage in SPREAD)


def test_what_does_not_fit_is_said_with_what_to_do() -> None:
    found = planned(PAPER, device="rtx4090", given=given_sizes(1000, 600, None), shapes=SHAPES)
    assert not found["fits"]
    assert any("DOES NOT FIT: distill" in n and "parallel: fsdp" in n for n in found["notes"])


def test_more_epochs_make_a_cached_teacher_pay(recipe_file) -> None:
    def teacher(epochs: int) -> dict:
        training = {"num_train_epochs": epochs, "per_device_train_batch_size": 4}
        return planned(recipe_file(training=training))["teacher"]

    one, five = teacher(1), teacher(5)
    assert five["cached_flops"] == one["cached_flops"]
    # unified has three sources; each of three pairs one, and the pivot for its gate.
    assert (one["passes"], five["passes"]) == (3 + 3 * 2, 5 * 9)
    assert five["online_seconds"] > one["online_seconds"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"device": "h20"}, RecipeError, "no device 'h20'.*Did you mean 'h200'"),
        ({"count": 0}, RecipeError, "--count is 0"),
        ({"nodes": -1}, RecipeError, "--nodes is -1"),
        ({"count": 2}, RecipeError, "--device cpu --count.*--nodes"),
        ({"shapes": ["a"]}, RecipeError, "NAME=SHAPE"),
        ({"shapes": ["d=8b-llama"]}, RecipeError, "no model 'd'"),
        ({"shapes": ["a=8b-lama"]}, RecipeError, "Did you mean '8b-llama'"),
    ],
)
def test_bad_options_are_refused(recipe_file, changes: dict, error, message: str) -> None:
    with pytest.raises(error, match=message):
        planned(recipe_file(), **changes)


def test_sizes_must_fit_together() -> None:
    with pytest.raises(RecipeError, match="together"):
        given_sizes(10, None, None)
    with pytest.raises(RecipeError, match="--response-tokens"):
        given_sizes(10, 20, 20)
    assert given_sizes(None, None, None) is None


def test_a_folder_without_config_is_refused_by_name(recipe_file, tmp_path: Path) -> None:
    path = recipe_file(sources={"a": {"model": str(tmp_path)}}, fuse={}, distill={}, merge={})
    with pytest.raises(CheckpointError, match=r"^a: .*holds no config.json"):
        planned(path)


def test_a_hub_model_offline_gets_a_way_out(recipe_file, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    changes = {"sources": {"a": {"model": "org/model"}}, "fuse": {}, "distill": {}, "merge": {}}
    with pytest.raises(CheckpointError, match="a: 'org/model'.*--shape a=8b-llama"):
        planned(recipe_file(**changes))
    with pytest.raises(TokenizerError, match="a: there is no .*tokenizer.json"):
        planned(recipe_file(**changes), shapes=["a=8b-llama"])


def test_a_hub_data_set_needs_its_size(recipe_file) -> None:
    data = {"train": [{"path": "org/data", "domain": "x"}]}
    with pytest.raises(DataError, match="org/data.*--examples"):
        planned(recipe_file(data=data))


def test_rates_are_found_again_from_the_seconds_that_they_make() -> None:
    true = {"teach": 0.7, "forward_call": 4e-3, "teach_logit": 3e-8}
    rows = []
    for calls, logits in ((1, 1e6), (100, 1e6), (1, 1e8), (50, 5e7), (200, 1e7)):
        units = {"teach": 1, "forward_call": calls, "teach_logit": logits}
        work = Work({("forward", 32): 1e9}, units)
        rows.append((work, 1e9 / 1e10 + sum(true[u] * c for u, c in units.items())))
    found, error = solve(rows, {"start": 9.0}, [(32, 1e10)])
    assert error < 0.01 and found["start"] == 9.0
    for unit, seconds in true.items():
        assert found[unit] == pytest.approx(seconds, rel=0.05)
    # What the rows say nothing about keeps its default.
    assert found["merge_number"] == pytest.approx(CPU_UNITS["merge_number"])


@pytest.mark.slow
def test_the_probe_of_a_machine_explains_its_own_seconds(tmp_path: Path) -> None:
    probe(tmp_path, ["cold"])
    found = fit(tmp_path)
    assert found["units"].keys() == UNITS.keys()
    assert all(seconds >= 0 for seconds in found["units"].values())
    assert (
        0 <= found["median_error"] < float("inf")
    )  # how well it fits is benchmarks/plan_vs_run.py
    assert 1e8 < found["base_memory"] < 4e9
    write_calibration(found)
    assert read_calibration() is not None


def test_a_calibration_is_kept_and_its_age_said(recipe_file) -> None:
    assert read_calibration() is None
    assert any("NOT of this one" in note for note in planned(recipe_file())["notes"])
    units = {unit: 2 * seconds for unit, seconds in CPU_UNITS.items()}
    write_calibration({"units": units, "matmul": [(8, 1e9)], "base_memory": 5e8, "threads": 2})
    assert any("measured on this machine just now" in n for n in planned(recipe_file())["notes"])


def test_a_calibration_lies_in_the_cache_folder_and_an_older_place_is_read_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"units": {}, "matmul": [(8, 1e9)], "base_memory": 5e8}
    monkeypatch.delenv("INFIFUSION_CACHE")
    before = write_calibration({**values, "threads": 1})
    assert before == tmp_path / "user" / "infifusion" / "calibration.json"
    monkeypatch.setenv("INFIFUSION_CACHE", str(tmp_path / "cache"))
    assert (read_calibration() or {})["threads"] == 1
    now = write_calibration({**values, "threads": 2})
    assert now == tmp_path / "cache" / "calibration.json"
    assert (read_calibration() or {})["threads"] == 2


def test_the_command_prints_a_table_or_json_and_imports_no_torch(
    recipe_file, tmp_path: Path
) -> None:
    code = (
        "import sys; sys.argv = ['infifusion', 'plan', *sys.argv[1:]]\n"
        "from infifusion.commands.cli import app\n"
        "app(standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'datasets'} & sys.modules.keys()\n"
    )
    path = str(recipe_file())
    run = [sys.executable, "-c", code, path]
    table = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path)
    assert table.returncode == 0, table.stderr
    assert "checkpoints" in table.stdout and f"Next: infifusion run {path}" in table.stdout
    found = subprocess.run([*run, "--json"], capture_output=True, text=True, cwd=tmp_path)
    values = json.loads(found.stdout)
    assert {row["stage"] for row in values["rows"]} == {
        "prepare",
        "teach",
        "fuse",
        "distill",
        "merge",
        "evaluate",
        "around",
    }
    assert all(math.isfinite(row["seconds"]) and row["seconds"] > 0 for row in values["rows"])
