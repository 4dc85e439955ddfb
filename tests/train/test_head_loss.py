"""The loss behind the head against the same loss written out on all logits at once, in float64.

Axes: R positions, K kept entries, H hidden, V vocabulary.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from conftest import tiny_model
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config

from infifusion.losses import LOSSES, PARAMS
from infifusion.losses.sparse import SparseTarget
from infifusion.teacher.lm_head import LanguageModelHead
from infifusion.train.chunked import with_position_loss
from infifusion.train.head_loss import HeadLoss

R, K, H, V = 23, 4, 8, 50
GOLD_WEIGHT = 0.3


def rows(
    count: int = R, *, taught: str = "some", seed: int = 0, vocabulary: int = V
) -> SparseTarget:
    """Random targets; the last two places of every fifth row are unused."""
    draw = torch.Generator().manual_seed(seed)
    prob = torch.rand(count, K + 1, generator=draw).softmax(1)[:, :K]
    ids = torch.stack([torch.randperm(vocabulary, generator=draw)[:K] for _ in range(count)])
    taught_R = torch.rand(count, generator=draw) < {"some": 0.7, "none": 0.0, "all": 1.1}[taught]
    ids[::5, -2:], prob[::5, -2:] = -1, 0
    ids[~taught_R], prob[~taught_R] = -1, 0
    zscore = torch.randn(count, K, generator=draw).sort(dim=1, descending=True).values
    gold = torch.randint(vocabulary, (count,), generator=draw)
    return SparseTarget(ids, prob, zscore, gold, taught_R, normalised=True)


def loss_named(name: str, **params: float):
    """As the stage makes it; `rows` say that the loss gets log-probabilities."""

    def loss(log_CV, target):
        return LOSSES[name](log_CV, target, PARAMS[name](**params))

    return loss


def dense(
    name: str | None, logits: torch.Tensor, rows: SparseTarget, **params: float
) -> torch.Tensor:
    """The objective summed over all positions, from float64 logits, without a chunk in sight."""
    ce = functional.cross_entropy(logits, rows.gold_R, reduction="none")
    if name is None:
        return ce.sum()
    target = SparseTarget(rows.ids_RK, rows.prob_RK.double(), rows.zscore_RK.double(), rows.gold_R)
    divergence = LOSSES[name](logits, target, PARAMS[name](**params))
    taught = GOLD_WEIGHT * ce + (1 - GOLD_WEIGHT) * divergence
    return torch.where(rows.taught_R, taught, ce).sum()


def halves(head: nn.Module, *, soft_cap: float | None = None, scale: float = 1.0):
    return LanguageModelHead(nn.Identity(), head, soft_cap, scale)


def linear(*, bias: bool = False, seed: int = 1) -> nn.Linear:
    torch.manual_seed(seed)
    head = nn.Linear(H, V, bias=bias)
    with torch.no_grad():
        head.weight.normal_()
    return head


def hidden(count: int = R, seed: int = 2) -> torch.Tensor:
    return torch.randn(count, H, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def close(found: torch.Tensor, expected: torch.Tensor, what: str = "") -> None:
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=1e-5, atol=1e-5, msg=lambda m: f"{what}: {m}"
    )


@pytest.mark.parametrize("loss_rows", [5, R, 100])
@pytest.mark.parametrize("shape", [{}, {"soft_cap": 3.0}, {"scale": 0.25}])
@pytest.mark.parametrize(
    ("name", "params"),
    [
        *((name, {}) for name in LOSSES),
        (None, {}),
        ("kl", {"temperature": 2.0}),
        ("jsd", {"beta": 0.2, "temperature": 0.5}),
    ],
)
def test_value_and_gradients_equal_the_dense_float64_loss(name, params, shape, loss_rows) -> None:
    head, states, data = linear(bias=True), hidden(), rows()
    loss = None if name is None else loss_named(name, **params)
    sums = HeadLoss(loss, GOLD_WEIGHT, loss_rows).sums(halves(head, **shape), states, data)
    (sums[0] * 0.7).backward()  # the incoming gradient of a step is not 1

    weight, bias, wide = (
        t.detach().double().requires_grad_() for t in (head.weight, head.bias, states)
    )
    logits = (wide @ weight.T + bias) * shape.get("scale", 1.0)
    if "soft_cap" in shape:
        logits = shape["soft_cap"] * torch.tanh(logits / shape["soft_cap"])
    expected = dense(name, logits, data, **params)
    (expected * 0.7).backward()
    close(sums[0].detach(), expected.detach(), "value")
    close(states.grad, wide.grad, "hidden states")
    close(head.weight.grad, weight.grad, "weight")
    close(head.bias.grad, bias.grad, "bias")


@pytest.mark.parametrize("loss_rows", [5, 100])
@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jsd"])
def test_a_share_moves_weight_from_the_loss_to_the_label(name: str, loss_rows: int) -> None:
    """(1 - w) CE + w loss with w = (1 - gold_weight) share, where the share is no constant of the
    pivot and yet carries no gradient."""

    def share(log_CV: torch.Tensor, target: SparseTarget) -> torch.Tensor:
        share_C = 1 - log_CV.gather(1, target.gold_R[:, None])[:, 0].exp()
        return torch.stack([share_C, 2 * share_C])

    head, states, data = linear(), hidden(), rows()
    loss = HeadLoss(loss_named(name), GOLD_WEIGHT, loss_rows, share)
    sums = loss.sums(halves(head), states, data)
    sums[0].backward()

    wide = states.detach().double().requires_grad_()
    weight = head.weight.detach().double().requires_grad_()
    logits = wide @ weight.T
    ce = functional.cross_entropy(logits, data.gold_R, reduction="none")
    plain = replace(data, prob_RK=data.prob_RK.double(), normalised=False)
    divergence = LOSSES[name](logits, plain, PARAMS[name]())
    share_R = torch.where(data.taught_R, 1 - (-ce.detach()).exp(), 0)
    weight_R = (1 - GOLD_WEIGHT) * share_R
    expected = ((1 - weight_R) * ce + weight_R * torch.where(data.taught_R, divergence, 0)).sum()
    expected.backward()
    close(sums[0].detach(), expected.detach(), "value")
    close(sums[3:].detach(), torch.stack([share_R.sum(), 2 * share_R.sum()]), "share and lead")
    close(states.grad, wide.grad, "hidden states")
    close(head.weight.grad, weight.grad, "weight")


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("taught", ["none", "all"])
def test_rows_that_nobody_teaches_train_on_the_gold_token(name: str, taught: str) -> None:
    head, states, data = linear(), hidden(), rows(taught=taught)
    sums = HeadLoss(loss_named(name), GOLD_WEIGHT, 6).sums(halves(head), states, data)
    sums[0].backward()
    wide = states.detach().double().requires_grad_()
    expected = dense(name if taught == "all" else None, wide @ head.weight.double().T, data)
    expected.backward()
    close(sums[0].detach(), expected.detach())
    close(states.grad, wide.grad)
    assert (sums[2] == 0) == (taught == "none")


def test_the_parts_are_the_sums_of_cross_entropy_and_of_the_loss_where_taught() -> None:
    head, states, data = linear(), hidden(), rows()
    sums = HeadLoss(loss_named("kl"), GOLD_WEIGHT, 5).sums(halves(head), states, data)
    logits = states.detach() @ head.weight.detach().T
    plain = replace(data, normalised=False)
    kl = LOSSES["kl"](logits, plain, PARAMS["kl"]())
    close(sums[1].detach(), functional.cross_entropy(logits, data.gold_R, reduction="sum"))
    close(sums[2].detach(), kl[data.taught_R].sum())


def test_the_head_runs_once_per_chunk_and_no_logits_are_kept() -> None:
    calls = []

    class Counted(nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            calls.append(len(states))
            return super().forward(states)

    head, states = Counted(H, V, bias=False), hidden()
    sums = HeadLoss(loss_named("kl"), GOLD_WEIGHT, 10).sums(halves(head), states, rows())
    assert {tuple(t.shape) for t in sums.grad_fn.saved_tensors} == {(R, H), (V, H)}
    sums[0].backward()
    assert calls == [10, 10, 3]


def test_a_frozen_head_gets_no_gradient_and_frozen_hidden_states_none_either() -> None:
    objective = HeadLoss(loss_named("kl"), GOLD_WEIGHT, 5)
    head, states = linear(), hidden()
    objective.sums(halves(head), states, rows())[0].backward()
    frozen, other = linear().requires_grad_(False), hidden()
    sums = objective.sums(halves(frozen), other, rows())
    assert [tuple(t.shape) for t in sums.grad_fn.saved_tensors] == [(R, H)]
    sums[0].backward()
    assert frozen.weight.grad is None
    close(other.grad, states.grad)
    again = linear()
    objective.sums(halves(again), hidden().detach(), rows())[0].backward()
    close(again.weight.grad, head.weight.grad)


def test_without_gradients_the_sums_are_the_same() -> None:
    head, states, data = linear(), hidden(), rows()
    objective = HeadLoss(loss_named("jsd"), GOLD_WEIGHT, 5)
    with torch.no_grad():
        quiet = objective.sums(halves(head), states, data)
    assert not quiet.requires_grad
    close(quiet, objective.sums(halves(head), states, data).detach())


def test_a_second_backward_pass_over_one_graph_is_refused() -> None:
    sums = HeadLoss(None, 1.0, 5).sums(halves(linear()), hidden(), rows())
    sums[0].backward()
    with pytest.raises(RuntimeError, match="second time"):
        sums[0].backward()


def test_hooks_of_the_head_run_once_and_its_forward_is_put_back() -> None:
    head, seen = linear(), []
    head.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    HeadLoss(loss_named("kl"), GOLD_WEIGHT, 5).sums(halves(head), hidden(), rows())[0].backward()
    assert seen == [R]
    assert "forward" not in vars(head)
    assert head(hidden()).shape == (R, V)


def test_weights_that_are_no_parameters_of_the_head_still_get_their_gradient() -> None:
    # FSDP 1 keeps one flat parameter and puts views of it where the weights were.
    whole, states = linear(), hidden()
    flat = nn.Parameter(whole.weight.detach().flatten().clone())
    head = linear()
    del head.weight
    head.weight = flat.view(V, H)
    objective = HeadLoss(loss_named("kl"), GOLD_WEIGHT, 5)
    sums = objective.sums(halves(head), states, rows())
    sums[0].backward()
    other = hidden()
    expected = objective.sums(halves(whole), other, rows())
    expected[0].backward()
    close(sums.detach(), expected.detach())
    close(flat.grad.view(V, H), whole.weight.grad)
    close(states.grad, other.grad)


def test_head_gradients_of_many_chunks_are_added_up_in_float32() -> None:
    head, states, data = linear().bfloat16(), hidden(512), rows(512)
    whole = copy.deepcopy(head).float()
    HeadLoss(None, 1.0, 1).sums(halves(head), states.detach().bfloat16(), data)[0].backward()
    HeadLoss(None, 1.0, 512).sums(halves(whole), states.detach().bfloat16().float(), data)[
        0
    ].backward()
    # One bf16 rounding of the result (2^-9 relative) and one of every chunk's share, no more.
    spread = float(whole.weight.grad.abs().max())
    assert (head.weight.grad.float() - whole.weight.grad).abs().max() < 4e-3 * spread


def test_under_autocast_the_head_computes_in_bf16_and_the_loss_in_float32() -> None:
    head, states, data = linear(), hidden(), rows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = HeadLoss(loss_named("kl"), GOLD_WEIGHT, 5).sums(halves(head), states, data)
    sums[0].backward()
    other, plain = linear(), hidden()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = other(plain)
    expected = dense("kl", logits.double(), data)
    expected.backward()
    assert sums.dtype == states.grad.dtype == head.weight.grad.dtype == torch.float32
    assert sums[0].item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, theirs in ((states.grad, plain.grad), (head.weight.grad, other.weight.grad)):
        assert (mine - theirs).abs().max() < 1e-2 * theirs.abs().max()


def test_an_adapter_on_the_head_is_used_and_trained() -> None:
    from peft import LoraConfig, get_peft_model

    def adapted(model: nn.Module) -> nn.Module:
        torch.manual_seed(3)
        settings = LoraConfig(r=2, target_modules=["lm_head", "q_proj"], init_lora_weights=False)
        return get_peft_model(model, settings)

    batch, data = batch_of(V), rows(12)
    ours = tiny_model("qwen2", V, 1).eval()
    wrapped = adapted(with_position_loss(ours, loss_named("kl"), gold_weight=0.3, loss_rows=5))
    found = wrapped(**batch, **fields(data))
    found["loss"].backward()
    plain = adapted(tiny_model("qwen2", V, 1).eval()).double()
    logits = plain(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = dense("kl", logits[batch["predicts_BL"]], data)
    expected.backward()
    close(found["loss"].detach(), expected.detach())
    compared = compare_gradients(wrapped, plain)
    assert any("lm_head.lora_A" in name for name in compared)
    assert all("lora" in name for name in compared)


def batch_of(vocabulary: int) -> dict[str, torch.Tensor]:
    """Two examples of 9 and 7 tokens, the second padded; 12 response positions."""
    draw = torch.Generator().manual_seed(4)
    ids = torch.randint(1, vocabulary, (2, 9), generator=draw)
    mask, predicts = torch.ones(2, 9, dtype=torch.long), torch.zeros(2, 9, dtype=torch.bool)
    ids[1, 7:], mask[1, 7:] = 0, 0
    predicts[0, 1:8], predicts[1, 1:6] = True, True
    return {"input_ids": ids, "attention_mask": mask, "predicts_BL": predicts}


def fields(data: SparseTarget) -> dict[str, torch.Tensor]:
    """What a batch holds of the rows."""
    return {name: value for name, value in vars(data).items() if name != "normalised"}


def compare_gradients(mine: nn.Module, theirs: nn.Module) -> list[str]:
    """Compare every gradient; the names of those that there are."""
    found = {name: p.grad for name, p in mine.named_parameters() if p.grad is not None}
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys() and found
    for name, gradient in found.items():
        close(gradient, expected[name], name)
    return list(found)


def architecture(kind: str, tied: bool):
    """A tiny model whose head does something to its logits, or does not."""
    torch.manual_seed(5)
    shape = {
        "vocab_size": V,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "tie_word_embeddings": tied,
        "initializer_range": 0.3,
        "pad_token_id": 0,
    }
    if kind == "capped":
        config = Gemma2Config(**shape, final_logit_softcapping=2.0)
    else:
        del shape["head_dim"]
        config = CohereConfig(**shape, logit_scale=0.25)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["capped", "scaled"])
def test_whole_models_with_padding_equal_their_own_dense_logits(kind, tied, checkpointing) -> None:
    model, batch, data = architecture(kind, tied), batch_of(V), rows(12)
    plain = copy.deepcopy(model).double()
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.train()  # checkpoints only then; there is no dropout in it
    ours = with_position_loss(model, loss_named("kl"), gold_weight=GOLD_WEIGHT, loss_rows=5)
    found = ours(**batch, **fields(data))
    found["loss"].backward()
    logits = plain(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = dense("kl", logits[batch["predicts_BL"]], data)
    expected.backward()
    close(found["loss"].detach(), expected.detach())
    compare_gradients(ours, plain)
