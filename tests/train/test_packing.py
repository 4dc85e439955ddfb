from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import byte_level_tokenizer, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import DATA, TARGET, VOCABULARY, job, kl, rendered
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from infifusion.errors import RecipeError
from infifusion.train.batches import Collator, Conversations
from infifusion.train.chunked import with_position_loss
from infifusion.train.packing import Packs, check_packing, pack
from infifusion.train.run import train


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_every_example_is_in_one_pack_and_no_pack_is_too_long(lengths, seed) -> None:
    length_N = np.array(lengths)
    packs = pack(length_N, 50, seed=seed)
    assert sorted(n for one in packs for n in one) == list(range(len(lengths)))
    totals = [int(length_N[one].sum()) for one in packs]
    assert max(totals) <= 50
    # Any fit leaves at most one pack half empty: two such packs would have become one.
    assert sum(total <= 25 for total in totals) <= 1


def test_an_example_goes_where_it_leaves_the_least_room() -> None:
    # Any order of 6, 5, 4, 5 in packs of 10: 6 + 4 and 5 + 5 if each goes to the fullest that
    # holds it, whichever comes first but 4 right after a 5.
    found = {
        tuple(sorted(sorted(one) for one in pack(np.array([6, 4]), 10, seed=s))[0])
        for s in range(5)
    }
    assert found == {(0, 1)}
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(3).tolist()
        packs = pack(np.array([7, 5, 3]), 10, seed=seed)
        # 3 comes last: to the 7, where it leaves 0, not to the 5, where it would leave 2.
        if order[2] == 2:
            assert sorted(sorted(one) for one in packs) == [[0, 2], [1]]


def test_packs_are_drawn_by_the_seed_alone() -> None:
    length_N = np.random.default_rng(0).integers(1, 50, 100)
    assert pack(length_N, 64, seed=1) == pack(length_N, 64, seed=1)
    assert pack(length_N, 64, seed=1) != pack(length_N, 64, seed=2)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_packed_loss_and_gradients_equal_the_padded_ones(kind: str, attention: str) -> None:
    conversations, collator = Conversations(DATA), Collator(DATA, TARGET)
    packs = Packs(conversations, pack(np.diff(DATA.offset_N1), 40, seed=0))
    row = collator.packed([packs[n] for n in range(len(packs))])
    assert row["input_ids"].shape == (1, len(DATA.ids_L)) and "attention_mask" not in row
    grads = []
    for batch in (row, collator([conversations[n] for n in range(len(DATA))])):
        model = tiny_model(kind, VOCABULARY, 1).eval()
        model.set_attn_implementation(attention)
        model = with_position_loss(model, kl, gold_weight=0.3, loss_rows=13)
        found = model(**batch)
        found["loss"].backward()
        grads.append((found["loss"].detach(), {n: p.grad for n, p in model.named_parameters()}))
    (loss, packed), (expected_loss, padded) = grads
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, padded[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_models_that_keep_packed_examples_apart_are_accepted(kind: str) -> None:
    model = tiny_model(kind, VOCABULARY, 1)
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        check_packing(model, where="distill.a")
        assert model.training  # as it was


def test_a_model_that_carries_a_state_along_the_row_is_refused() -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    model = MambaForCausalLM(MambaConfig(**shape))
    with pytest.raises(RecipeError, match="distill.a.packing: MambaForCausalLM .* keep"):
        check_packing(model, where="distill.a")


def test_a_model_that_looks_across_examples_is_refused(monkeypatch) -> None:
    # An attention function unknown to transformers' masks: the block mask is not made.
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("causal_only", sdpa_attention_forward)
    model = tiny_model("llama", VOCABULARY, 1)
    model.set_attn_implementation("causal_only")
    with pytest.raises(RecipeError, match="attn_implementation causal_only .* differ by"):
        check_packing(model, where="distill.a")


def test_a_packed_run_takes_the_steps_of_a_padded_one(tmp_path: Path) -> None:
    start = tmp_path / "start"
    tiny_model("llama", VOCABULARY, seed=0).save_pretrained(start)
    byte_level_tokenizer(VOCABULARY).save_pretrained(start)
    # One batch of everything, so that both runs see the same examples in every step.
    settings = {"max_steps": 2, "per_device_train_batch_size": 16}
    weights = []
    for name, tokens in (("padded", None), ("packed", 30)):
        one = job(start, training=settings, pack_tokens=tokens)
        history = train(one, tmp_path / name, name_of=str)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name / "model")
        weights.append((history["log"], model.state_dict()))
    (padded_log, padded), (packed_log, packed) = weights
    assert [line["loss"] for line in packed_log] == pytest.approx(
        [line["loss"] for line in padded_log], rel=1e-4
    )
    for name, tensor in padded.items():
        torch.testing.assert_close(packed[name], tensor, rtol=1e-4, atol=1e-5)
    assert len(pack(np.diff(rendered(16).offset_N1), 30, seed=0)) <= 16
