"""`import infifusion`: the commands from Python."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEXTS, byte_level_tokenizer, sentencepiece_tokenizer
from numpy.testing import assert_allclose
from transformers import AutoModelForCausalLM, AutoTokenizer

import infifusion
from infifusion.align.boundaries import end_keys, match
from infifusion.errors import DataError, RecipeError
from infifusion.recipe import Recipe

SURE = [0.97, 0.01, 0.01, 0.01]
EVEN = [0.25, 0.25, 0.25, 0.25]
LEFT = [0.7, 0.1, 0.1, 0.1]


def entropy(row: list[float]) -> float:
    return float(-(np.array(row) * np.log(row)).sum())


def test_importing_infifusion_imports_nothing_heavy() -> None:
    code = (
        "import sys, infifusion; dir(infifusion); "
        "print([m for m in ('numpy', 'torch', 'transformers', 'pydantic') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


def test_the_functions_are_there_when_asked_for_and_packages_stay_packages() -> None:
    from infifusion import fuse

    assert infifusion.fuse is fuse and fuse.FUSION_FUNCTIONS
    shown = inspect.signature(infifusion.fuse_beliefs)
    assert list(shown.parameters)[:3] == ["sources", "function", "params"]
    assert infifusion.run.__doc__ and infifusion.run.__module__ == "infifusion.api"
    with pytest.raises(AttributeError, match="no attribute 'fuze'"):
        infifusion.fuze  # noqa: B018


def test_every_public_name_is_there_and_documented() -> None:
    from infifusion import api

    functions = [name for name in infifusion.__all__ if name != "__version__"]
    assert len(functions) == 10
    for name in functions:
        assert callable(getattr(infifusion, name)) and len(getattr(api, name).__doc__) > 80


def test_uncertainty_weights_are_those_of_the_entropies() -> None:
    fused = infifusion.fuse_beliefs([np.array([SURE, LEFT]), np.array([EVEN, LEFT])])
    # w = exp(-H) normalised; equal entropies share alike
    odds = np.exp(-np.array([entropy(SURE), entropy(EVEN)]))
    weights = odds / odds.sum()
    assert_allclose(fused.weight_ST[:, 0], weights, rtol=1e-5)
    assert_allclose(fused.weight_ST[:, 1], [0.5, 0.5], rtol=1e-6)
    mixed = weights[0] * np.array(SURE) + weights[1] * np.array(EVEN)
    assert_allclose(fused.dense(4), [mixed, LEFT], rtol=1e-5)
    assert_allclose(fused.tail_T, 0, atol=1e-6)


def test_one_source_is_the_identity() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(50), 7).astype(np.float32)
    fused = infifusion.fuse_beliefs([rows], top_k=50)
    assert_allclose(fused.dense(50), rows, rtol=1e-5)
    assert (fused.weight_ST == 1).all()


def test_fewer_entries_leave_their_rest_in_the_tail() -> None:
    rows = np.array([[0.5, 0.3, 0.15, 0.05]])
    fused = infifusion.fuse_beliefs([rows], top_k=2)
    assert fused.ids_TK[0, :2].tolist() == [0, 1]
    assert_allclose(fused.tail_T, 0.2, rtol=1e-5)
    assert_allclose(fused.dense(4), [[0.5, 0.3, 0.1, 0.1]], rtol=1e-5)


def test_a_row_of_nan_has_no_weight() -> None:
    gap = np.array([[np.nan] * 4, LEFT])
    fused = infifusion.fuse_beliefs([gap, np.array([EVEN, EVEN])], function="mean")
    assert_allclose(fused.weight_ST, [[0, 0.5], [1, 0.5]])
    alone = infifusion.fuse_beliefs([gap], function="mean")
    assert alone.weight_ST[0].tolist() == [0, 1] and alone.tail_T[0] == 1
    assert_allclose(alone.dense(4)[0], 0.25)


def test_min_ce_follows_the_source_that_predicts_the_gold_of_each_text() -> None:
    one = np.array([SURE, SURE, EVEN, EVEN])
    two = np.array([EVEN, EVEN, SURE, SURE])
    fused = infifusion.fuse_beliefs(
        [one, two], function="min_ce", gold=[0, 0, 0, 0], lengths=[2, 2]
    )
    assert fused.weight_ST.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    turned = infifusion.fuse_beliefs(
        [one, two], function="min_ce", gold=[1, 0, 1, 0], lengths=[2, 2]
    )
    assert turned.weight_ST.tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ([], {}, "at least one source"),
        ([[LEFT]], {"function": "min_ce"}, "min_ce .* give gold"),
        ([[LEFT]], {"function": "uncertain"}, "Did you mean 'uncertainty'"),
        ([[LEFT]], {"params": {"kapa": 2}}, "Did you mean 'kappa'"),
        ([[LEFT], [LEFT, LEFT]], {}, r"expected an array of 1 rows.*found the shape \[2, 4\]"),
        ([[LEFT], [[0.5, 0.5]]], {}, r"vocabularies of \[2, 4\] tokens"),
        ([[[1.0, 2.0, 3.0]]], {}, "row 0 is no distribution"),
        ([[LEFT, [1.5, -0.5, 0, 0]]], {}, "row 1 is no distribution"),
        ([[LEFT]], {"lengths": [2]}, r"lengths are \[2\]; .* sum is the 1 rows"),
        ([[]], {}, r"with a row or more; found the shape \[0\]"),
        ([0.5], {}, r"found the shape \[\]"),
        ([[LEFT]], {"top_k": 0}, "top_k is 0"),
        ([[LEFT]], {"gold": [4], "function": "bayes"}, "go from 4 to 4, but the rows have 4"),
        ([[LEFT]], {"gold": [1, 2], "function": "bayes"}, "expected 1 gold tokens"),
    ],
)
def test_what_does_not_fit_is_refused(sources: list, options: dict, message: str) -> None:
    with pytest.raises((RecipeError, DataError), match=message):
        infifusion.fuse_beliefs(sources, **options)


def test_one_tokenizer_aligns_with_itself_everywhere() -> None:
    tokenizer = byte_level_tokenizer(320)
    found = infifusion.align_texts(tokenizer, tokenizer, TEXTS[:3])
    count = f"{len(found.source_T):,}"
    assert repr(found) == f"Alignment(3 texts, {count} of {count} pivot positions aligned)"
    assert found.coverage.share == 1.0
    assert found.source_T.tolist() == list(range(len(found.source_T)))
    assert [len(ids) for ids in found.source_ids] == np.diff(found.pivot.row_N1).tolist()
    rows = np.random.default_rng(0).dirichlet(np.ones(320), len(found.source_T))
    fused = infifusion.fuse_beliefs([found.carry(rows, top_k=320)], function="mean")
    assert_allclose(fused.dense(320), rows, atol=1e-6)


def test_a_source_is_carried_to_the_tokens_of_the_pivot() -> None:
    source, pivot = sentencepiece_tokenizer(330), byte_level_tokenizer(300)
    found = infifusion.align_texts(source, pivot, TEXTS[:3])
    width = len(source) + 3  # a model pads its head
    # The source is certain of every token that is there, the end too ...
    said = np.concatenate(found.source_ids)
    sure = np.zeros((len(said), width))
    sure[np.arange(len(said)), said] = 1
    fused = infifusion.fuse_beliefs([found.carry(sure)], function="mean")
    aligned_T = found.source_T >= 0
    assert aligned_T.any() and aligned_T[-1]
    # ... so it is certain of the pivot's where both begin and end together, by the chain rule.
    gold = np.concatenate(found.pivot_ids)
    assert (fused.weight_ST[0] == aligned_T).all()
    last_T = match(
        end_keys(found.pivot.start_R, found.pivot.row_N1),
        end_keys(found.source.start_R, found.source.row_N1),
    )
    whole = aligned_T & (last_T >= 0)
    assert whole.sum() > 5
    assert (fused.ids_TK[whole, 0] == gold[whole]).all()
    assert_allclose(fused.prob_TK[whole, 0], 1, atol=1e-6)
    # The pivot's own distributions join as a plain array over its vocabulary.
    even = np.full((len(gold), len(pivot)), 1 / len(pivot))
    both = infifusion.fuse_beliefs([found.carry(sure), even], function="mean")
    assert_allclose(both.weight_ST[:, -1], [0.5, 0.5])
    # Another source of the same pivot and texts joins too; one of other texts is refused.
    again = infifusion.align_texts(source, pivot, TEXTS[:3]).carry(sure)
    assert_allclose(
        infifusion.fuse_beliefs([found.carry(sure), again]).weight_ST[:, -1], [0.5, 0.5]
    )
    other = infifusion.align_texts(source, pivot, TEXTS[1])
    rows = np.full((len(other.source_ids[0]), width), 1 / width)
    with pytest.raises(RecipeError, match="source 1 is aligned with another pivot or other texts"):
        infifusion.fuse_beliefs([found.carry(sure), other.carry(rows)])


def test_carry_refuses_rows_that_are_not_the_sources() -> None:
    found = infifusion.align_texts(
        byte_level_tokenizer(300), byte_level_tokenizer(320), "Ben has 5"
    )
    with pytest.raises(DataError, match="carry: expected an array of"):
        found.carry(np.full((2, 300), 1 / 300))
    with pytest.raises(DataError, match="do not belong together"):
        found.carry(np.full((len(found.source_ids[0]), 9), 1 / 9))
    with pytest.raises(DataError, match="there is no text"):
        infifusion.align_texts(byte_level_tokenizer(300), byte_level_tokenizer(320), "")


def test_merge_takes_a_dict_and_gives_a_folder_that_loads(suite: Path, tmp_path: Path) -> None:
    pivot = str(suite / "pivot")
    config = {"merge_method": "linear", "models": [{"model": pivot, "parameters": {"weight": 1}}]}
    details = infifusion.merge_models(config, tmp_path / "out")
    assert details["method"] == "linear" and (tmp_path / "out" / "README.md").exists()
    before = AutoModelForCausalLM.from_pretrained(pivot).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert before.keys() == after.keys() and len(before) > 10
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with pytest.raises(RecipeError, match="merge_methods: there is no such key. Did you mean"):
        infifusion.merge_models({**config, "merge_methods": "x"}, tmp_path / "other")


@pytest.mark.slow
def test_run_takes_a_dict_and_its_result_says_where_everything_is(
    suite: Path, make_recipe, tmp_path: Path
) -> None:
    values = make_recipe(suite, fuse={}, merge={}, distill={"sft": {}})
    values["evaluate"] = {"models": ["sft"]}
    made = infifusion.run(values, tmp_path / "run")
    assert list(made.models) == ["sft"] and made.report.exists()
    assert 0 < made.summary["models"]["sft"]["bits_per_byte"]["sums"] < 12
    # The recipe that it wrote is the recipe: as a file and as an object it finds all done.
    written = made.models["sft"].parent / "manifest.json"
    stamp = written.stat().st_mtime_ns
    infifusion.run(tmp_path / "run" / "recipe.yaml", tmp_path / "run")
    infifusion.run(Recipe(**values), tmp_path / "run", until="distill")
    assert written.stat().st_mtime_ns == stamp
    model = AutoModelForCausalLM.from_pretrained(made.models["sft"])
    tokenizer = AutoTokenizer.from_pretrained(made.models["sft"])
    out = model.generate(**tokenizer("Ben has", return_tensors="pt"), max_new_tokens=4)
    assert out.shape[1] > len(tokenizer("Ben has").input_ids)


def test_run_refuses_a_wrong_dict_and_stage_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the recipe has .* problems"):
        infifusion.run({"name": "x"}, tmp_path / "run")
    with pytest.raises(RecipeError, match="distil"):
        infifusion.run({"name": "x"}, tmp_path / "run", until="distil")
    assert not (tmp_path / "run").exists()


def test_evaluate_takes_one_model_and_one_task(suite: Path, tmp_path: Path) -> None:
    record = {"question": "Ben has 5 coins.", "answer": "5+2=7\n#### 7"}
    (tmp_path / "gsm8k_test.jsonl").write_text(json.dumps(record) + "\n")
    found = infifusion.evaluate(suite / "pivot", "bits_per_byte", data=tmp_path)
    assert 1 < found["models"]["pivot"]["bits_per_byte"]["gsm8k"] < 12
