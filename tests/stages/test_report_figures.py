"""What stages record for the report alone: guesses at tokens, worst tokens, deltas."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import write_jsonl
from safetensors.torch import load_file

from infifusion.align.boundaries import keys, match
from infifusion.align.byte_spans import token_table
from infifusion.data.store import load_rendered
from infifusion.data.tokenize import gold_ids
from infifusion.data.tokenizers import load_tokenizer, tokenizer_json
from infifusion.errors import RunError
from infifusion.recipe import load_recipe
from infifusion.stages import report as reporting
from infifusion.stages.run import run_recipe
from infifusion.stages.teaching import LIKELIEST, WORST_TOKENS
from infifusion.store.folders import RunFolder
from infifusion.store.lock import LOCK
from infifusion.store.records import read_json


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder up to the merge; every tensor of the copies differs from the pivot's."""
    folder = tmp_path_factory.mktemp("figures")
    make, suite = request.getfixturevalue("make_recipe"), request.getfixturevalue("suite")
    rows = [
        {"prompt": f"Write f number {n}.\n", "response": f"{n} def f(k): return k + {n} # Add one."}
        for n in range(30)
    ]
    write_jsonl(folder / "train.jsonl", rows)  # words that the sources cut otherwise
    values = make(suite)
    values["data"]["train"] = [{"path": str(folder / "train.jsonl"), "domain": "sums"}]
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    run_recipe(
        load_recipe(recipe), folder / "out", until="merge", recipe_file=recipe, command="test"
    )
    return folder / "out"


def pivot_tokens(suite: Path) -> list[str]:
    table = token_table(tokenizer_json(load_tokenizer(str(suite / "pivot"))))
    return [raw.decode(errors="replace") for raw in table.bytes_V]


def test_a_sampled_token_has_the_likeliest_of_its_target_and_of_each_source(
    run: Path, suite: Path
) -> None:
    words = pivot_tokens(suite)
    weights = read_json(run / "fuse/unified/weights.json")
    ids_TK = np.load(run / "fuse/unified/ids_TK.npy")
    prob_TK = np.load(run / "fuse/unified/prob_TK.npy")
    tokens = weights["examples"][0]["tokens"]
    assert len(tokens) > 5
    for t, token in enumerate(tokens):  # the first sample is the first example
        expected = [
            (words[i], round(float(p), 4))
            for i, p in zip(ids_TK[t], prob_TK[t], strict=True)
            if i >= 0
        ][:LIKELIEST]
        assert [tuple(one) for one in token["target"]] == expected
        for entropy, guesses in zip(token["entropy"], token["top"], strict=True):
            assert (guesses is None) == (entropy is None)
            if guesses is not None:
                shares = [share for _, share in guesses]
                assert 1 <= len(guesses) <= LIKELIEST
                assert shares == sorted(shares, reverse=True) and sum(shares) <= 1.001
                assert all(word in words for word, _ in guesses)
    # Where one source alone teaches, the target is what that source believes.
    alone = read_json(run / "fuse/pair-c/weights.json")["examples"]
    taught = [token for sample in alone for token in sample["tokens"] if token["target"]]
    assert taught
    for token in taught:
        assert token["top"][0][0][0] == token["target"][0][0]


def test_the_worst_tokens_are_those_most_often_without_a_boundary(run: Path, suite: Path) -> None:
    words = pivot_tokens(suite)
    found = read_json(run / "fuse/unified/weights.json")["worst_tokens"]
    pivot = load_rendered(run / "prepare/rendered/pivot-train.safetensors")
    gold = gold_ids(pivot)
    seen = Counter(gold.tolist())
    never = []
    for name in "abc":
        own = load_rendered(run / f"prepare/rendered/{name}-train.safetensors")
        source_T = match(keys(pivot.start_R, pivot.row_N1), keys(own.start_R, own.row_N1))
        missed = Counter(gold[source_T < 0].tolist())
        if not missed:
            assert found[name] == []
            never.append(name)
            continue
        assert len(found[name]) == min(len(missed), WORST_TOKENS)
        for one in found[name]:
            token = next(i for i in missed if words[i] == one["token"] and seen[i] == one["seen"])
            assert one["unaligned"] == missed[token]
        counts = [one["unaligned"] for one in found[name]]
        assert counts == sorted(counts, reverse=True) and counts[0] == max(missed.values())
    assert len(never) < 3, "some tokenizer of the suite cuts these words otherwise"


def test_deltas_are_the_norms_and_cosines_of_the_copies_changes(run: Path, suite: Path) -> None:
    deltas = read_json(run / "merge/pairwise/deltas.json")
    assert deltas["models"] == ["pair-a", "pair-b", "pair-c"]
    base = load_file(suite / "pivot" / "model.safetensors")
    copies = [load_file(run / f"distill/{m}/model/model.safetensors") for m in deltas["models"]]
    assert {tensor["name"] for tensor in deltas["tensors"]} == set(base)
    for tensor in deltas["tensors"]:
        start = base[tensor["name"]].double().flatten()
        change = [copy[tensor["name"]].double().flatten() - start for copy in copies]
        assert tensor["base_norm"] == pytest.approx(float(start.norm()), rel=1e-5)
        assert tensor["norm"] == pytest.approx([float(c.norm()) for c in change], rel=1e-4)
        pairs = [(0, 1), (0, 2), (1, 2)]
        expected = [float(torch.cosine_similarity(change[a], change[b], dim=0)) for a, b in pairs]
        assert tensor["cosine"] == pytest.approx(expected, abs=1e-4)
        assert all(math.isfinite(value) for value in tensor["cosine"])


def test_a_page_that_was_written_after_its_run_vanished_is_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write would make the folder anew, with nothing but the page in it."""
    run = tmp_path / "run"
    run.mkdir()
    (run / LOCK).touch()

    def write(root: Path) -> Path:
        root.rename(tmp_path / "away")
        return root / "report" / "index.html"

    monkeypatch.setattr(reporting, "write_cards", lambda *_: {})
    monkeypatch.setattr(reporting, "write_report", write)
    with pytest.raises(RunError, match=r"run folder .*/run vanished"):
        reporting.report(None, RunFolder(run), {})
