"""A mixture of experts made of dense models."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from conftest import byte_level_tokenizer
from made import SMALL, WEIGHTS, adapted, loaded, logits, made
from safetensors.torch import load_file
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.errors import CheckpointError, RecipeError

CONFIG = SMALL | {"vocab_size": 300}
KINDS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen3": Qwen3Config}


def experts(folder, kind=LlamaConfig, *, same=False, **config):
    for seed, name in enumerate("abc"):
        made(folder / name, kind(**{**CONFIG, **config}), seed=0 if same else seed)
        byte_level_tokenizer(290).save_pretrained(folder / name)
    return folder


def mixed(folder, out="out", **values):
    listed = [
        {"source_model": name, "positive_prompts": [prompt]}
        for name, prompt in (("b", "Find t such that"), ("c", "def f(k):"))
    ]
    path = folder / "moe.yaml"
    path.write_text(yaml.safe_dump({"base_model": "a", "experts": listed, **values}))
    found = CliRunner().invoke(cli.app, ["moe", str(path), str(folder / out)])
    if found.exception:
        raise found.exception
    return folder / out


@pytest.mark.parametrize("mode", ["hidden", "cheap_embed", "random"])
@pytest.mark.parametrize("kind", KINDS)
def test_experts_that_are_the_base_calculate_as_the_base(tmp_path, kind, mode):
    """The weights of the chosen experts add up to 1."""
    experts(tmp_path, KINDS[kind], same=True)
    out = mixed(tmp_path, gate_mode=mode)
    torch.testing.assert_close(
        logits(loaded(out)), logits(loaded(tmp_path / "a")), rtol=1e-4, atol=1e-5
    )
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == ("qwen3_moe" if kind == "qwen3" else "mixtral")
    assert (out / "tokenizer.json").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_each_expert_has_its_model_s_layers_and_the_rest_is_the_base_s(tmp_path, kind):
    experts(tmp_path, KINDS[kind])
    found = loaded(mixed(tmp_path))
    models = {name: loaded(tmp_path / name) for name in "abc"}
    for n, layer in enumerate(found.model.layers):
        fused = layer.mlp.experts.gate_up_proj
        for e, name in enumerate("bc"):
            mlp = models[name].model.layers[n].mlp
            assert torch.equal(fused[e], torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
            assert torch.equal(layer.mlp.experts.down_proj[e], mlp.down_proj.weight)
        attention = models["a"].model.layers[n].self_attn
        assert torch.equal(layer.self_attn.q_proj.weight, attention.q_proj.weight)


def test_a_hidden_router_chooses_the_expert_of_its_prompt(tmp_path):
    """The rows are what the router sees of each prompt's last token, at length 1."""
    experts(tmp_path, same=True)
    out = mixed(tmp_path, experts_per_token=1)
    model = loaded(out)
    tokenizer = byte_level_tokenizer(290)
    for expert, prompt in enumerate(("Find t such that", "def f(k):")):
        chosen: list = []
        hooks = [
            layer.mlp.gate.register_forward_hook(
                lambda _, __, given, chosen=chosen: chosen.append(given)
            )
            for layer in model.model.layers
        ]
        logits(model, tokenizer(prompt, return_tensors="pt").input_ids)
        for hook in hooks:
            hook.remove()
        scores = [given[0] if isinstance(given, tuple) else given for given in chosen]
        assert all(int(score.reshape(-1, 2)[-1].argmax()) == expert for score in scores)


def test_an_expert_may_be_a_model_with_an_adapter(tmp_path):
    experts(tmp_path)
    adapter = adapted(tmp_path / "b", tmp_path / "ad", target_modules=["up_proj"])
    listed = [{"source_model": "b+ad"}, {"source_model": "c"}]
    found = load_file(mixed(tmp_path, gate_mode="random", experts=listed) / WEIGHTS)
    expected = adapter.merge_and_unload().state_dict()["model.layers.1.mlp.up_proj.weight"]
    made_of = found["model.layers.1.block_sparse_moe.experts.0.w3.weight"]
    torch.testing.assert_close(made_of, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"experts_per_token": 3}, "experts_per_token is 3, but there are 2"),
        ({"experts": [{"source_model": "b"}, {"source_model": "c"}]}, "b has no positive_prompts"),
        (
            {
                "experts": [
                    {"source_model": "b", "positive_prompts": ["x"]},
                    {"source_model": "c", "positive_prompts": ["x"]},
                ]
            },
            "the same prompts",
        ),
        ({"shared_experts": []}, "shared_experts"),
    ],
)
def test_what_no_router_can_do_is_refused(tmp_path, values, match):
    with pytest.raises(RecipeError, match=match):
        mixed(experts(tmp_path), **values)


def test_models_that_cannot_be_experts_are_refused(tmp_path):
    experts(tmp_path)
    made(tmp_path / "wide", LlamaConfig(**CONFIG | {"intermediate_size": 64}))
    byte_level_tokenizer(290).save_pretrained(tmp_path / "wide")
    listed = [{"source_model": "b"}, {"source_model": "wide"}]
    with pytest.raises(CheckpointError, match=r"is \[32, 64\] in .*wide, but \[32, 48\]"):
        mixed(tmp_path, gate_mode="random", experts=listed)
    without = {key: value for key, value in CONFIG.items() if key != "head_dim"}
    made(tmp_path / "q", Qwen2Config(**without))
    with pytest.raises(CheckpointError, match="qwen2.*llama, mistral, qwen3"):
        mixed(tmp_path, base_model="q", gate_mode="random")
    assert not (tmp_path / "out").exists()
