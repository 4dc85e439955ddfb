"""Layers in the processor's own order give the same bits, and are themselves again afterwards."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from infifusion.teacher import batching, packed
from infifusion.teacher.batching import answers
from infifusion.teacher.packed import packed_layers
from infifusion.teacher.rows import Draw, Row

needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="oneDNN does not multiply in bfloat16 here",
)


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "LEAST", 1)


def made(dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2", vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)  # biases of Qwen2 too
    return model.to(dtype)


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.arange(3, 60).mul(7919).remainder(300).view(3, 19)
    with torch.inference_mode():
        return model(input_ids=ids).logits


@needs_bfloat16
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("rows", [1, 16])
def test_the_same_bits(autocast: bool, rows: int) -> None:
    model = made(torch.float32 if autocast else torch.bfloat16)
    context = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext()
    with context:
        expected = logits(model)
        with packed_layers(model, rows) as count:
            found = logits(model)
    assert count == 2 * 7 + 1
    assert torch.equal(found, expected)


@needs_bfloat16
def test_the_layers_are_themselves_again_and_see_new_weights() -> None:
    model = made(torch.bfloat16)
    with pytest.raises(ZeroDivisionError), packed_layers(model, 1):
        raise ZeroDivisionError
    assert not any("forward" in layer.__dict__ for layer in model.modules())
    before = logits(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2)
    with packed_layers(model, 1) as count:
        assert count and torch.equal(logits(model), logits(made(torch.bfloat16)) * 2)
    assert not torch.equal(logits(model), before)


def test_what_does_not_multiply_in_bfloat16_stays_as_it_is() -> None:
    with packed_layers(made(torch.float32), 1) as count:
        assert count == 0
    model = made(torch.bfloat16)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    for layer in layers[:-1]:
        layer.forward = layer.forward  # as accelerate's hooks do
    with packed_layers(model, 1) as count:
        assert count <= 1
    assert all("forward" in layer.__dict__ for layer in layers[:-1])


@needs_bfloat16
def test_answers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def written() -> dict[int, list[int]]:
        rows = [Row(n, list(range(3, 6 + n)), 9, f"p{n}", Draw()) for n in range(5)]
        return {row.number: row.ids for row in answers(model, rows, ends=[], at_once=3)}

    model = made(torch.bfloat16)
    found = written()
    monkeypatch.setattr(batching, "packed_layers", lambda *_: nullcontext())
    assert found == written()
