"""Merges of parts of models: language model, towers, projectors, any part of tensors' names."""

from __future__ import annotations

import pytest
import torch
from conftest import byte_level_tokenizer
from made import SMALL, WEIGHTS, adapted, copied, loaded, logits, made, merged, notes_of
from safetensors.torch import load_file
from test_adapters import LLAVA, new_names
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3MoeConfig,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from infifusion.errors import CheckpointError, RecipeError

SEES = AutoModelForImageTextToText
TEXT = {key: value for key, value in SMALL.items() if key not in ("head_dim",)}
EYES = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 4, "intermediate_size": 32}
QWEN2_VL = Qwen2VLConfig(
    text_config={**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
    vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 4},
    image_token_id=90,
    video_token_id=91,
    vision_start_token_id=92,
    vision_end_token_id=93,
)
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
QWEN3_VL_MOE = Qwen3VLMoeConfig(
    text_config={
        **SMALL,
        **EXPERTS,
        "num_experts": 4,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]},
    },
    vision_config={**EYES, "out_hidden_size": 32, "deepstack_visual_indexes": [0]},
    image_token_id=90,
    video_token_id=91,
    vision_start_token_id=92,
    vision_end_token_id=93,
)


def listed(*names, **more):
    return {"models": [{"model": name, "parameters": {"weight": 1.0}} for name in names], **more}


def of_language(name: str) -> bool:
    return "language_model" in name or name.startswith("lm_head")


@pytest.fixture
def seeing(tmp_path):
    """Two models that see, a and b."""
    for seed, name in enumerate("ab"):
        made(tmp_path / name, LLAVA, kind=LlavaForConditionalGeneration, seed=seed)
    return tmp_path


def tensors_of(folder, *names):
    return [load_file(folder / name / WEIGHTS) for name in names]


def test_each_module_is_merged_of_its_own_models(seeing):
    """The language models are averaged, the tower is b's, the projector a's."""
    out = merged(
        seeing,
        merge_method="linear",
        modules={
            "text_decoder": listed("a", "b"),
            "vision_tower": listed("b"),
            "multi_modal_projector": listed("a"),
        },
    )
    loaded(out, SEES)
    found, a, b = tensors_of(seeing, "out", "a", "b")
    assert found.keys() == a.keys()
    for name, tensor in found.items():
        if of_language(name):
            torch.testing.assert_close(tensor, (a[name] + b[name]) / 2)
        else:
            assert torch.equal(tensor, (a if "projector" in name else b)[name])


def test_what_is_in_no_module_is_copied_from_the_base_and_said(seeing):
    out = merged(
        seeing, merge_method="linear", base_model="b", modules={"vision_tower": listed("a")}
    )
    found, a, b = tensors_of(seeing, "out", "a", "b")
    for name, tensor in found.items():
        assert torch.equal(tensor, (a if name.startswith("vision_tower") else b)[name])
    assert "are in none of the modules vision_tower and are copied from b" in notes_of(out)


def test_an_adapter_reaches_what_is_only_copied(seeing):
    """The base's adapter changes its language model, of which the file does not speak."""
    adapter = adapted(
        seeing / "a", seeing / "ad", kind=SEES, target_modules=r".*language_model.*(q_proj|up_proj)"
    )
    out = merged(
        seeing, merge_method="linear", base_model="a+ad", modules={"vision_tower": listed("b")}
    )
    found = loaded(out, SEES).state_dict()
    expected = adapter.merge_and_unload().state_dict()
    for name, tensor in expected.items():
        if ".language_model." in name:
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("names", ["of old", "of now"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_text_model_is_merged_into_the_decoder_of_one_that_sees(seeing, names, tied):
    made(seeing / "text", LlamaConfig(**SMALL, tie_word_embeddings=tied), seed=7)
    if names == "of now":
        copied(seeing / "a", "now", renamed=new_names)
    sees = "now" if names == "of now" else "a"
    out = merged(seeing, merge_method="linear", modules={"text_decoder": listed("text", sees)})
    found = loaded(out, SEES)
    text = AutoModelForCausalLM.from_pretrained(seeing / "text")
    expected = SEES.from_pretrained(seeing / sees)
    with torch.no_grad():
        for one, other in (
            (expected.model.language_model, text.model),
            (expected.lm_head, text.lm_head),
        ):
            for parameter, more in zip(one.parameters(), other.parameters(), strict=True):
                parameter.copy_((parameter + more) / 2)
    torch.testing.assert_close(logits(found), logits(expected.eval()))
    stored = load_file(out / WEIGHTS)
    assert stored.keys() == load_file(seeing / sees / WEIGHTS).keys()
    assert f"are copied from {sees}" in notes_of(out)


def test_what_a_text_model_learnt_is_added_to_the_decoder(seeing):
    """sees + (tuned - text); the base is a text model, the config that of the one that sees."""
    for seed, name in ((5, "text"), (6, "tuned")):
        made(seeing / name, LlamaConfig(**SMALL), seed=seed)
    text, tuned = (
        AutoModelForCausalLM.from_pretrained(seeing / name) for name in ("text", "tuned")
    )
    expected = LlavaForConditionalGeneration.from_pretrained(seeing / "a")
    with torch.no_grad():
        pairs = zip(
            [*expected.model.language_model.parameters(), expected.lm_head.weight],
            [*text.model.parameters(), text.lm_head.weight],
            [*tuned.model.parameters(), tuned.lm_head.weight],
            strict=True,
        )
        for parameter, old, new in pairs:
            parameter += new - old
    found = loaded(
        merged(
            seeing,
            merge_method="task_arithmetic",
            base_model="text",
            modules={"text_decoder": listed("a", "tuned")},
        ),
        SEES,
    )
    torch.testing.assert_close(logits(found), logits(expected.eval()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", ["text", "sees"])
@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen3_vl_moe"])
def test_decoders_of_other_class_names_and_layouts_are_found(tmp_path, kind, first):
    """Qwen2-VL's layers are Qwen2's; Qwen3-VL-MoE stores its experts in one tensor, turned."""
    if kind == "qwen2_vl":
        sees = made(tmp_path / "sees", QWEN2_VL, kind=Qwen2VLForConditionalGeneration)
        text = made(tmp_path / "text", Qwen2Config(**TEXT), seed=3)
    else:
        sees = made(tmp_path / "sees", QWEN3_VL_MOE, kind=Qwen3VLMoeForConditionalGeneration)
        config = Qwen3MoeConfig(**SMALL, **EXPERTS, num_experts=4, norm_topk_prob=True)
        text = made(tmp_path / "text", config, seed=3)
    names = ["text", "sees"][:: 1 if first == "text" else -1]
    out = merged(tmp_path, merge_method="linear", modules={"text_decoder": listed(*names)})
    found = loaded(out, SEES)
    own, theirs = found.model.language_model, sees.model.language_model
    for key, tensor in text.model.state_dict().items():
        expected = (tensor + theirs.state_dict()[key]) / 2
        torch.testing.assert_close(own.state_dict()[key], expected, msg=key)
    torch.testing.assert_close(
        found.lm_head.weight, (sees.lm_head.weight + text.lm_head.weight) / 2
    )


@pytest.mark.parametrize("source", ["a", "text"])
def test_slices_stack_the_language_layers_of_a_module(seeing, source):
    made(seeing / "text", LlamaConfig(**SMALL), seed=7)
    slices = [
        {"sources": [{"model": "a", "layer_range": [0, 3]}]},
        {"sources": [{"model": source, "layer_range": [2, 4]}]},
    ]
    out = merged(seeing, merge_method="passthrough", modules={"text_decoder": {"slices": slices}})
    found = loaded(out, SEES)
    assert found.config.text_config.num_hidden_layers == 5
    last = "model.layers.3.mlp.up_proj.weight"
    weights = load_file(seeing / source / WEIGHTS)
    expected = weights[last if source == "text" else f"language_model.{last}"]
    assert torch.equal(found.model.language_model.layers[4].mlp.up_proj.weight, expected)


def test_a_part_of_names_is_a_module_and_default_is_the_rest(seeing):
    out = merged(
        seeing,
        merge_method="linear",
        modules={
            "default": listed("a"),
            "vision_tower.encoder": listed("a", "b"),
            "layers.0.mlp": listed("b"),
        },
    )
    found, a, b = tensors_of(seeing, "out", "a", "b")
    for name, tensor in found.items():
        if name.startswith("vision_tower.encoder."):  # the longer name, for its layers.0.mlp too
            torch.testing.assert_close(tensor, (a[name] + b[name]) / 2)
        elif ".layers.0.mlp." in name:
            assert torch.equal(tensor, b[name])
        else:
            assert torch.equal(tensor, a[name])
    assert "none of the modules" not in notes_of(out)


def test_parameters_of_a_module_hold_for_it_alone(seeing):
    found, a, b = (
        load_file(folder / WEIGHTS)
        for folder in (
            merged(
                seeing,
                merge_method="slerp",
                base_model="a",
                parameters={"t": 0.0},
                modules={
                    "text_decoder": {"models": [{"model": "b"}], "parameters": {"t": 1.0}},
                    "vision_tower": {"models": [{"model": "b"}]},
                },
            ),
            seeing / "a",
            seeing / "b",
        )
    )
    for name, tensor in found.items():
        assert torch.equal(tensor, (b if of_language(name) else a)[name])


def test_a_list_goes_over_the_layers_of_its_own_module(seeing):
    """The tower has three layers, though the language model has four."""
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    config = LlavaConfig(
        text_config=LlamaConfig(**SMALL),
        vision_config=vision,
        image_token_index=99,
        vision_feature_layer=-1,
    )
    for seed, name in enumerate("cd"):
        made(seeing / name, config, kind=LlavaForConditionalGeneration, seed=seed)
    merged(
        seeing,
        merge_method="slerp",
        base_model="c",
        modules={"vision_tower": {"models": [{"model": "d"}], "parameters": {"t": [0, 1]}}},
    )
    found, c, d = tensors_of(seeing, "out", "c", "d")
    name = "vision_tower.encoder.layers.{}.mlp.fc1.weight"
    assert torch.equal(found[name.format(0)], c[name.format(0)])
    assert torch.equal(found[name.format(2)], d[name.format(2)])


def test_a_vocabulary_is_made_anew_for_the_language_module(seeing):
    made(seeing / "text", LlamaConfig(**SMALL | {"vocab_size": 300}), seed=7)
    for seed, name in enumerate("cd"):
        config = LlavaConfig(
            text_config=LlamaConfig(**SMALL | {"vocab_size": 280 + 20 * seed}),
            vision_config=LLAVA.vision_config,
            image_token_index=99,
        )
        made(seeing / name, config, kind=LlavaForConditionalGeneration, seed=seed)
        byte_level_tokenizer(270 + 20 * seed).save_pretrained(seeing / name)
    byte_level_tokenizer(290).save_pretrained(seeing / "text")
    out = merged(
        seeing,
        merge_method="linear",
        tokenizer_source="union",
        modules={"text_decoder": listed("c", "text"), "vision_tower": listed("c", "d")},
    )
    found = loaded(out, SEES)
    rows = found.get_input_embeddings().weight
    assert len(rows) == found.config.text_config.vocab_size >= 285
    text, c = tensors_of(seeing, "text", "c")
    both = (text["model.embed_tokens.weight"] + 0)[7]
    both = (both + c["language_model.model.embed_tokens.weight"][7]) / 2
    torch.testing.assert_close(rows[7], both)


def test_towers_are_merged_though_the_language_models_differ(seeing):
    """Only what is merged has to calculate alike."""
    config = LlavaConfig(
        text_config=LlamaConfig(**SMALL | {"num_key_value_heads": 4, "hidden_size": 64}),
        vision_config=LLAVA.vision_config,
        image_token_index=99,
    )
    made(seeing / "wide", config, kind=LlavaForConditionalGeneration, seed=4)
    out = merged(seeing, merge_method="linear", modules={"vision_tower": listed("a", "wide")})
    loaded(out, SEES)
    found, a, wide = tensors_of(seeing, "out", "a", "wide")
    name = "vision_tower.encoder.layers.1.mlp.fc1.weight"
    torch.testing.assert_close(found[name], (a[name] + wide[name]) / 2)


@pytest.mark.parametrize(
    ("modules", "match"),
    [
        ({"sight": listed("a")}, "has none of sight.*text_decoder.*vision_tower"),
        (
            {"text_decoder": listed("a"), "language_model": listed("b")},
            "modules language_model and text_decoder are both the language model",
        ),
        (
            {
                "vision_tower": {
                    "slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]}],
                }
            },
            "vision_tower: slices stack the layers of a language model",
        ),
        ({"text_decoder": {}}, "text_decoder: give exactly one of models and slices"),
    ],
)
def test_modules_that_cannot_be_are_refused(seeing, modules, match):
    with pytest.raises(RecipeError, match=match):
        merged(seeing, merge_method="linear", modules=modules)
    assert not (seeing / "out").exists()


def test_models_without_the_module_and_of_other_layers_are_refused(seeing):
    made(seeing / "text", LlamaConfig(**SMALL), seed=7)
    made(seeing / "other", GemmaConfig(**SMALL, tie_word_embeddings=False), seed=8)
    with pytest.raises(CheckpointError, match=r"vision_tower: .*text.* has no tensor of it"):
        merged(seeing, merge_method="linear", modules={"vision_tower": listed("a", "text")})
    with pytest.raises(CheckpointError, match="copied from a"):
        merged(
            seeing,
            merge_method="task_arithmetic",
            base_model="text",
            modules={"vision_tower": listed("a"), "text_decoder": listed("a")},
        )
    with pytest.raises(CheckpointError, match="hidden_act: 'silu'.*other things"):
        merged(seeing, merge_method="linear", modules={"text_decoder": listed("a", "other")})
    with pytest.raises(CheckpointError, match=r"merged by modules: \{text_decoder"):
        merged(seeing, merge_method="linear", **listed("a", "text"))
    assert not (seeing / "out").exists()


def test_a_vocabulary_without_the_token_of_pictures_is_refused(seeing):
    """Its number would be nothing in the config."""
    tokenizer = byte_level_tokenizer(270)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    config = LlavaConfig(
        text_config=LlamaConfig(**SMALL | {"vocab_size": 280}),
        vision_config=LLAVA.vision_config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    made(seeing / "c", config, kind=LlavaForConditionalGeneration)
    tokenizer.save_pretrained(seeing / "c")
    made(seeing / "text", LlamaConfig(**SMALL | {"vocab_size": 300}), seed=7)
    byte_level_tokenizer(290).save_pretrained(seeing / "text")
    modules = {"text_decoder": listed("c", "text")}
    with pytest.raises(CheckpointError, match=r"image_token.* does not have.*union"):
        merged(seeing, merge_method="linear", tokenizer_source="text", modules=modules)
    out = merged(seeing, merge_method="linear", tokenizer_source="union", modules=modules)
    assert loaded(out, SEES).config.image_token_id == config.image_token_id


def test_two_modules_cannot_both_stack_layers(tmp_path):
    made(tmp_path / "a", LlamaConfig(**SMALL))
    stacked = {"slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]}]}
    with pytest.raises(
        RecipeError, match="modules.self_attn stacks layers, as another module does"
    ):
        merged(tmp_path, merge_method="passthrough",
               modules={"self_attn": stacked, "mlp": stacked})  # fmt: skip
    assert not (tmp_path / "out").exists()
