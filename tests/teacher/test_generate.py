"""Rows that leave and join: every answer is the one that its prompt has alone."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from infifusion.errors import NumericsError
from infifusion.teacher import batching
from infifusion.teacher.batching import Way, answers, way_of
from infifusion.teacher.generate import generate
from infifusion.teacher.lm_head import split_head
from infifusion.teacher.rows import Draw, Row

TINY = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
ARCHITECTURES = {
    "llama": (Way.JOINING, {}),
    "mistral": (Way.JOINING, {"sliding_window": 4}),
    "gemma2": (Way.JOINING, {"head_dim": 8, "sliding_window": 4}),
    "gemma3_text": (Way.JOINING, {"head_dim": 8, "sliding_window": 4}),
    "gpt2": (Way.JOINING, {"n_embd": 32, "n_head": 4, "n_layer": 2}),
    "bloom": (Way.JOINING, {"n_head": 4, "n_layer": 2}),
    "qwen3_moe": (
        Way.JOINING,
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    ),
    "opt": (Way.JOINING, {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "cohere2": (Way.JOINING, {"sliding_window": 4}),
    "gpt_oss": (Way.JOINING, {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}),
    "mamba": (Way.PADDED, {"state_size": 4}),
    "jamba": (
        Way.PADDED,
        {
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 4,
            "use_mamba_kernels": False,
        },
    ),
    "recurrent_gemma": (
        Way.PADDED,
        {"head_dim": 8, "lru_width": 32, "attention_window_size": 16, "num_hidden_layers": 3},
    ),
    "lfm2": (Way.PADDED, {"layer_types": ["conv", "full_attention"]}),
    "rwkv": (Way.ALONE, {"attention_hidden_size": 32, "context_length": 128}),
}
ROOMS = (7, 12, 1, 12, 3, 12, 5)
LENGTHS = (3, 17, 9, 5, 40, 4, 11)


def made(kind: str, **more: object) -> PreTrainedModel:
    """Random weights, large ones, so that what a prompt holds decides its answer."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**TINY, **more})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    return model


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 300, (n,), generator=generator).tolist() for n in LENGTHS]


@torch.inference_mode()
def alone(model: PreTrainedModel, prompt: list[int], room: int) -> list[int]:
    """The answer by whole forward passes, without a cache."""
    ids = list(prompt)
    for _ in range(room):
        row = torch.tensor([ids])
        out = model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False)
        ids.append(int(out.logits[0, -1].argmax()))
    return ids[len(prompt) :]


def rows_of(**more: object) -> list[Row]:
    return [
        Row(n, prompt, room, f"p{n}", Draw(), **more)
        for n, (prompt, room) in enumerate(zip(prompts(), ROOMS, strict=True))
    ]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_architecture_answers_as_one_by_one(kind: str, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("infifusion"), "propagate", True)
    way, more = ARCHITECTURES[kind]
    model = made(kind, **more)
    with caplog.at_level(logging.INFO, "infifusion"):
        assert way_of(model) is way
    assert (way.value in caplog.text) is (way is not Way.JOINING)
    expected = [alone(model, p, room) for p, room in zip(prompts(), ROOMS, strict=True)]
    found = {row.number: row.ids for row in answers(model, rows_of(), ends=[], at_once=3)}
    assert [found[n] for n in range(len(ROOMS))] == expected


@pytest.mark.parametrize(("kind", "way"), [("llama", Way.JOINING), ("rwkv", Way.ALONE)])
def test_a_model_that_trains_in_half_precision_is_asked_in_it(kind: str, way: Way) -> None:
    """Its weights are float32, and its sums as coarse as bfloat16's: no reason to be run alone."""
    model = made(kind, **ARCHITECTURES[kind][1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert way_of(model) is way


@pytest.mark.parametrize(("window", "way"), [(12, Way.JOINING), (6, Way.ALONE)])
def test_a_small_window_is_no_error(window: int, way: Way) -> None:
    model = made("gpt2", n_embd=32, n_head=4, n_layer=2, max_position_embeddings=window)
    assert way_of(model) is way
    (row,) = answers(model, [Row(0, [5, 6, 7], 3, "", Draw())], ends=[], at_once=2)
    assert row.ids == alone(model, [5, 6, 7], 3)


def test_the_models_own_settings_are_not_followed() -> None:
    model = made("mamba", state_size=4)
    model.generation_config.update(num_beams=3, repetition_penalty=9.0)
    assert way_of(model) is Way.PADDED
    (row,) = answers(model, [Row(0, [5, 6, 7], 5, "", Draw())], ends=[], at_once=2)
    assert row.ids == alone(model, [5, 6, 7], 5)


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 64])
def test_the_number_of_places_changes_nothing(at_once: int) -> None:
    model = made("llama")
    expected = [alone(model, p, room) for p, room in zip(prompts(), ROOMS, strict=True)]
    some = generate(model, split_head(model), rows_of(), ends=[], at_once=at_once)
    found = {row.number: row.ids for row in some}
    assert [found[n] for n in range(len(ROOMS))] == expected


def test_equal_prompts_are_run_once_and_answered_each() -> None:
    model = made("llama")
    lengths = []
    body = model.model.forward

    def watched(**inputs):
        lengths.append(tuple(inputs["input_ids"].shape))
        return body(**inputs)

    model.model.forward = watched
    halves = split_head(model)
    rows = [Row(n, prompts()[1], 4, "", Draw()) for n in range(3)]
    found = list(generate(model, halves, rows, ends=[], at_once=3))
    model.model.forward = body
    assert [row.ids for row in found] == [alone(model, prompts()[1], 4)] * 3
    assert lengths == [(1, 17), (3, 1), (3, 1), (3, 1)]


@pytest.mark.parametrize("way", Way)
def test_a_row_ends_at_its_end_token_or_when_it_says_so(monkeypatch, way: Way) -> None:
    monkeypatch.setattr(batching, "way_of", lambda _: way)
    model = made("llama")
    whole = alone(model, prompts()[1], 12)
    end = whole[5]
    first = whole.index(end)
    (row,) = answers(model, [Row(0, prompts()[1], 12, "", Draw())], ends=[end], at_once=2)
    assert row.ids == whole[: first + 1]
    rows = [
        Row(0, prompts()[1], 12, "", Draw(), lambda ids: len(ids) == 4),
        Row(1, prompts()[1], 12, "", Draw()),
    ]
    found = {row.number: row.ids for row in answers(model, rows, ends=[], at_once=2)}
    assert found == {0: whole[:4], 1: whole}


@pytest.mark.parametrize("way", Way)
def test_drawn_answers_do_not_depend_on_the_batch(monkeypatch, way: Way) -> None:
    monkeypatch.setattr(batching, "way_of", lambda _: way)
    model = made("llama")

    def draw(at_once: int, seed: int = 0) -> dict[int, list[int]]:
        rows = [Row(n, p, 6, "", Draw(1.0, 0.9, seed + n)) for n, p in enumerate(prompts())]
        return {row.number: row.ids for row in answers(model, rows, ends=[], at_once=at_once)}

    assert draw(2) == draw(7) != draw(2, seed=100)


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    """0.5 + 0.3 = 0.8 reach 0.7; the token of 0.2 is never drawn, the others 5 to 3."""
    logits_V = torch.tensor([0.2, 0.5, 0.3]).log()
    drawn = [Draw(1.0, 0.7, seed).token(logits_V) for seed in range(400)]
    assert set(drawn) == {1, 2}
    assert abs(drawn.count(1) / 400 - 5 / 8) < 0.08


def test_a_temperature_sharpens() -> None:
    """At 1/2 the odds of 3 to 1 become 9 to 1."""
    logits_V = torch.tensor([0.75, 0.25]).log()
    drawn = [Draw(0.5, 1.0, seed).token(logits_V) for seed in range(400)]
    assert abs(drawn.count(0) / 400 - 0.9) < 0.05


def test_half_precision_takes_the_token_of_the_float32_logits() -> None:
    """The weights of four tokens differ by less than bfloat16 tells apart in their logits."""
    torch.manual_seed(3)
    model = made("llama", vocab_size=4000, hidden_size=64, tie_word_embeddings=False).bfloat16()
    halves = split_head(model)
    with torch.inference_mode():
        hidden_RD = torch.randn(200, 64).bfloat16()
        expected = (hidden_RD.double() @ model.lm_head.weight.double().t()).argmax(dim=1).tolist()
        rounded = model.lm_head(hidden_RD).argmax(dim=1).tolist()
        assert halves.likeliest(hidden_RD) == expected != rounded


def test_more_equals_than_candidates_are_all_looked_at() -> None:
    """All logits round to the same bfloat16; the largest is the last but one."""
    model = made("llama", vocab_size=64, hidden_size=32, tie_word_embeddings=False).bfloat16()
    weight_VD = torch.zeros(64, 32)
    weight_VD[:, 0] = 1.0
    weight_VD[:, 1] = torch.arange(64) / 1024  # at most 0.06 of 16: half a step of bfloat16
    weight_VD[63, 1] = 0.0
    model.lm_head.weight.data = weight_VD.bfloat16()
    hidden_RD = torch.zeros(1, 32).bfloat16()
    hidden_RD[0, 0], hidden_RD[0, 1] = 16.0, 0.5
    with torch.inference_mode():
        assert split_head(model).likeliest(hidden_RD) == [62]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_logits_give_the_first_token_and_masked_ones_none(dtype: torch.dtype) -> None:
    model = made("llama", tie_word_embeddings=False).to(dtype)
    with torch.inference_mode():
        model.lm_head.weight.zero_()
        assert split_head(model).likeliest(torch.ones(2, 32, dtype=dtype)) == [0, 0]
        model.lm_head.weight[7] = float("nan")
        assert split_head(model).likeliest(torch.ones(1, 32, dtype=dtype)) == [-1]


def test_a_row_is_named_where_its_logits_are_not_numbers() -> None:
    model = made("llama", tie_word_embeddings=False)
    model.lm_head.weight.data[3] = float("inf")
    rows = [Row(0, [4, 5], 3, "the prompt 'a'", Draw())]
    with pytest.raises(NumericsError, match="answers the prompt 'a'"):
        list(generate(model, split_head(model), rows, ends=[], at_once=1))
