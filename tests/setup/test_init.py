"""infifusion init: real templates, recipes that pass check, sizes that follow the machine."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import arithmetic, write_jsonl

from infifusion.errors import DataError, RecipeError
from infifusion.merge.engine.file import read_merge_file
from infifusion.recipe import Recipe, load_recipe
from infifusion.setup.init import Wishes, keys_of, write_recipe
from infifusion.setup.init_sizes import SHARE, _epochs, _like, _step_examples, sizes_for
from infifusion.setup.machine import Gpu, Machine
from infifusion.setup.templates import START, TEMPLATES, template_text, with_sections
from infifusion.stages.check import _name_problems, check_recipe

FOLDER = Path(__file__).parents[2] / "src" / "infifusion" / "setup" / "recipes"
SAID = Path("recipe.yaml")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "infifusion", *(str(a) for a in arguments)]


def test_every_template_is_listed_and_every_file_is_one() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {START, *TEMPLATES}
    assert len(TEMPLATES) == 7


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "merge-only"])
def test_every_template_is_a_recipe_whose_names_and_settings_fit(name: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "r.yaml"
    assert write_recipe(Wishes(template=name), out, force=False)[-1].startswith(f"Wrote {out}")
    assert out.read_text(encoding="utf-8") == template_text(name)  # comments and all
    recipe = load_recipe(out)
    assert _name_problems(recipe, recipe.resolve())[0] == []
    assert out.read_text(encoding="utf-8").startswith("#")


def test_the_merge_template_is_a_merge_file(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.yaml"
    models = {"a": str(suite / "a"), "b": str(suite / "b")}
    wishes = Wishes(template="merge-only", pivot=str(suite / "pivot"), sources=models)
    assert "infifusion merge" in write_recipe(wishes, out, force=False)[-1]
    file = read_merge_file(out, base_override=None)
    assert file.base_model == str(suite / "pivot") and file.merge_method == "rsaf"
    assert [one.model for one in file.models] == [str(suite / "a"), str(suite / "b")]
    with pytest.raises(RecipeError, match="leave out --train"):
        write_recipe(Wishes(template="merge-only", tasks=("gsm8k",)), out, force=True)


def test_the_papers_template_marks_what_is_unknown() -> None:
    text = template_text("paper")
    assert "Llama-3.1-8B" in text and text.count("UNKNOWN") >= 5
    linked = Path(__file__).parents[2] / "recipes" / "paper.yaml"
    assert linked.read_text(encoding="utf-8") == text


def test_a_recipe_of_own_models_passes_check_with_paths_from_its_folder(
    suite: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(suite)
    out = tmp_path / "deep" / "mine.yaml"
    wishes = Wishes(
        pivot="pivot", sources={"a": "./a", "b": str(suite / "b")},
        train=(("sums", "train.jsonl"),), held_out=(("sums", "held_out.jsonl"),),
        tasks=("gsm8k",),
    )  # fmt: skip
    said = write_recipe(wishes, out, force=False)
    assert said == [f"Wrote {out}. Next: infifusion check {out}"]
    recipe = load_recipe(out)
    assert Path(recipe.pivot.model).resolve() == (suite / "pivot").resolve()
    assert "2 sources" in check_recipe(recipe)
    assert recipe.name == "mine" and recipe.evaluate.tasks == ["gsm8k"]
    text = out.read_text(encoding="utf-8")
    assert all(len(line) <= 100 for line in text.splitlines() if line.startswith("#"))
    # The comments say why, and what init decided is in the recipe.
    assert "examples a step" in text and "the cache takes about" in text
    assert {"sft", "unified"} == set(recipe.distill) and recipe.teach.top_k == 10
    # A model this small is trained whole; 39 examples are taken one by one: twice 39 steps.
    assert recipe.training["per_device_train_batch_size"] == 1
    assert recipe.training["num_train_epochs"] == 2 and recipe.training["warmup_steps"] == 0.1
    assert "WARNING" not in check_recipe(recipe)
    assert recipe.distill["sft"].lora is None


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    out = tmp_path / "recipe.yaml"
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(RecipeError, match="--force"):
        write_recipe(Wishes(template="laptop"), out, force=False)
    assert out.read_text(encoding="utf-8") == "mine"
    write_recipe(Wishes(template="laptop"), out, force=True)
    assert load_recipe(out).name == "laptop"


def test_own_models_and_data_go_into_a_template(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.yaml"
    wishes = Wishes(template="pairwise-rsaf", pivot=str(suite / "pivot"),
                    sources={"x": str(suite / "a")},
                    train=(("sums", str(suite / "train.jsonl")),), tasks=("math500",))  # fmt: skip
    write_recipe(wishes, out, force=False)
    recipe = load_recipe(out)
    assert list(recipe.sources) == ["x"] and recipe.name == "pairwise-rsaf"
    assert [run.name for run in recipe.resolve().runs] == ["sft", "pair-x"]
    assert recipe.data.train[0].domain == "sums" and recipe.evaluate.tasks == ["math500"]
    assert "# RSAF's tau0" not in out.read_text(encoding="utf-8")  # went with its section
    assert "# One target per source" in out.read_text(encoding="utf-8")
    check_recipe(recipe)


def test_sections_are_replaced_whole_and_comments_stay() -> None:
    text = "# one\na: 1\n\n# two\nb:\n  c: 2\n  # inner\n  d: 3\n\n# three\ne: 4\n"
    found = with_sections(text, {"b": "b: {c: 5}", "z": "z: 6"})
    assert found == "# one\na: 1\n\n# two\nb: {c: 5}\n\n# three\ne: 4\n\nz: 6\n"
    assert yaml.safe_load(found) == {"a": 1, "b": {"c": 5}, "e": 4, "z": 6}


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        ({"question": "q", "answer": "a"}, {"prompt": "question", "response": "answer"}),
        # MATH's own columns: the worked solution, not the bare result.
        ({"id": "1", "problem": "q", "solution": "a", "answer": "7"},
         {"prompt": "problem", "response": "solution"}),
        ({"instruction": "do", "input": "", "response": "done"},
         {"prompt": "{instruction}\n\n{input}", "response": "response"}),
        ({"dialogue": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
         {"messages": "dialogue"}),
        ({"text": "# add", "code": "x", "task_id": 3}, {"prompt": "text", "response": "code"}),
    ],
)  # fmt: skip
def test_columns_of_no_format_are_written_by_their_names(record: dict, wanted: dict) -> None:
    assert keys_of(record, "f") == (wanted, "")


def test_a_known_format_is_left_to_be_recognised_and_named_in_a_comment() -> None:
    record = {"instruction": "do", "input": "", "output": "done"}
    assert keys_of(record, "f") == ({}, "alpaca (instruction, output, input)")


@pytest.mark.parametrize("record", [{"a": "x", "b": "y"}, {"text": "only one"}, {"prompt": 3}])
def test_columns_that_say_nothing_are_refused_by_name(record: dict) -> None:
    with pytest.raises(DataError, match=f"Columns: {', '.join(record)}"):
        keys_of(record, "data.jsonl")


def eight_billion() -> Recipe:
    """The start recipe over an 8 B pivot and hub data that nobody can look at here."""
    values = yaml.safe_load(template_text(START))
    values["pivot"] = {"model": "meta-llama/Llama-3.1-8B-Instruct"}
    values["sources"] = {"math": {"model": "Qwen/Qwen2.5-Math-7B"}}
    values["data"]["train"] = [{"path": "org/data", "domain": "math"}]
    return Recipe.from_mapping(values, where="here")


def machine(count: int, gigabytes: int) -> Machine:
    gpus = [Gpu("NVIDIA H100", gigabytes * 10**9, 0)] * count
    return Machine(16, 64 * 10**9, 60 * 10**9, tuple(gpus))


def test_sizes_follow_the_memory_of_the_machine() -> None:
    recipe = eight_billion()
    eight, one, little = (sizes_for(recipe, machine(*m)) for m in ((8, 80), (1, 141), (1, 24)))
    # 8 B parameters with AdamW in float32 take 128 GB: whole over eight devices, not on one.
    assert eight.fits and eight.distill["parallel"] == "fsdp" and "lora" not in eight.distill
    assert one.fits and one.distill["lora"] == {"r": 16, "alpha": 32}
    assert "parallel" not in one.distill and one.training["learning_rate"] == 1e-4
    # Float32 weights alone are 32 GB.
    assert not little.fits and little.training["per_device_train_batch_size"] == 1
    assert little.teach["batch_tokens"] < one.teach["batch_tokens"]
    for found, devices in ((eight, 8), (one, 1)):
        batch = found.training["per_device_train_batch_size"]
        assert devices * batch * found.training["gradient_accumulation_steps"] >= 32
    # 3 float32 tensors of loss_rows x 128,256 within a twentieth of 0.9 x 24 GB: 512 rows.
    assert 12 * 512 * 128256 <= SHARE * 24e9 / 20 < 12 * 1024 * 128256
    assert little.distill["loss_rows"] == 512
    assert any("could not be looked at" in note for note in one.notes)


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "8b-llama"),
        ("Qwen/Qwen2.5-Math-7B", "7b-qwen2"),
        ("Qwen/Qwen2.5-0.5B", "0.5b-qwen2"),
        ("org/some-14b-model", "14b-phi"),
        ("org/nameless", "8b-llama"),
    ],
)
def test_a_model_that_cannot_be_reached_is_sized_by_its_name(name: str, like: str) -> None:
    assert _like(name) == like


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--pivot, --source, --train missing"),
        (["--template", "laptpo"], "laptop"),
        (["--pivot", "./nowhere", "--source", "a=x", "--train", "d=x"], "no model folder"),
        (["--pivot", "p", "--source", "a", "--train", "d=x"], "NAME=MODEL"),
        (["--pivot", "p", "--source", "a=x", "--train", "d=./no.jsonl"], "no data file"),
        (
            ["--pivot", "p", "--source", "a=x", "--train", "no.csv"],
            "no.csv. Give the path of a .jsonl, .json, .parquet, .csv, .tsv, .jsonl.gz, "
            ".jsonl.bz2, .jsonl.zst file.\n",
        ),
        (["--template", "laptop", "--tasks", "gsm9k"], "--tasks: there is no task 'gsm9k'"),
        (["--template", "laptop", "--tasks", "bits_per_byte"], "always computed; leave it out"),
    ],
)
def test_a_wrong_wish_is_refused_with_what_to_do(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    found = subprocess.run(command("init", *arguments), capture_output=True, text=True,
                           cwd=tmp_path, stdin=subprocess.DEVNULL)  # fmt: skip
    assert found.returncode == 2 and said in found.stderr, found.stderr
    assert "Traceback" not in found.stderr and not list(tmp_path.iterdir())


def test_init_asks_on_a_terminal(suite: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "d.jsonl", [arithmetic(n) for n in range(8)])
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execve(sys.executable, command("init"), dict(os.environ))
    answers = [str(suite / "pivot"), f"a={suite / 'a'}", "", "sums=d.jsonl", "", "", ""]
    said = b""
    for answer in answers:
        while not said.rstrip().endswith(b":"):
            said += os.read(terminal, 1024)
        said = b""
        os.write(terminal, f"{answer}\n".encode())
        time.sleep(0.1)
        os.read(terminal, len(answer) + 2)  # the echo
    try:
        while piece := os.read(terminal, 1024):
            said += piece
    except OSError:
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, said
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert list(recipe.sources) == ["a"] and recipe.data.train[0].domain == "sums"


def test_templates_are_listed_by_name() -> None:
    found = subprocess.run(command("init", "--template", "list"), capture_output=True, text=True)
    assert [line.split()[0] for line in found.stdout.splitlines()] == list(TEMPLATES)
    told = subprocess.run(command("init", "--help"), capture_output=True, text=True).stdout
    assert all(name in " ".join(told.split()) for name in TEMPLATES)


def test_data_of_a_known_format_is_taken_as_it_is(suite: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    lines = [json.dumps({"messages": turns, "id": n}) for n in range(4)]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines), encoding="utf-8")
    wishes = Wishes(pivot=str(suite / "pivot"), sources={"a": str(suite / "a")},
                    train=(("chat", str(tmp_path / "chat.jsonl")),))  # fmt: skip
    write_recipe(wishes, tmp_path / "r.yaml", force=False)
    assert "# conversational (messages)" in (tmp_path / "r.yaml").read_text(encoding="utf-8")
    assert "user: q' -> 'a'" in check_recipe(load_recipe(tmp_path / "r.yaml"))


def test_a_file_name_that_is_no_name_of_a_run_still_gives_one(suite: Path, tmp_path: Path) -> None:
    wishes = Wishes(pivot=str(suite / "pivot"), sources={"a": str(suite / "a")},
                    train=(("sums", str(suite / "train.jsonl")),))  # fmt: skip
    write_recipe(wishes, tmp_path / "two roads.yaml", force=False)
    assert load_recipe(tmp_path / "two roads.yaml").name == "two-roads"


@pytest.mark.parametrize(
    ("examples", "a_step", "epochs"),
    # A step of 32 from 1,600 examples on: 2 x 1,600 / 32 = 100.
    [(10_000, 32, 2), (1600, 32, 2), (1000, 16, 2), (240, 4, 2), (12, 1, 3), (5, 1, 5)],
)
def test_few_examples_are_taken_in_smaller_steps(examples: int, a_step: int, epochs: int) -> None:
    assert _step_examples(examples) == a_step
    assert _epochs(examples, a_step) == epochs


def test_a_recipe_of_twelve_examples_has_steps_enough_to_learn(suite: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "d.jsonl", [arithmetic(n) for n in range(12)])
    out = tmp_path / "r.yaml"
    wishes = Wishes(pivot=str(suite / "pivot"), sources={"a": str(suite / "a")},
                    train=(("sums", str(tmp_path / "d.jsonl")),))  # fmt: skip
    write_recipe(wishes, out, force=False)
    recipe = load_recipe(out)
    assert "WARNING" not in check_recipe(recipe)
    assert recipe.training["logging_steps"] == 3  # a tenth of 36 steps
