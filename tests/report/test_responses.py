"""The report's section on prompts without answers: its figures are those of the manifests."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folder_maker import ATTACK, make_run_folder, write

from infifusion.report.pages.page import write_report
from infifusion.report.pages.responses import responses_view
from infifusion.report.run_folder import read_run

COUNTS = {
    "prompts": {"code": 50, "sums": 200},
    "won": {"arithmetician": {"sums": 150}, "coder": {"code": 40, "sums": 20}},
    "dropped": {"no_agreement": {"sums": 30}, "no_test_passed": {"code": 10}},
    "no_part": {"arithmetician": {}, "coder": {"unfinished": 12}},
    "left_out": {"empty_prompt": 0, "duplicate_prompt": 3},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = make_run_folder(tmp_path)
    write(
        folder / "choose" / "manifest.json",
        {"fingerprint": {}, "counts": COUNTS, "seconds": 2.0, "files": {}},
    )
    answers = [
        {"source": "arithmetician", "sample": 0, "entropy_per_byte": 0.125, "bytes": 9,
         "no_part": "", "vote": "7", "response": f"#### 7 {ATTACK}"},
        {"source": "coder", "sample": 0, "entropy_per_byte": None, "bytes": 0,
         "no_part": "empty", "vote": None, "response": ""},
    ]  # fmt: skip
    sample = {"id": "sums/0", "domain": "sums", "prompt": "5 and 2?", "why": "", "sample": 0,
              "winner": "arithmetician", "answers": answers}  # fmt: skip
    write(folder / "choose" / "samples.json", {"samples": [sample]})
    write(
        folder / "respond" / "coder" / "manifest.json",
        {
            "fingerprint": {},
            "counts": {"answers": 250, "tokens": 999, "entropy_per_byte": {"code": 0.0625}},
            "seconds": 9.0,
            "files": {},
        },
    )
    return folder


def test_rows_add_up_to_the_prompts_of_a_domain(run: Path) -> None:
    view = responses_view(read_run(run))
    assert view is not None
    # code: 0 + 40 won, 10 dropped of 50; sums: 150 + 20 won, 30 dropped of 200.
    assert [(r["domain"], r["prompts"], r["won"], r["dropped"]) for r in view["rows"]] == [
        ("code", 50, [0, 40], 10),
        ("sums", 200, [150, 20], 30),
    ]
    assert view["rows"][1]["why"] == {"no agreement": 30}
    assert all(r["prompts"] == sum(r["won"]) + r["dropped"] for r in view["rows"])
    assert [w["no_part"] for w in view["writers"]] == [{}, {"unfinished": 12}]
    assert view["writers"][1]["entropy"] == {"code": 0.0625}
    kept, other = view["samples"][0]["answers"]
    assert (kept["outcome"], kept["won"]) == ("kept", True)
    assert (other["outcome"], other["won"]) == ("empty", False)


def test_the_page_shows_them_and_escapes_what_models_wrote(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert "Who answered the prompts without answers" in page
    # 150 of 200 and 40 of 50.
    assert "75.0 %" in page and "80.0 %" in page
    assert "prompts dropped: no test passed" in page
    assert "answers of coder that ran out of room before they ended" in page
    assert ATTACK not in page and "#### 7 &lt;script&gt;" in page
    assert page.index("respond/coder") < page.index("teach/coder")


def test_a_run_without_prompts_has_no_such_section(tmp_path: Path) -> None:
    page = write_report(make_run_folder(tmp_path)).read_text(encoding="utf-8")
    assert "Who answered" not in page and "#responses" not in page
