"""summary.json, the tables made of it and the model card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from rich.console import Console
from run_folder_maker import DOMAINS, RIGHT, SOURCES, TASKS, make_run_folder

from infifusion.report.card import hub_name, write_model_card
from infifusion.report.pages.page import write_report
from infifusion.report.summary import summarise
from infifusion.report.table import console_table, figures_of, markdown_table


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run_folder(tmp_path_factory.mktemp("run"))


SMALL = {
    "models": {
        "pivot": {
            "path": "p",
            "scores": {"sums": {"n": 300, "correct": 150, "accuracy": 0.5, "ci95": [0.44, 0.56]}},
            "bits_per_byte": {"a|b": 1.25},
        },
        "source:x": {"path": "x", "scores": {}, "bits_per_byte": {}},
    },
    "comparisons": [],
    "stages": {},
    "versions": {},
}


def test_the_summary_has_the_shape_of_the_contract(run: Path) -> None:
    summary = summarise(run)
    assert set(summary) == {"models", "comparisons", "stages", "versions"}
    members = [f"pair-{source}" for source in SOURCES]
    assert list(summary["models"]) == [*RIGHT, *members], "the plan's order, members last"
    for name in RIGHT:
        model = summary["models"][name]
        assert set(model) == {"path", "scores", "bits_per_byte"}
        assert set(model["scores"]) == set(TASKS)
        assert set(model["bits_per_byte"]) == set(DOMAINS)
        for score in model["scores"].values():
            assert set(score) == {"n", "correct", "accuracy", "ci95"}
    wanted = {"a", "b", "task", "difference", "ci95", "p_value", "gained", "lost"}
    assert len(summary["comparisons"]) == 15
    assert all(set(pair) == wanted for pair in summary["comparisons"])


def test_the_summary_has_seconds_and_counts_of_every_stage(run: Path) -> None:
    stages = summarise(run)["stages"]
    # 1 prepare, 4 teach, 4 fuse, 5 distill, 1 merge, 10 evaluate
    assert len(stages) == 25
    assert stages["prepare"]["seconds"] == 12.5
    assert stages["prepare"]["left_out"]["duplicate"] == 7
    assert stages["evaluate/source:coder"]["held_out"] == 900
    assert stages["distill/unified"]["steps"] == 450


def test_the_summary_file_is_what_summarise_returns(run: Path) -> None:
    write_report(run)
    assert json.loads((run / "summary.json").read_text(encoding="utf-8")) == summarise(run)


def test_the_table_shows_accuracy_with_half_its_interval() -> None:
    # half of 0.56 - 0.44 is 0.06, in per cent 6.0
    assert markdown_table(SMALL) == (
        "| model | sums (%) | a\\|b (bits) |\n"
        "| --- | ---: | ---: |\n"
        "| pivot | 50.0 ± 6.0 | 1.250 |\n"
        "| source:x | – | – |\n"
    )
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(console_table(SMALL))
    printed = console.export_text()
    assert "50.0±6.0" in printed and "1.250" in printed and "source:x" in printed


def card(
    folder: Path, name: str, method: str, summary: dict | None, base: str = "org/pivot-1"
) -> tuple[dict, str]:
    home = str(Path.home())
    write_model_card(
        folder,
        name=name,
        recipe={
            "name": "demo",
            "pivot": {"model": f"{home}/suite/pivot"},
            "data": {"train": [{"path": "/srv/secret/train.jsonl", "prompt": "Q: {q}\n/A"}]},
        },
        summary=summary,
        base_model=base,
        sources={"coder": f"{home}/suite/coder", "hub": "org/model"},
        method=method,
        data=["/srv/secret/train.jsonl", "org/data", "org/data"],
        task_data={TASKS[0]: ("org/task", "test")},
    )
    text = (folder / "README.md").read_text(encoding="utf-8")
    return yaml.safe_load(text.split("---\n")[1]), text


def test_the_card_of_a_merge_has_the_front_matter_the_hub_reads(run: Path, tmp_path: Path) -> None:
    summary = summarise(run)
    front, text = card(tmp_path, "pairwise", "rsaf", summary)
    assert front["base_model"] == "org/pivot-1"
    assert front["base_model_relation"] == "merge"
    assert front["library_name"] == "transformers"
    assert front["datasets"] == ["org/data"], "local files are no data sets of the hub"
    assert front["license"] == "unknown"
    assert {"merge", "infifusion", "rsaf"} <= set(front["tags"])
    loaded = ModelCard.load(tmp_path / "README.md")
    assert isinstance(loaded.data, ModelCardData) and loaded.data.model_name == "pairwise"
    results = loaded.data.eval_results
    assert results is not None
    names = {"org/task": TASKS[0]}
    found = {(names.get(r.dataset_type, r.dataset_type), r.metric_type): r for r in results}
    for task in TASKS:
        score = summary["models"]["pairwise"]["scores"][task]
        assert found[task, "accuracy"].metric_value == score["accuracy"]
    assert found[TASKS[0], "accuracy"].dataset_split == "test"
    assert len(found) == len(TASKS) + len(DOMAINS)
    assert "2501.02795" in text and "our reconstruction" in text


def test_the_front_matter_of_a_card_survives_reading_and_writing(run: Path, tmp_path: Path) -> None:
    front, _ = card(tmp_path, "pairwise", "rsaf", summarise(run))
    loaded = ModelCard.load(tmp_path / "README.md")
    loaded.save(tmp_path / "again.md")
    assert yaml.safe_load((tmp_path / "again.md").read_text().split("---\n")[1]) == front


def test_a_pivot_that_is_not_on_the_hub_is_no_base_model_there(tmp_path: Path) -> None:
    front, text = card(tmp_path, "pairwise", "rsaf", None, base="/home/someone/pivot")
    assert "base_model" not in front and "base_model_relation" not in front
    assert "from the pivot **pivot**" in text


def test_the_recipe_lies_beside_the_card_without_folders(tmp_path: Path) -> None:
    card(tmp_path, "pairwise", "rsaf", None)
    recipe = yaml.safe_load((tmp_path / "infifusion_recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["pivot"]["model"] == "pivot"
    assert recipe["data"]["train"][0] == {"path": "train.jsonl", "prompt": "Q: {q}\n/A"}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("org/model", "org/model"),
        ("org/model@main+org/adapter", "org/model"),
        ("gpt2", "gpt2"),
        ("/data/model", None),
        ("./model", None),
        ("~/model", None),
        ("a/b/c", None),
        ("tests", None),
    ],
)
def test_only_a_name_of_the_hub_is_a_hub_name(
    name: str, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub_name(name) == found


def test_a_distilled_model_is_a_finetune_and_no_merge(run: Path, tmp_path: Path) -> None:
    front, text = card(tmp_path, "unified", "unified", summarise(run))
    assert front["base_model_relation"] == "finetune"
    assert "merge" not in front["tags"]
    assert "mixed into one target" in text


def test_no_local_path_reaches_the_card(run: Path, tmp_path: Path) -> None:
    _, text = card(tmp_path, "pairwise", "rsaf", summarise(run))
    for leak in (str(Path.home()), "/srv", "/home", str(tmp_path), "suite/"):
        assert leak not in text
    assert "train.jsonl" in text and "org/model" in text
    assert "/A" in text, "a prompt template is not a path"


def test_a_card_without_scores_says_so(tmp_path: Path) -> None:
    front, text = card(tmp_path, "pairwise", "ties", None)
    assert "model-index" not in front
    assert "was not scored" in text


def test_the_card_of_a_model_without_a_chat_template_says_how_prompts_were_written(
    tmp_path: Path,
) -> None:
    recipe = {"data": {"plain_template": "Q: {prompt}\nA: {response}"}}
    card = written_card(tmp_path, recipe)
    assert r"`'Q: {prompt}\nA: {response}'`" in card and "no chat template" in card
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert "no chat template" not in written_card(tmp_path, recipe)


def written_card(folder: Path, recipe: dict) -> str:
    write_model_card(
        folder, name="m", recipe=recipe, summary=None, base_model="org/p", sources={}, method="sft"
    )
    return (folder / "README.md").read_text(encoding="utf-8")


def test_every_figure_of_a_task_stands_in_the_table_of_figures() -> None:
    score = {
        "n": 4, "accuracy": 0.375, "ci95": [0.1, 0.7], "headline": "same", "truncated": 0.5,
        "metrics": {"same": 0.375, "strict": 0.25}, "samples": 2,
        "pass@k": {"1": {"value": 0.375, "ci95": [0.1, 0.7]},
                   "2": {"value": 0.5, "ci95": [0.2, 0.8]}},
        "lm_eval": {"exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": 0.1},
    }  # fmt: skip
    assert figures_of(score) == [
        ("same (headline)", "37.5±30.0"),
        ("strict", "25.0"),
        ("pass@1", "37.5±30.0"),
        ("pass@2", "50.0±30.0"),
        ("lm-eval exact_match,strict-match", "25.00"),
        ("cut off", "12.5"),
    ]
    old = {"n": 2, "accuracy": 0.5, "ci95": [0.1, 0.9], "truncated": 1}
    assert figures_of(old) == [("accuracy (headline)", "50.0±40.0"), ("cut off", "50.0")]
