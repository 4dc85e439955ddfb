"""The pages of results: complete, in agreement with one another, filled in by evidence.py."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ANSWERS = ROOT / "docs" / "results.md"
PAGES = sorted((ROOT / "docs" / "results").glob("*.md"))
FIGURE = re.compile(r"\d+\.\d+(?: ± \d+\.\d+)?")


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("evidence")


def test_every_sweep_has_a_page_of_its_own_with_its_command(evidence) -> None:
    files = {path.stem for path in (ROOT / "benchmarks" / "evidence").glob("*.yaml")} - {"micro"}
    assert files == set(evidence.SWEEPS) and len(files) >= 13
    for name in evidence.SWEEPS:
        text = (ROOT / "docs" / "results" / f"{name}.md").read_text(encoding="utf-8")
        assert f"benchmarks/evidence.py --only {name}" in text
        assert {found[3] for found in evidence.MARKER.finditer(text)} == {name}


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "results" / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| \[[^]]+\]\((\w+\.md)\)", index, re.MULTILINE))
    assert listed == {page.name for page in PAGES} - {"index.md"} and len(listed) >= 15


def test_every_plot_that_a_page_shows_is_there_and_every_plot_is_shown() -> None:
    shown = set()
    for page in PAGES:
        for name in re.findall(r"\]\(plots/([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / "plots" / name).is_file(), f"{page.name}: {name}"
            shown.add(name)
    # A sweep without tables shows its accuracy alone; its plots in bits are for other documents.
    left = {path.name for path in (ROOT / "docs" / "results" / "plots").iterdir()} - shown
    assert len(shown) >= 60 and all(name.endswith("-bits.svg") for name in left), left


def test_the_page_of_answers_is_short_and_every_figure_of_it_stands_on_another_page() -> None:
    text = ANSWERS.read_text(encoding="utf-8")
    words = re.sub(r"\]\([^)]*\)|<!--.*?-->|[|*`#]", " ", text).split()
    assert 900 <= sum(any(map(str.isalnum, word)) for word in words) <= 1400
    assert len(re.findall(r"^\| ---", text, re.MULTILINE)) <= 3
    others = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    figures = set(FIGURE.findall(text.replace("`gold_weight: 0.5`", "")))
    assert len(figures) >= 60
    known = set(FIGURE.findall(others)) | set(re.findall(r"\d+\.\d+", others))
    assert not figures - known


def row(arm: str, difference: float | None) -> dict:
    against = {}
    if difference is not None:
        sure = {"difference": difference, "error": 0.5, "ci95": [1.0, 3.0], "p_holm": 0.01}
        against = {"sft": {**sure, "bits": [-0.02, 0.005], "bits_by_domain": {}}}
    return {
        "setting": "labelled=30",
        "arm": arm,
        "seeds": [7],
        "accuracy": {"sums": [50.0, 1.0]},
        "mean_accuracy": [50.0, 1.0],
        "bits": {},
        "mean_bits": [0.5, 0.01],
        "seconds": 9.0,
        "training_seconds": 4.0,
        "flops": 1e9,
        "against": against,
    }


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder of evidence in which one sweep, `few_labels`, was run."""
    arms = {"pivot": -9.0, "sft": None, "answers": 2.0, "unified": 3.0}
    results = {
        "name": "few_labels",
        "seeds": [7],
        "settings": {"labelled=30": {}},
        "arms": list(arms),
        "against": ["sft"],
        "tasks": ["sums"],
        "rows": [row(arm, difference) for arm, difference in arms.items()],
    }
    path = tmp_path / "work" / "sweeps" / "few_labels" / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(results), encoding="utf-8")
    return tmp_path / "work"


def test_tables_are_filled_in_on_all_pages_beside_the_one_that_is_named(
    evidence, work: Path, tmp_path: Path
) -> None:
    shutil.copy(ANSWERS, tmp_path)
    shutil.copytree(ANSWERS.parent / "results", tmp_path / "results")
    here = {page: page.read_bytes() for page in (ANSWERS, *PAGES)}

    evidence.rebuild(tmp_path / "results.md", work)

    answers = (tmp_path / "results.md").read_text(encoding="utf-8")
    head = "| setting | sft | answers minus sft | unified minus sft |\n"
    line = "| labelled=30 | 50.0 ± 1.0 | **+2.0 ± 0.5** | **+3.0 ± 0.5** |\n"
    assert head in answers and f"{line}\nSeeds 7.\n\n<!-- end -->" in answers
    page = (tmp_path / "results" / "few_labels.md").read_text(encoding="utf-8")
    assert "| labelled=30 | 50.0 ± 1.0 | **-9.0 ± 0.5** | **+2.0 ± 0.5** | **+3.0 ± 0.5** |" in page
    assert "Seeds 7. ![few_labels-0-sft-accuracy](plots/few_labels-0-sft-accuracy.svg)" in page
    assert (tmp_path / "results" / "plots" / "few_labels-0-sft-bits.svg").read_text() != ""
    # Pages of sweeps that were not run stay as they are, and so does the documentation itself.
    for other in PAGES:
        if other.name != "few_labels.md":
            assert (tmp_path / "results" / other.name).read_bytes() == here[other]
    assert here == {page: page.read_bytes() for page in here}


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ("summary: few_labels | sft | answer", "no arm of few_labels called 'answer'"),
        ("summary: few_labels | gold", "no arm of few_labels called 'gold'"),
        ("table: few_labels | labelled=3", "no setting of few_labels called 'labelled=3'"),
    ],
)
def test_a_marker_that_fits_nothing_is_refused_with_the_known_names(
    evidence, work: Path, tmp_path: Path, marker: str, words: str
) -> None:
    page = tmp_path / "answers.md"
    page.write_text(f"<!-- {marker} -->\n<!-- end -->\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=f"{words}; known: "):
        evidence.rebuild(page, work)
    assert page.read_text(encoding="utf-8") == f"<!-- {marker} -->\n<!-- end -->\n"
