"""Adapters on the way into a merge: what comes out calculates as the adapted model does.

The reference is the model with its adapter, not merge_and_unload: PEFT 0.21 adds the changes of
tied or repeated tensors to one (its logits are then off by up to 90).
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from made import IDS, SMALL, adapted, changed_json, copied, loaded, logits, made, mean_of, merged
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen3MoeConfig,
)

from infifusion.errors import CheckpointError

ADAPTER = "adapter_model.safetensors"


def as_adapted(folder, adapter, kind=AutoModelForCausalLM, name="base+adapter"):
    out = merged(folder, merge_method="passthrough", models=[{"model": name}])
    torch.testing.assert_close(logits(loaded(out, kind)), logits(adapter), rtol=1e-4, atol=1e-5)
    return out


KINDS = {
    "plain": {"target_modules": ["q_proj", "up_proj"]},
    "rslora": {"target_modules": ["q_proj"], "use_rslora": True},
    "patterns": {
        "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 5},
        "alpha_pattern": {"up_proj": 3},
    },
    "all-linear": {"target_modules": "all-linear"},
    "embedding saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "both saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "norm saved": {"target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding and head": {"target_modules": ["embed_tokens", "lm_head"]},
    "dora": {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    "dora of the embedding": {"target_modules": ["q_proj", "embed_tokens"], "use_dora": True},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2, 5]},
    "parameters": {"target_modules": [], "target_parameters": ["q_proj.weight"]},
    "repeated layers": {"target_modules": ["q_proj"], "layer_replication": [[0, 3], [1, 4]]},
    "orthogonal": {"target_modules": ["q_proj"], "r": 4, "init_lora_weights": "orthogonal"},
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_every_kind_of_lora_calculates_as_it_was_trained(tmp_path, kind, tied):
    made(tmp_path / "base", LlamaConfig(**SMALL, tie_word_embeddings=tied))
    adapter = adapted(tmp_path / "base", tmp_path / "adapter", **KINDS[kind])
    as_adapted(tmp_path, adapter)


@pytest.mark.parametrize("bias", ["all", "lora_only", "of the matrices"])
@pytest.mark.filterwarnings("ignore")
def test_biases_come_along(tmp_path, bias):
    made(tmp_path / "base", LlamaConfig(**SMALL, attention_bias=True))
    options = {"lora_bias": True} if bias == "of the matrices" else {"bias": bias}
    as_adapted(
        tmp_path,
        adapted(tmp_path / "base", tmp_path / "adapter", target_modules=["q_proj"], **options),
    )


@pytest.mark.parametrize("hub_names", [False, True])
@pytest.mark.parametrize("targets", [["c_attn", "c_proj"], ["c_attn", "c_proj", "lm_head"]])
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_turned_matrices_and_the_names_of_gpt2(tmp_path, hub_names, targets, dora):
    """c_proj is square: its shape does not say which way it is stored; lm_head is not turned."""
    made(tmp_path / "base", GPT2Config(vocab_size=100, n_embd=24, n_layer=2, n_head=3))
    if hub_names:
        copied(tmp_path / "base", "hub", renamed=lambda name: name.removeprefix("transformer."))
    base = "hub" if hub_names else "base"
    adapter = adapted(
        tmp_path / base,
        tmp_path / "adapter",
        target_modules=targets,
        fan_in_fan_out=True,
        use_dora=dora,
    )
    as_adapted(tmp_path, adapter, name=f"{base}+adapter")


def test_an_adapter_of_the_model_without_head_belongs_to_it(tmp_path):
    made(tmp_path / "base", LlamaConfig(**SMALL))
    adapter = adapted(
        tmp_path / "base", tmp_path / "adapter", kind=AutoModel, target_modules=["q_proj"]
    )
    out = merged(tmp_path, merge_method="passthrough", models=[{"model": "base+adapter"}])
    found = loaded(out).model(IDS).last_hidden_state
    torch.testing.assert_close(found, adapter(IDS).last_hidden_state, rtol=1e-4, atol=1e-5)


LLAVA = LlavaConfig(
    text_config=LlamaConfig(**SMALL),
    vision_config=CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    ),
    image_token_index=99,
)


def new_names(name: str) -> str:
    """LLaVA's tensors as transformers calls them since 4.52."""
    if not name.startswith("language_model."):
        return f"model.{name}"
    name = name.replace("language_model.model.", "model.language_model.")
    return name.replace("language_model.lm_head.", "lm_head.")


@pytest.mark.parametrize("names", ["stored as of old", "stored as of now", "adapter of old"])
@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_of_a_model_that_sees_belongs_to_it(tmp_path, names, dora):
    made(tmp_path / "old", LLAVA, kind=LlavaForConditionalGeneration)
    copied(tmp_path / "old", "new", renamed=new_names)
    base = "new" if names == "stored as of now" else "old"
    if names == "adapter of old" and dora:
        pytest.skip("PEFT itself does not load these names")
    kind = AutoModelForImageTextToText
    adapter = adapted(
        tmp_path / base,
        tmp_path / "adapter",
        kind=kind,
        target_modules=["q_proj", "up_proj"],
        use_dora=dora,
    )
    if names == "adapter of old":
        values = load_file(tmp_path / "adapter" / ADAPTER)
        old = "base_model.model.language_model.model."
        now = "base_model.model.model.language_model."
        save_file(
            {
                k.replace(now, old).replace("model.model.vision", "model.vision"): v
                for k, v in values.items()
            },
            tmp_path / "adapter" / ADAPTER,
        )
    as_adapted(tmp_path, adapter, kind, name=f"{base}+adapter")


@pytest.mark.parametrize("fused", [False, True], ids=["experts one by one", "experts in one"])
@pytest.mark.parametrize("names", [["gate_up_proj", "down_proj"], ["down_proj"]])
@pytest.mark.filterwarnings("ignore")
def test_lora_on_the_experts(tmp_path, fused, names):
    config = Qwen3MoeConfig(**SMALL, num_experts=4, moe_intermediate_size=16, num_experts_per_tok=2)
    model = made(tmp_path / "base", config)
    if fused:
        copied(tmp_path / "base", "fused", tensors=lambda _: dict(model.state_dict()))
        shutil.move(tmp_path / "fused", tmp_path / "base2")
    base = "base2" if fused else "base"
    adapter = adapted(
        tmp_path / base,
        tmp_path / "adapter",
        target_modules=["q_proj"],
        target_parameters=[f"mlp.experts.{name}" for name in names],
    )
    as_adapted(tmp_path, adapter, name=f"{base}+adapter")


def test_an_adapter_that_brought_tokens_brings_their_rows_and_the_size_of_the_vocabulary(tmp_path):
    made(tmp_path / "base", LlamaConfig(**SMALL))
    grown = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    grown.resize_token_embeddings(104)
    grown.save_pretrained(tmp_path / "grown")
    adapter = adapted(
        tmp_path / "grown",
        tmp_path / "adapter",
        target_modules=["q_proj"],
        modules_to_save=["embed_tokens", "lm_head"],
    )
    (tmp_path / "adapter" / "tokenizer.json").write_text("{}")
    out = as_adapted(tmp_path, adapter)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 104
    assert (out / "tokenizer.json").exists()


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_takes_part_in_a_merge_with_others(tmp_path, dora):
    made(tmp_path / "base", LlamaConfig(**SMALL))
    made(tmp_path / "other", LlamaConfig(**SMALL), seed=1)
    adapter = adapted(
        tmp_path / "base", tmp_path / "adapter", target_modules=["q_proj"], use_dora=dora
    )
    out = mean_of(tmp_path, "other", "base+adapter")
    one = load_file(tmp_path / "other" / "model.safetensors")
    two = adapter.merge_and_unload().state_dict()
    for name, tensor in load_file(out / "model.safetensors").items():
        torch.testing.assert_close(tensor, (one[name] + two[name]) / 2, rtol=1e-5, atol=1e-6)


@pytest.fixture
def pair(tmp_path):
    """base/ and its plain adapter/."""
    made(tmp_path / "base", LlamaConfig(**SMALL))
    adapted(tmp_path / "base", tmp_path / "adapter", target_modules=["q_proj"])
    return tmp_path


def refused(folder, match, name="base+adapter", **options):
    with pytest.raises(CheckpointError, match=match):
        merged(folder, merge_method="passthrough", models=[{"model": name}], **options)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_an_adapter_that_took_a_part_of_the_base_is_refused_by_name(pair, start):
    changed_json(pair / "adapter" / "adapter_config.json", init_lora_weights=start)
    refused(pair, f"init_lora_weights is '{start}'.*path_initial_model_for_weight_conversion")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alora_invocation_tokens", [1, 2]),
        ("use_qalora", True),
        ("kasa_config", {"beta": 1}),
        ("arrow_config", {"top_k": 1}),
        ("use_bdlora", {"nblocks": 2}),
        ("megatron_config", {"x": 1}),
        ("a_key_of_tomorrow", 3),
    ],
)
def test_a_key_that_is_not_known_is_refused_by_name(pair, key, value):
    changed_json(pair / "adapter" / "adapter_config.json", **{key: value})
    refused(pair, rf"adapter_config.json has {key}: ")


@pytest.mark.parametrize(
    "values",
    [
        {"lora_dropout": 0.3},
        {"qalora_group_size": 16},
        {"a_key_of_tomorrow": None},
        {"use_dora": False},
        {"megatron_core": "megatron.core"},
    ],
)
def test_keys_that_change_nothing_are_taken(pair, values):
    changed_json(pair / "adapter" / "adapter_config.json", **values)
    loaded(merged(pair, merge_method="passthrough", models=[{"model": "base+adapter"}]))


def test_a_rank_unlike_that_of_the_matrices_is_refused_with_both(pair):
    changed_json(pair / "adapter" / "adapter_config.json", r=8)
    refused(pair, r"lora_A.weight is \[3, 32\].*says rank 8")


def test_matrices_that_do_not_fit_each_other_are_refused_with_both(pair):
    values = load_file(pair / "adapter" / ADAPTER)
    values = {k: v[:2].clone() if "lora_A" in k else v for k, v in values.items()}
    save_file(values, pair / "adapter" / ADAPTER)
    refused(pair, r"lora_A.weight is \[2, 32\] and .*lora_B.weight \[32, 3\]")


def test_nan_in_an_adapter_is_named(pair):
    values = load_file(pair / "adapter" / ADAPTER)
    name = min(values)
    save_file(values | {name: values[name] * float("nan")}, pair / "adapter" / ADAPTER)
    refused(pair, f"the adapter's tensor {name} holds NaN or Inf")


def test_an_adapter_of_another_model_is_refused_with_the_one_it_was_trained_on(pair):
    values = load_file(pair / "adapter" / ADAPTER)
    values = {k.replace("q_proj", "query"): v for k, v in values.items()}
    save_file(values, pair / "adapter" / ADAPTER)
    refused(pair, r"changes .*query.weight, which .* does not have.*trained on .*/base ")


def test_several_adapters_and_an_adapter_alone_are_refused_with_what_to_write(pair):
    refused(pair, r"one adapter is merged into a model at a time", "base+adapter+adapter")
    refused(pair, r"is an adapter, not a model. .*/base\+adapter", "adapter")


def test_pickled_adapters_are_read_where_that_is_asked_for(pair):
    expected = merged(pair, "a", merge_method="passthrough", models=[{"model": "base+adapter"}])
    torch.save(load_file(pair / "adapter" / ADAPTER), pair / "adapter" / "adapter_model.bin")
    (pair / "adapter" / ADAPTER).unlink()
    refused(pair, "--allow-pickle")
    listed = [{"model": "base+adapter"}]
    found = merged(pair, "b", pickle=True, merge_method="passthrough", models=listed)
    assert (found / "model.safetensors").read_bytes() == (
        expected / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    "model",
    [
        {"model": "base", "lora": "adapter"},
        {"model": {"path": "base"}, "lora": {"path": "adapter"}},
        {"model": {"path": "base", "revision": None}, "lora": "adapter"},
    ],
)
def test_the_long_form_of_a_model_is_the_short_one(pair, model):
    one = merged(pair, "a", merge_method="passthrough", models=[{"model": "base+adapter"}])
    other = merged(pair, "b", merge_method="passthrough", models=[{"model": model}])
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_whole_numbers_take_no_adapter(pair):
    def whole(tensors):
        return {k: (v * 10).to(torch.int8) if "q_proj" in k else v for k, v in tensors.items()}

    copied(pair / "base", "int8", tensors=whole)
    refused(pair, "q_proj.weight, which .*int8 stores as I8: quantised", "int8+adapter")


def test_a_model_of_which_peft_would_make_up_a_tensor_is_refused(tmp_path):
    """DoRA is merged by PEFT, which loads the model; a missing head would be random."""
    made(tmp_path / "a", LlamaConfig(**SMALL))
    adapted(tmp_path / "a", tmp_path / "ad", target_modules=["q_proj"], use_dora=True)
    values = load_file(tmp_path / "a" / "model.safetensors")
    del values["lm_head.weight"]
    save_file(values, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks lm_head.weight.* would be random"):
        merged(tmp_path, merge_method="passthrough", models=[{"model": "a+ad"}])
