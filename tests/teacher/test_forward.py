from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from infifusion.errors import ArtifactError, CheckpointError, NumericsError
from infifusion.recipe import Model
from infifusion.teacher.cache import BeliefReader, shard_path, write_shard
from infifusion.teacher.forward import batches, believe, make_teacher
from infifusion.teacher.lm_head import check_head, split_head
from infifusion.teacher.load import load_model
from infifusion.types import Beliefs, Rendered


def rendered(lengths: list[int], responses: list[int], seed: int = 0) -> Rendered:
    """Random examples of given total and response lengths (both in tokens)."""
    rng = np.random.default_rng(seed)
    starts = [list(range(n)) for n in responses]
    return Rendered(
        ids_L=rng.integers(0, 50, sum(lengths)).astype(np.int32),
        offset_N1=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        first_N=np.asarray(
            [n - r for n, r in zip(lengths, responses, strict=True)], dtype=np.int32
        ),
        start_R=np.concatenate(starts).astype(np.int32),
        row_N1=np.concatenate([[0], np.cumsum(responses)]).astype(np.int64),
    )


def pass_over(model, data: Rendered, **options: int) -> Beliefs:
    settings = {"top_k": 4, "batch_tokens": 40, "head_rows": 3, **options}
    teacher = make_teacher(model.eval(), **settings)
    names = [f"example-{n}" for n in range(len(data))]
    told: list[int] = []
    found = believe(teacher, data, 0, len(data), names=names, advance=told.append)
    assert sum(told) == len(data.ids_L)
    return found


DATA = rendered([9, 4, 12, 7], [5, 3, 6, 6])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_beliefs_equal_the_models_own_float64_distribution(kind: str) -> None:
    model = tiny_model(kind, 53, seed=1)
    for parameter in model.parameters():  # sharper than a fresh model's near-uniform output
        parameter.data.mul_(3)
    found = pass_over(model, DATA)
    row = 0
    for n in range(len(DATA)):
        begin, end = DATA.offset_N1[n : n + 2]
        ids = torch.from_numpy(DATA.ids_L[begin:end]).long()
        with torch.no_grad():
            logits = model(ids[None]).logits[0].double()
        for place in range(int(DATA.first_N[n]), len(ids)):
            own = logits[place - 1]
            log_p = own.log_softmax(0)
            top = log_p.topk(4)
            assert found.ids_UK[row].tolist() == top.indices.tolist()
            assert found.logprob_UK[row] == pytest.approx(top.values.numpy(), abs=2e-3)
            assert found.gold_U[row] == pytest.approx(float(log_p[ids[place]]), abs=1e-5)
            entropy = float(-(log_p.exp() * log_p).sum())
            assert found.entropy_U[row] == pytest.approx(entropy, abs=1e-5)
            assert found.lse_U[row] == pytest.approx(float(own.logsumexp(0)), abs=1e-5)
            assert found.mean_U[row] == pytest.approx(float(own.mean()), abs=1e-5)
            assert found.std_U[row] == pytest.approx(float(own.std(correction=0)), abs=1e-5)
            row += 1
    assert row == len(DATA.start_R) == 20


def test_batch_and_chunk_sizes_do_not_change_the_result() -> None:
    model = tiny_model("llama", 53, seed=1)
    one, other = pass_over(model, DATA), pass_over(model, DATA, batch_tokens=1, head_rows=100)
    assert one.ids_UK.tolist() == other.ids_UK.tolist()
    np.testing.assert_allclose(one.gold_U, other.gold_U, atol=1e-5)


def test_batches_hold_every_example_once_within_the_token_budget() -> None:
    found = list(batches(DATA, 0, 4, 24))
    assert sorted(np.concatenate(found).tolist()) == [0, 1, 2, 3]
    for batch in found:
        lengths = DATA.offset_N1[batch + 1] - DATA.offset_N1[batch]
        assert len(batch) * lengths.max() <= 24


def test_nan_logits_are_named_by_example() -> None:
    model = tiny_model("llama", 53, seed=1)
    bad = int(DATA.ids_L[DATA.offset_N1[2] + 1])
    model.get_input_embeddings().weight.data[bad] = torch.nan
    with pytest.raises(NumericsError, match="example-"):
        pass_over(model, DATA)


def test_a_token_outside_the_embedding_is_refused() -> None:
    with pytest.raises(CheckpointError, match="embeds only 40 tokens"):
        pass_over(tiny_model("llama", 40, seed=1), DATA)


def test_a_top_k_larger_than_the_vocabulary_is_refused() -> None:
    with pytest.raises(CheckpointError, match="top_k is 60"):
        pass_over(tiny_model("llama", 53, seed=1), DATA, top_k=60)


def gemma(**changes: object):
    """Gemma 2 caps its logits; the cap is small here so that it bites."""
    from transformers import Gemma2Config

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=53,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.5,
        **changes,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    return model


def test_the_split_head_caps_logits_as_the_model_does() -> None:
    model = gemma()
    ids = torch.arange(6)[None]
    head = split_head(model)
    check_head(model, head, ids, torch.ones_like(ids))
    assert float(head.logits(head.hidden(ids)[0]).abs().max()) <= 0.5


def test_a_head_that_does_something_unknown_is_refused() -> None:
    model = gemma()
    ids = torch.arange(6)[None]
    head = split_head(model)
    model.config.final_logit_softcapping = None
    with pytest.raises(CheckpointError, match="Gemma2ForCausalLM does something"):
        check_head(model, head, ids, torch.ones_like(ids))


def test_shards_come_back_by_example_whatever_the_cut(tmp_path: Path) -> None:
    whole = pass_over(tiny_model("llama", 53, seed=1), DATA)
    cuts = DATA.row_N1[[0, 2, 4]]
    for shard, (low, high) in enumerate(itertools.pairwise(cuts)):
        part = {name: getattr(whole, name)[low:high] for name in whole.__dataclass_fields__}
        write_shard(tmp_path, shard, Beliefs(**part), vocabulary=53)
    reader = BeliefReader(tmp_path, DATA.row_N1, 2, vocabulary=53)
    for begin, end in [(0, 4), (1, 3), (3, 4), (0, 1)]:
        rows = slice(DATA.row_N1[begin], DATA.row_N1[end])
        found = reader.examples(begin, end)
        for name in whole.__dataclass_fields__:
            assert np.array_equal(getattr(found, name), getattr(whole, name)[rows])


def test_a_truncated_or_foreign_shard_is_refused(tmp_path: Path) -> None:
    whole = pass_over(tiny_model("llama", 53, seed=1), DATA)
    write_shard(tmp_path, 0, whole, vocabulary=53)
    with pytest.raises(ArtifactError, match="holds 20 positions, expected 19"):
        BeliefReader(tmp_path, np.asarray([0, 5, 8, 14, 19]), 4, vocabulary=53)
    path = shard_path(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match="missing or cut short"):
        BeliefReader(tmp_path, DATA.row_N1, 4, vocabulary=53)


def test_a_folder_without_weights_or_with_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        load_model(Model(model=str(tmp_path)))
    model = tiny_model("llama", 53, seed=1)
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        load_model(Model(model=str(tmp_path)))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    tiny_model("llama", 53, seed=1).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    config.num_hidden_layers = 3
    config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="lacks .* of the weights"):
        load_model(Model(model=str(tmp_path)))


def test_a_cache_of_many_shards_needs_few_open_files(tmp_path: Path) -> None:
    """A large cache has more shards than a process may have files."""
    whole = pass_over(tiny_model("llama", 53, seed=1), DATA)
    rows = DATA.row_N1[1]
    first = {name: getattr(whole, name)[:rows] for name in whole.__dataclass_fields__}
    shards = 20
    for shard in range(shards):
        write_shard(tmp_path, shard, Beliefs(**first), vocabulary=53)

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    reader = BeliefReader(tmp_path, rows * np.arange(shards + 1), 1, vocabulary=53)
    for begin in range(shards - 1):
        beliefs = reader.examples(begin, begin + 2)
        assert np.array_equal(beliefs.gold_U, np.tile(first["gold_U"], 2))
    assert open_files() <= before + 4


def test_a_shard_is_read_without_a_look_at_the_rest_of_its_folder(tmp_path: Path) -> None:
    """With n shards, n looks at n files: with 4,000 shards minutes at every opening. A link out of
    the folder, which no model folder may have, shows whether anybody looked."""
    beliefs = pass_over(tiny_model("llama", 53, seed=1), DATA)
    write_shard(tmp_path, 0, beliefs, vocabulary=53)
    (tmp_path / "notes").symlink_to("/etc/hosts")
    reader = BeliefReader(tmp_path, DATA.row_N1, len(DATA), vocabulary=53)
    assert np.array_equal(reader.examples(0, len(DATA)).gold_U, beliefs.gold_U)
