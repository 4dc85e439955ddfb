"""GGUF files and compressed-tensors folders in a merge: `dequantize: true`, or refused by name."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from conftest import byte_level_tokenizer
from made import SMALL, WEIGHTS, copied, loaded, made, mean_of
from safetensors.torch import load_file
from transformers import LlamaConfig, Qwen2Config

from infifusion.errors import CheckpointError

QWEN = {key: value for key, value in SMALL.items() if key not in ("head_dim", "vocab_size")}
IN_GGUF = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def in_gguf(name: str) -> str:
    """What llama.cpp calls a tensor of Qwen2."""
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    module, _, last = name.rpartition(".")
    if module in outside:
        return f"{outside[module]}.{last}"
    _, _, number, inner = module.split(".", 3)
    return f"blk.{number}.{IN_GGUF[inner]}.{last}"


def as_gguf(folder, out):
    """The Qwen2 model in one GGUF file, matrices in eight bits, with its tokenizer inside."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    out.mkdir()
    writer = gguf.GGUFWriter(out / "model-Q8_0.gguf", "qwen2")
    writer.add_name("tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    special = {one["content"] for one in tokenizer["added_tokens"]}
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    kept = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        values = tensor.float().numpy()
        kind = gguf.GGMLQuantizationType.F32
        if values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            packed = gguf.quants.quantize(values, kind)
            writer.add_tensor(in_gguf(name), packed, raw_dtype=kind)
            values = gguf.quants.dequantize(packed, kind)
        else:
            writer.add_tensor(in_gguf(name), values)
        kept[name] = torch.from_numpy(np.array(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kept


@pytest.mark.parametrize("base", ["a", "g"])
def test_a_gguf_file_is_merged_by_its_own_values_and_gives_its_tokenizer(tmp_path, base):
    pytest.importorskip("gguf", reason="GGUF files need the package gguf")
    sizes = {"vocab_size": 320, "intermediate_size": 64}
    for seed, name in enumerate("ab"):
        made(tmp_path / name, Qwen2Config(**QWEN | sizes), seed=seed)
        byte_level_tokenizer(320).save_pretrained(tmp_path / name)
    inside = as_gguf(tmp_path / "b", tmp_path / "g")
    out = mean_of(tmp_path, *["a", "g"][:: 1 if base == "a" else -1], dequantize=True)
    found = loaded(out).state_dict()
    other = load_file(tmp_path / "a" / WEIGHTS)
    for name, tensor in inside.items():
        torch.testing.assert_close(found[name].float(), (tensor + other[name]) / 2, msg=name)
    assert (out / "tokenizer.json").is_file()


def eight_bits(tensors):
    """Every linear layer as int8 and a scale per row, as llm-compressor writes it."""
    made_of = {}
    for name, tensor in tensors.items():
        if name.endswith("proj.weight"):
            scale = tensor.abs().amax(dim=1, keepdim=True) / 127
            made_of[name] = (tensor / scale).round().clamp(-128, 127).to(torch.int8)
            made_of[f"{name}_scale"] = scale
        else:
            made_of[name] = tensor
    return made_of


COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "channel",
                "dynamic": False,
            },
        }
    },
}


def compressed(folder):
    for seed, name in enumerate("ab"):
        made(folder / name, LlamaConfig(**SMALL), seed=seed)
    copied(folder / "b", "c", tensors=eight_bits, quantization_config=COMPRESSED)
    return folder


def test_compressed_tensors_are_merged_by_their_values(tmp_path):
    pytest.importorskip("compressed_tensors", reason="needs the package compressed-tensors")
    compressed(tmp_path)
    found = loaded(mean_of(tmp_path, "a", "c", dequantize=True)).state_dict()
    a, c = (load_file(tmp_path / name / WEIGHTS) for name in "ac")
    for name, tensor in a.items():
        theirs = c[name].float() * c.get(f"{name}_scale", torch.ones(1))
        torch.testing.assert_close(found[name], (tensor + theirs) / 2, msg=name)


@pytest.mark.skipif(
    importlib.util.find_spec("compressed_tensors") is not None,
    reason="the package is there, and the model is dequantised",
)
def test_compressed_tensors_without_their_package_are_refused_by_name(tmp_path):
    compressed(tmp_path)
    with pytest.raises(CheckpointError, match=r"c: transformers cannot .*compressed-tensors"):
        mean_of(tmp_path, "a", "c", dequantize=True)
    assert not (tmp_path / "out").exists()
