"""A mixture of experts made of dense models."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from conftest import byte_level_tokenizer
from made import SMALL, WEIGHTS, adapted, changed_json, loaded, logits, made
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.errors import ArtifactError, CheckpointError, RecipeError

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


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_base_leaves_to_its_model_type_is_written_out(tmp_path, kind):
    """Rope's base is 10,000 for Llama and Mistral by default, 1,000,000 for Mixtral."""
    experts(tmp_path, KINDS[kind], same=True)
    for name in "abc":
        path = tmp_path / name / "config.json"
        values = json.loads(path.read_text())
        for key in ("rope_parameters", "rope_theta", "rms_norm_eps", "max_position_embeddings"):
            values.pop(key, None)
        path.write_text(json.dumps(values))
    ids = torch.arange(2, 60)[None]
    expected = logits(loaded(tmp_path / "a"), ids)
    torch.testing.assert_close(logits(loaded(mixed(tmp_path)), ids), expected, rtol=1e-4, atol=1e-5)


def test_a_base_of_which_some_layers_have_a_window_is_refused(tmp_path):
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}
    experts(tmp_path, Qwen3Config, same=True, **window)
    with pytest.raises(CheckpointError, match="some of its layers have a window"):
        mixed(tmp_path)


def test_a_head_of_a_tied_base_that_is_its_own_stays(tmp_path):
    experts(tmp_path, same=True)
    for name in "abc":
        changed_json(tmp_path / name / "config.json", tie_word_embeddings=True)
    out = mixed(tmp_path)
    assert not json.loads((out / "config.json").read_text())["tie_word_embeddings"]
    head = load_file(tmp_path / "a" / WEIGHTS)["lm_head.weight"]
    assert torch.equal(loaded(out).lm_head.weight, head)


def test_routers_see_what_the_base_s_adapter_makes_of_the_prompts(tmp_path):
    experts(tmp_path)
    adapter = adapted(tmp_path / "a", tmp_path / "ad", target_modules=["q_proj", "v_proj"])
    adapter.merge_and_unload().save_pretrained(tmp_path / "merged")
    byte_level_tokenizer(290).save_pretrained(tmp_path / "merged")
    one, other, bare = (
        load_file(mixed(tmp_path, out, base_model=base) / WEIGHTS)
        for out, base in (("one", "a+ad"), ("other", "merged"), ("bare", "a"))
    )
    gate = "model.layers.3.block_sparse_moe.gate.weight"
    torch.testing.assert_close(one[gate], other[gate], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(one[gate], bare[gate], rtol=1e-3)


def test_a_base_saved_inside_of_torch_compile_is_read_by_its_own_names(tmp_path):
    """transformers would make up every weight of it, and routers of that."""
    experts(tmp_path)
    expected = load_file(mixed(tmp_path, "plain") / WEIGHTS)
    values = load_file(tmp_path / "a" / WEIGHTS)
    wrapped = {f"_orig_mod.{name}": tensor for name, tensor in values.items()}
    save_file(wrapped, tmp_path / "a" / WEIGHTS, metadata={"format": "pt"})
    found = load_file(mixed(tmp_path) / WEIGHTS)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_prompts_of_which_no_router_can_be_made_are_refused(tmp_path):
    experts(tmp_path)
    listed = [{"source_model": "b", "positive_prompts": ["x"]}]
    empty = {"source_model": "c", "positive_prompts": [""]}
    same = {"source_model": "c", "positive_prompts": ["y"], "negative_prompts": ["y"]}
    for one, match in ((empty, "'' has no token"), (same, "prompts of c are the same")):
        with pytest.raises(RecipeError, match=match):
            mixed(tmp_path, experts=[*listed, one])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(ArtifactError, match="exists already"):
        mixed(tmp_path)


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
