"""Our merge methods against mergekit 0.1.5, an independent implementation, on whole checkpoints.

Not compared: SCE with small deltas (mergekit turns uniform below summed mean squares of 1e-6) and
DARE's draws and rescaling (mergekit restores the L1 norm, we divide by the density as the paper).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from infifusion.stages.merge import merge_file

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A base and three models whose deltas are large enough for mergekit's SCE."""
    place = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "a", "b", "c")):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1 * (1 + seed))
        model.save_pretrained(place / name)
    return place


def both(folders: Path, out: Path, recipe: dict) -> tuple[dict, dict]:
    """The tensors of mergekit's merge and of ours, of one and the same file."""
    config = pytest.importorskip("mergekit.config")
    merge = pytest.importorskip("mergekit.merge")
    recipe = {"dtype": "float32", **recipe}
    recipe["models"] = [{**m, "model": str(folders / m["model"])} for m in recipe["models"]]
    if "base_model" in recipe:
        recipe["base_model"] = str(folders / recipe["base_model"])
    path = out / "merge.yaml"
    path.write_text(yaml.safe_dump(recipe))
    merge.run_merge(
        config.MergeConfiguration.model_validate(recipe),
        str(out / "theirs"),
        options=merge.MergeOptions(
            quiet=True, copy_tokenizer=False, random_seed=0, write_model_card=False
        ),
    )
    merge_file(path, out / "ours", base_override=None)
    found = [load_file(out / side / "model.safetensors") for side in ("theirs", "ours")]
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == 12
    return found[0], found[1]


def entries(**parameters: list) -> list[dict]:
    return [
        {"model": m, "parameters": {k: v[n] for k, v in parameters.items()}}
        for n, m in enumerate("abc")
    ]


@pytest.mark.parametrize(
    "recipe",
    [
        {"merge_method": "linear", "models": entries(weight=[0.2, 0.5, 1.0])},
        {
            "merge_method": "linear",
            "models": entries(weight=[0.2, 0.5, 1.0]),
            "parameters": {"normalize": False},
        },
        {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "models": entries(weight=[0.2, 0.5, -0.3]),
            "parameters": {"lambda": 0.7},
        },
        {
            "merge_method": "ties",
            "base_model": "base",
            "models": entries(weight=[0.2, 0.5, 1.0], density=[0.3, 0.5, 0.7]),
        },
        {
            "merge_method": "ties",
            "base_model": "base",
            "models": entries(weight=[0.2, 0.5, 1.0], density=[0.3, 0.5, 1.0]),
            "parameters": {"normalize": False, "lambda": 1.5},
        },
        {
            "merge_method": "sce",
            "base_model": "base",
            "models": [{"model": m} for m in "abc"],
            "parameters": {"select_topk": 0.3},
        },
        {
            "merge_method": "sce",
            "base_model": "base",
            "models": [{"model": m} for m in "abc"],
            "parameters": {"select_topk": 1.0},
        },
        {
            "merge_method": "slerp",
            "base_model": "base",
            "models": [{"model": "base"}, {"model": "b"}],
            "parameters": {"t": 0.3},
        },
        {
            "merge_method": "dare_ties",
            "base_model": "base",
            "models": entries(weight=[0.2, 0.5, 1.0], density=[1.0, 1.0, 1.0]),
        },
    ],
    ids=lambda recipe: recipe["merge_method"],
)
def test_the_merge_is_mergekits(folders, tmp_path, recipe):
    theirs, ours = both(folders, tmp_path, recipe)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("method", ["dare_ties", "dare_linear"])
def test_dare_keeps_as_many_entries_as_mergekit(folders, tmp_path, method):
    recipe = {
        "merge_method": method,
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": 1.0, "density": 0.3}}],
        "parameters": {"normalize": False},
    }
    found = both(folders, tmp_path, recipe)
    base = load_file(folders / "base" / "model.safetensors")
    kept, mean = [], []
    for merged in found:
        change = torch.cat([(merged[n] - base[n]).reshape(-1) for n in base])
        kept.append(float((change != 0).float().mean()))
        mean.append(float(change.abs().mean()))
    # 11,000 entries: the share has a standard error of sqrt(.3 * .7 / 11000) = .0044.
    assert kept == pytest.approx([0.3, 0.3], abs=0.02)
    assert mean[0] == pytest.approx(mean[1], rel=0.06)
