"""Tokens, deltas and what can be used: the page's data say what the files say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from run_folder_maker import ATTACK, SOURCES, make_run_folder, write

from infifusion.report.pages.alignment import worst_tokens_view
from infifusion.report.pages.deltas import deltas_view
from infifusion.report.pages.tokens import SAMPLES_PER_TARGET, tokens_view
from infifusion.report.run_folder import Run, read_run
from infifusion.report.use import EXAMPLE, use_view


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(make_run_folder(tmp_path_factory.mktemp("run")))


def test_the_tokens_in_the_page_are_those_of_the_target(run: Run) -> None:
    view = tokens_view(run)
    assert view is not None
    assert view["sources"] == list(SOURCES)
    words = view["words"]
    assert len(set(words)) == len(words)
    (target,) = view["targets"]
    assert target["name"] == "unified" and target["sources"] == [0, 1, 2]
    given = run.weights["unified"]["examples"]
    assert [sample["id"] for sample in target["samples"]] == [s["id"] for s in given]
    for token, wanted in zip(target["samples"][0]["tokens"], given[0]["tokens"], strict=True):
        word, weights, entropies, gold, guesses, fused = token
        assert words[word] == wanted["text"]
        assert (weights, entropies, gold) == (wanted["weights"], wanted["entropy"], wanted["gold"])
        read = [one and [[words[w], share] for w, share in one] for one in guesses]
        assert read == wanted["top"]
        assert (fused and [[words[w], share] for w, share in fused]) == wanted["target"]


def test_targets_of_one_source_are_shown_token_by_token_where_there_are_no_others(
    tmp_path: Path,
) -> None:
    run = read_run(make_run_folder(tmp_path))
    run.weights.pop("unified")
    view = tokens_view(run)
    assert view is not None
    assert [target["name"] for target in view["targets"]] == [f"pair-{name}" for name in SOURCES]
    assert [target["sources"] for target in view["targets"]] == [[0], [1], [2]]


def test_long_texts_stay_within_their_budget_and_old_runs_have_no_guesses(tmp_path: Path) -> None:
    run = read_run(make_run_folder(tmp_path))
    weights = run.weights["unified"]
    token = {"text": "x", "weights": [1.0, 0.0, 0.0], "entropy": [0.1, 0.2, None], "gold": 0.5}
    long = {"id": "a", "domain": "d", "prompt": "p" * 9999, "tokens": [token] * 400}
    weights["examples"] = [long] * 500
    view = tokens_view(run)
    assert view is not None
    samples = view["targets"][0]["samples"]
    assert len(samples) == SAMPLES_PER_TARGET
    assert len(samples[0]["prompt"]) < 2000
    assert samples[0]["tokens"][0] == [0, [1.0, 0.0, 0.0], [0.1, 0.2, None], 0.5, None, None]


def test_the_worst_tokens_are_listed_once_per_source(run: Run) -> None:
    found = worst_tokens_view(run)
    assert list(found) == list(SOURCES)
    assert found["coder"][1] == {"token": ATTACK, "unaligned": 12, "seen": 1200}


def test_changes_and_cosines_add_up_over_tensors(run: Run) -> None:
    tensors = [
        {"name": "l.0.w", "numel": 4, "base_norm": 3.0, "norm": [1.0, 2.0], "cosine": [0.5]},
        {"name": "l.1.w", "numel": 4, "base_norm": 4.0, "norm": [2.0, 0.0], "cosine": [None]},
    ]
    run.deltas["two"] = {"models": ["a", "b"], "tensors": tensors}
    view = deltas_view(run, "two")
    assert view is not None
    # base: sqrt(9 + 16) = 5; a: sqrt(1 + 4) / 5, b: 2 / 5
    assert [row["moved"] for row in view["rows"]] == pytest.approx([math.sqrt(5) / 5, 0.4])
    # product 0.5 * 1 * 2 = 1 over sqrt(5) * 2
    cosine = 1 / (math.sqrt(5) * 2)
    cells = [[cell["value"] for cell in row["cells"]] for row in view["rows"]]
    assert cells == [pytest.approx([1.0, cosine]), pytest.approx([cosine, 1.0])]
    moved = view["charts"]["moved-by-layer-two"]
    # layer 0: 1 / 3 and 2 / 3; layer 1: 2 / 4 and 0
    assert moved.rows == [[0.0, pytest.approx(1 / 3), pytest.approx(2 / 3)], [1.0, 0.5, 0.0]]


def test_a_merge_without_deltas_has_no_such_part(run: Run) -> None:
    assert deltas_view(run, "none") is None


def test_the_best_fused_model_comes_first_with_code_for_its_folder(run: Run) -> None:
    usable = use_view(run)
    assert [(one.name, one.best) for one in usable] == [
        ("unified", True),
        ("pairwise", False),
        ("sft", False),
    ]
    folder = run.folder.name
    assert usable[0].path == f"{folder}/distill/unified/model"
    assert f"path = '{folder}/distill/unified/model'" in usable[0].python
    assert "apply_chat_template" not in usable[0].python
    assert "apply_chat_template" in usable[1].python, "its folder holds a chat template"
    assert "Prompt 1 of sums" in usable[0].python, "the first prompt holds control characters"
    assert str(run.folder.parent) not in json.dumps([one.commands for one in usable])
    for one in usable:
        compile(one.python, one.name, "exec")


def test_a_folder_with_blanks_and_quotes_is_quoted_in_every_line(tmp_path: Path) -> None:
    folder = tmp_path / "my 'first' run"
    write(folder / "distill" / "sft" / "history.json", {"log": []})
    write(folder / "distill" / "sft" / "model" / "config.json", {})
    run = read_run(folder)
    (model,) = use_view(run)
    assert not model.best
    assert EXAMPLE in model.python
    namespace: dict[str, object] = {}
    line = next(line for line in model.python.splitlines() if line.startswith("path = "))
    exec(line, namespace)
    assert namespace["path"] == "my 'first' run/distill/sft/model"
    served = dict(model.commands)["vLLM, a server with OpenAI's interface"]
    assert served.startswith("vllm serve 'my '\"'\"'first'\"'\"' run/distill/sft/model' ")
