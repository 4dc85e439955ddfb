"""Small checkpoints of any shape, and both programs run on one recipe.

mergekit 0.1.5 is an outside oracle: an independent implementation, run as it is.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from infifusion.merge.engine.file import read_merge_file
from infifusion.merge.engine.plan import plan_file
from infifusion.merge.engine.weights import run_plan

LAYERS = 4
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
OUT = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
# Vectors of 1 and 8 elements, one row, one column, odd lengths, one element.
ODD = {
    "input_layernorm.weight": (1,),
    "post_attention_layernorm.weight": (8,),
    "self_attn.q_proj.weight": (5, 7),
    "self_attn.k_proj.weight": (1, 7),
    "self_attn.v_proj.weight": (7, 1),
    "self_attn.o_proj.weight": (8, 8),
    "mlp.gate_proj.weight": (3, 11),
    "mlp.up_proj.weight": (16, 16),
    "mlp.down_proj.weight": (1, 1),
}
EVEN = {
    "input_layernorm.weight": (16,),
    "post_attention_layernorm.weight": (16,),
    "self_attn.q_proj.weight": (16, 16),
    "self_attn.k_proj.weight": (8, 16),
    "self_attn.v_proj.weight": (8, 16),
    "self_attn.o_proj.weight": (16, 16),
    "mlp.gate_proj.weight": (48, 16),
    "mlp.up_proj.weight": (48, 16),
    "mlp.down_proj.weight": (16, 48),
}
SHAPES = {"odd": (ODD, 7, 13), "even": (EVEN, 16, 40)}


def make_models(place: Path, *, shapes: str, dtype: str, tied: bool, models: int) -> None:
    """base and m0, m1, ...: six of ten weights changed, by an RMS of 0.1 to 0.4."""
    layer, width, vocabulary = SHAPES[shapes]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 16,  # of no account: the tensors have shapes of their own
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "torch_dtype": OUT[dtype],
    }
    base: dict[str, torch.Tensor] = {}
    for number, name in enumerate(["base", *(f"m{n}" for n in range(models))]):
        drawn = torch.Generator().manual_seed(number)

        def tensor(
            key: str, shape: tuple[int, ...], drawn=drawn, number=number, base=base
        ) -> torch.Tensor:
            values = torch.randn(shape, generator=drawn) * 0.5
            if number:
                kept = torch.rand(shape, generator=drawn) < 0.6
                values = base[key].float() + values * kept * (0.2 + 0.1 * number)
            return values.to(DTYPES[dtype])

        names = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
        if not tied:
            names["lm_head.weight"] = (vocabulary, width)
        for n in range(LAYERS):
            names |= {f"model.layers.{n}.{key}": shape for key, shape in layer.items()}
        tensors = {key: tensor(key, shape) for key, shape in names.items()}
        if not number:
            base = tensors
        (place / name).mkdir(parents=True)
        save_file(tensors, place / name / "model.safetensors", metadata={"format": "pt"})
        (place / name / "config.json").write_text(json.dumps(config))


def with_paths(recipe: dict, place: Path) -> dict:
    """The recipe with model names as folders."""
    text = json.dumps(recipe)
    for name in ("base", *(f"m{n}" for n in range(8))):
        text = text.replace(f'"{name}"', json.dumps(str(place / name)))
    found = json.loads(text)
    # A tokenizer_source called base is a word, not the model.
    if recipe.get("tokenizer_source") == "base":
        found["tokenizer_source"] = "base"
    return found


def ours(recipe: dict, place: Path, out: Path) -> dict[str, torch.Tensor]:
    """Our merge."""
    path = out / "ours.yaml"
    path.write_text(yaml.safe_dump(with_paths(recipe, place)))
    run_plan(plan_file(read_merge_file(path, base_override=None), path), out / "ours")
    return load_file(out / "ours" / "model.safetensors")


def theirs(recipe: dict, place: Path, out: Path) -> dict[str, torch.Tensor]:
    """mergekit's merge."""
    config = pytest.importorskip("mergekit.config")
    merge = pytest.importorskip("mergekit.merge")
    merge.run_merge(
        config.MergeConfiguration.model_validate(with_paths(recipe, place)),
        str(out / "theirs"),
        options=merge.MergeOptions(
            quiet=True, copy_tokenizer=False, random_seed=0, write_model_card=False
        ),
    )
    return load_file(out / "theirs" / "model.safetensors")
