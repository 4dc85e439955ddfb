"""The page: what it says is what the JSON says, nothing in it runs or loads."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from page_reader import Page
from run_folder_maker import ATTACK, DOMAINS, RIGHT, TASKS, make_run_folder, write

from infifusion.errors import ArtifactError
from infifusion.report.pages.page import write_report
from infifusion.report.words import outcome, p_value, verdicts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run_folder(tmp_path_factory.mktemp("run"))
    assert write_report(folder) == folder / "report" / "index.html"
    return folder


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return (run / "report" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_score_in_the_page_is_the_one_in_the_scores_file(run: Path, page: Page) -> None:
    for model in RIGHT:
        path = run / "evaluate" / model.replace(":", "__") / "scores.json"
        scores = json.loads(path.read_text())
        cells = next(row[1:] for row in page.rows if row[0] == model and " %" in row[1])
        assert len(cells) == len(TASKS)
        for cell, task in zip(cells, TASKS, strict=True):
            score = scores["scores"][task]
            low, high = score["ci95"]
            expected = f"{100 * score['accuracy']:.1f} % {100 * low:.1f} to {100 * high:.1f}"
            assert cell.strip() == expected


def test_every_metric_is_shown_beside_the_headline(run: Path, page: Page) -> None:
    scores = json.loads((run / "evaluate" / "sft" / "scores.json").read_text())["scores"]
    share = scores["demo_code"]["metrics"]["exact"]
    assert ["sft", "demo_code", "exact", f"exact {100 * share:.1f} %"] in page.rows


def test_bits_per_byte_and_their_change_from_the_pivot_are_shown(page: Page) -> None:
    # sums: unified 1.4 - 0.70 = 0.700, pivot 1.4 - 0.30 = 1.100, change -0.400
    rows = [row for row in page.rows if row and row[0] == "unified"]
    assert any(row[1].strip() == "0.700 (-0.400)" for row in rows)


def test_every_comparison_is_a_row_with_its_counts(run: Path, page: Page) -> None:
    pairs = json.loads((run / "evaluate" / "comparisons.json").read_text())["comparisons"]
    assert len(pairs) == 15
    for pair in pairs:
        row = page.row(pair["b"], pair["a"], pair["task"])
        points = f"{100 * pair['difference']:+.1f}".replace("-", "−")
        assert row[3] == points
        assert row[6:8] == [str(pair["gained"]), str(pair["lost"])]


def test_mean_weights_alignment_and_tensors_are_the_files(run: Path, page: Page) -> None:
    weights = json.loads((run / "fuse" / "unified" / "weights.json").read_text())
    for domain in DOMAINS:
        expected = [f"{weight:.3f}" for weight in weights["by_domain"][domain]]
        assert any(row[0] == domain and row[1:4] == expected for row in page.rows if row)
    row = page.row("coder", "unified")
    assert row[2] == "90.0 %"
    # 300 of 400 ids by the same bytes
    assert "same bytes 75.0 % (300)" in row[3]
    details = json.loads((run / "merge" / "pairwise" / "merge_details.json").read_text())
    layer_0 = [f"{tensor['ratio']:.3f}" for tensor in details["tensors"][:4]]
    assert ["0", *layer_0] in page.rows


def test_what_was_left_out_is_counted_in_the_page(page: Page) -> None:
    assert page.row("training examples that repeat another")[2] == "7"
    too_long = "examples longer than max_length or than a model's window"
    assert page.row(too_long, "prepare, tokens of pivot")[2] == "3"
    cut = "answers to demo_sums cut off at the length limit, judged as they are"
    assert page.row(cut, "pivot")[2] == "4"
    assert page.row("positions that no source taught", "fuse/unified")[2] == "500"


def test_headings_tables_and_charts_can_be_read_aloud(text: str, page: Page) -> None:
    tags = [name for name, _ in page.tags]
    assert tags.count("h1") == 1 and tags.count("main") == 1 and tags.count("nav") == 1
    levels = [int(name[1]) for name in tags if re.fullmatch("h[1-6]", name)]
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    assert tags.count("table") == tags.count("caption") > 20
    assert all("scope" in attributes for name, attributes in page.tags if name == "th")
    drawings = [attributes for name, attributes in page.tags if name == "svg"]
    assert len(drawings) > 10
    assert all(one["role"] == "img" and one["aria-label"] for one in drawings)
    assert tags.count("figure") == text.count("As a table")


def test_items_in_the_page_are_the_items_of_the_run(run: Path, page: Page) -> None:
    items = page.data("item-data")
    for pair in items["pairs"]:
        row = page.row(pair["b"], pair["a"], pair["task"])
        assert [str(pair["counts"][key]) for key in ("gained", "lost")] == row[6:8]
        assert sum(pair["counts"].values()) == 300
        for name in pair["shown"]["gained"]:
            answers = items["items"][pair["task"]][name]["answers"]
            assert answers[pair["b"]]["correct"] and not answers[pair["a"]]["correct"]
    one = items["items"]["demo_sums"]["demo_sums-0"]["answers"]["pivot"]["output"]
    first = (run / "evaluate" / "pivot" / "demo_sums.jsonl").read_text().splitlines()[0]
    assert one == json.loads(first)["output"]
    assert ATTACK in one, "the text itself is kept whole"


def test_a_long_output_says_how_much_of_it_is_left_out(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    path = folder / "evaluate" / "pivot" / "demo_sums.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["output"] = "x" * 2000
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    items = Page(write_report(folder).read_text()).data("item-data")
    shown = items["items"]["demo_sums"]["demo_sums-0"]["answers"]["pivot"]["output"]
    # 2000 characters, 750 kept at each end
    assert "500 characters left out" in shown
    assert shown.count("x") == 1500


@pytest.mark.parametrize("word", ["long ", "漢<"])
def test_long_texts_leave_the_page_small_and_every_pair_its_share(
    run: Path, tmp_path: Path, word: str
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    weights = json.loads((folder / "fuse" / "unified" / "weights.json").read_text())
    token = weights["examples"][0]["tokens"][1]
    for sample in weights["examples"]:
        sample["prompt"] = 2000 * word
        sample["tokens"] = [{**token, "text": f"{word}{n}"} for n in range(400)]
    write(folder / "fuse" / "unified" / "weights.json", weights)
    for path in (folder / "evaluate").glob("*/*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line["prompt"] = line["output"] = 2000 * word
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_report(folder)
    assert page.stat().st_size < 5_000_000
    items = Page(page.read_text()).data("item-data")
    assert len(items["pairs"]) == 15
    for pair in items["pairs"]:
        for kind, count in pair["counts"].items():
            assert bool(pair["shown"][kind]) == bool(count), (pair["a"], pair["b"], kind)


def pair(difference: float, p: float, task: str = "sums") -> dict[str, object]:
    return {"a": "sft", "b": "unified", "task": task, "difference": difference, "p_value": p}


def test_a_difference_with_p_of_a_twentieth_or_more_is_not_called_better() -> None:
    assert outcome(pair(0.2, 0.05)) == "unclear"
    assert outcome(pair(-0.2, 0.3)) == "unclear"
    assert outcome(pair(0.01, 0.0499)) == "better"
    assert outcome(pair(-0.01, 0.0499)) == "worse"
    assert outcome(pair(0.0, 0.001)) == "unclear"


def test_the_sentence_names_what_is_better_worse_and_unclear() -> None:
    pairs = [pair(0.081, 0.0001), pair(-0.03, 0.04, "boxed"), pair(0.05, 0.0502, "code")]
    assert verdicts(pairs) == [
        "Against sft, unified is better on sums (+8.1 points, p < 0.001), and is worse on boxed "
        "(−3.0 points, p = 0.040), and shows no clear difference on code (+5.0 points, "
        "p = 0.0502)."
    ]


def test_a_p_value_close_to_a_twentieth_shows_its_side() -> None:
    assert [p_value(p) for p in (0.0496, 0.0504, 0.2, 0.0002)] == [
        "p = 0.0496",
        "p = 0.0504",
        "p = 0.200",
        "p < 0.001",
    ]


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("merge", "Nothing was merged in this run."),
        ("fuse", "No target was fused in this run."),
        ("distill", "Nothing was trained in this run."),
        ("evaluate", "No task was run"),
        ("resolved.json", "its settings are not known"),
        ("evaluate/comparisons.json", "No pair of models was compared"),
        ("prepare", "Is the fused model better"),
    ],
)
def test_a_part_that_the_run_lacks_is_said_to_be_missing(
    run: Path, tmp_path: Path, gone: str, sentence: str
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    path = folder / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert sentence in write_report(folder).read_text(encoding="utf-8")


def test_models_without_tasks_are_still_shown_in_bits_per_byte(tmp_path: Path) -> None:
    for model, bits in (("pivot", 1.25), ("unified", 1.0)):
        write(
            tmp_path / "evaluate" / model / "scores.json",
            {"path": model, "scores": {}, "bits_per_byte": {"text": bits}, "seconds": 1.0},
        )
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    # 1.0 - 1.25 = -0.25
    assert page.row("unified")[1].strip() == "1.000 (-0.250)"
    text = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "unified needs fewer bits per byte than the pivot in 1 of 1 domains." in text


@pytest.mark.parametrize(
    "file",
    ["resolved.json", "evaluate/pivot/scores.json", "fuse/unified/weights.json"],
)
def test_a_damaged_file_is_an_error_and_leaves_the_old_page(
    run: Path, tmp_path: Path, file: str
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    before = (folder / "report" / "index.html").read_bytes()
    (folder / file).write_text('{"half": ')
    with pytest.raises(ArtifactError, match=re.escape(file)):
        write_report(folder)
    assert (folder / "report" / "index.html").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("fuse/unified/weights.json", "over_examples"),
        ("merge/pairwise/deltas.json", "models"),
        ("evaluate/pivot/scores.json", "bits_per_byte"),
    ],
)
def test_a_file_without_what_a_run_writes_is_an_error_of_the_run(
    run: Path, tmp_path: Path, file: str, key: str
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    values = json.loads((folder / file).read_text())
    del values[key]
    write(folder / file, values)
    with pytest.raises(ArtifactError, match="does not hold what a run writes"):
        write_report(folder)


def test_a_damaged_line_of_items_is_named_by_number(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    with (folder / "evaluate" / "sft" / "demo_sums.jsonl").open("a") as file:
        file.write('{"id": \n')
    with pytest.raises(ArtifactError, match="line 301"):
        write_report(folder)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a run folder"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_report_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, infifusion.report.pages.page, infifusion.report.card\n"
        "import infifusion.report.table\n"
        "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_same_run_gives_the_same_bytes(run: Path, text: str) -> None:
    assert write_report(run).read_text(encoding="utf-8") == text


def test_code_of_models_that_was_run_is_named(run: Path, tmp_path: Path, text: str) -> None:
    assert "trust_remote_code" not in text
    folder = shutil.copytree(run, tmp_path / "run")
    resolved = json.loads((folder / "resolved.json").read_text())
    write(folder / "resolved.json", {**resolved, "trust_remote_code": ["source:code"]})
    page = write_report(folder).read_text(encoding="utf-8")
    assert "Code that came with source:code was run" in page
