"""summary.json, the tables made of it and the model card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from rich.console import Console
from run_folder_maker import DOMAINS, RIGHT, SOURCES, TASKS, make_run_folder

from infifusion.report.card import write_model_card
from infifusion.report.page import write_report
from infifusion.report.summary import summarise
from infifusion.report.table import console_table, markdown_table


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


def card(folder: Path, name: str, method: str, summary: dict | None) -> tuple[dict, str]:
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
        base_model=f"{home}/suite/pivot",
        sources={"coder": f"{home}/suite/coder", "hub": "org/model"},
        method=method,
    )
    text = (folder / "README.md").read_text(encoding="utf-8")
    return yaml.safe_load(text.split("---\n")[1]), text


def test_the_card_of_a_merge_has_the_front_matter_the_hub_reads(run: Path, tmp_path: Path) -> None:
    summary = summarise(run)
    front, text = card(tmp_path, "pairwise", "rsaf", summary)
    assert front["base_model"] == "pivot"
    assert front["base_model_relation"] == "merge"
    assert front["library_name"] == "transformers"
    assert {"merge", "infifusion", "rsaf"} <= set(front["tags"])
    results = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert results is not None
    found = {(r.dataset_type, r.metric_type): r.metric_value for r in results}
    for task in TASKS:
        score = summary["models"]["pairwise"]["scores"][task]
        assert found[task, "accuracy"] == score["accuracy"]
    assert len(found) == len(TASKS) + len(DOMAINS)
    assert "2501.02795" in text and "our reconstruction" in text


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
