"""Models in GGUF files: as sources, as a pivot, converted once, by a command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import byte_level_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import infifusion
from infifusion.errors import CheckpointError
from infifusion.recipe import Model, Recipe
from infifusion.stages.check import check_recipe
from infifusion.teacher.gguf import as_folder, convert_gguf, gguf_of

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def as_llama_cpp_has_it(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of q and k in the order of llama.cpp's rotary embedding."""
    size = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, size, -1).swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    """A tiny Llama in a GGUF file, with its tokenizer and a chat template; and the model."""
    tokenizer = byte_level_tokenizer(300)
    vocabulary = len(tokenizer)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
            tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocabulary)
    values = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(values["vocab"], key=values["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<eos>" else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in values["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    outer = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    for name, weight in model.state_dict().items():
        if name in outer:
            stored = outer[name]
        else:
            _, _, layer, inner = name.split(".", 3)
            stored = f"blk.{layer}.{names[inner.removesuffix('.weight')]}.weight"
        if ".q_proj" in name:
            weight = as_llama_cpp_has_it(weight, 4)
        if ".k_proj" in name:
            weight = as_llama_cpp_has_it(weight, 2)
        writer.add_tensor(stored, np.ascontiguousarray(weight.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, model


def test_the_folder_calculates_what_the_file_holds(
    made: tuple[Path, LlamaForCausalLM], tmp_path: Path
) -> None:
    path, model = made
    said = convert_gguf(path, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            again(ids).logits, model.eval()(ids).logits, rtol=1e-4, atol=1e-5
        )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "Ben has 5 coins, naïve 🙂\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert tokenizer.chat_template == TEMPLATE
    assert "as float32" in said[0] and said[1] == "the head has weights of its own"


def test_a_source_and_a_pivot_in_a_file_are_converted_once_and_fused(
    made: tuple[Path, LlamaForCausalLM],
    suite: Path,
    make_recipe: Callable[..., dict],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, _ = made
    monkeypatch.setenv("INFIFUSION_CACHE", str(tmp_path / "cache"))
    recipe = make_recipe(
        suite,
        pivot={"model": str(path)},
        sources={
            "a": {"model": str(path.parent), "gguf_file": path.name},
            "b": {"model": str(suite / "c"), "chat_template": TEMPLATE},
        },
        fuse={"unified": {"function": "mean", "gate": "none"}},
        distill={"unified": {"target": "unified"}},
        merge={},
        evaluate={"models": ["pivot", "unified"]},
    )
    infifusion.run(recipe, tmp_path / "r")
    folders = list((tmp_path / "cache/gguf").iterdir())
    assert len(folders) == 1 and folders[0].name.startswith("tiny-")
    before = (folders[0] / "config.json").stat().st_mtime_ns
    infifusion.run(recipe, tmp_path / "r")
    assert (folders[0] / "config.json").stat().st_mtime_ns == before
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "r/distill/unified/model")
    assert not hasattr(model.config, "quantization_config")


def test_a_file_without_its_ending_is_known_by_its_first_bytes(
    made: tuple[Path, LlamaForCausalLM], tmp_path: Path
) -> None:
    blob = tmp_path / "sha256-1234"
    blob.write_bytes(made[0].read_bytes())
    assert gguf_of(Model(model=str(blob))) == blob


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"model": "llama3.2:3b"}, "'llama3.2:3b' is how Ollama calls a model.*modelfile"),
        ({"model": "ollama/qwen2.5:0.5b"}, "how Ollama calls a model"),
        ({"model": "{folder}"}, "holds 3 GGUF files: a.gguf, b.gguf, x.*Say which: gguf_file"),
        ({"model": "{folder}", "gguf_file": "c.gguf"}, "There is no .*c.gguf. GGUF files in the"),
        ({"model": "{folder}/text.txt"}, "text.txt, which is a file, and no GGUF file"),
        ({"model": "{folder}/x-00001-of-00003.gguf"}, "one of several parts.*--merge"),
        ({"model": "{folder}/a.gguf"}, "a.gguf: this GGUF file cannot be read"),
    ],
)
def test_what_is_no_usable_file_is_refused_by_its_cause(
    model: dict, said: str, tmp_path: Path
) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF and then nothing that could be read")
    (tmp_path / "x-00001-of-00003.gguf").write_bytes(b"GGUF")
    (tmp_path / "text.txt").write_text("no model", encoding="utf-8")
    filled = {key: value.replace("{folder}", str(tmp_path)) for key, value in model.items()}
    with pytest.raises(CheckpointError, match=said):
        as_folder(Model(**filled))


def test_check_refuses_ollamas_names(suite: Path, make_recipe: Callable[..., dict]) -> None:
    recipe = make_recipe(suite, pivot={"model": "llama3.2:3b"})
    with pytest.raises(CheckpointError, match="how Ollama calls a model"):
        from infifusion.teacher.gguf import in_folders

        check_recipe(in_folders(Recipe(**recipe)))
