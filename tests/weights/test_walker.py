"""Checkpoints on disk, and merging them tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from infifusion.artifacts import sha256_of
from infifusion.errors import CheckpointError
from infifusion.merge import METHODS, PARAMS
from infifusion.weights.reader import INDEX, Checkpoint
from infifusion.weights.walker import generator, merge_folders
from infifusion.weights.writer import Spec, write_checkpoint

SHAPES = {"a.weight": (8, 8), "b.bias": (1,), "empty": (0, 3), "norm": (8,), "scalar": ()}


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=drawn).to(dtype) for n, s in SHAPES.items()}


def save(folder: Path, values: dict[str, torch.Tensor], **config: object) -> Path:
    folder.mkdir()
    save_file(values, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    (folder / "tokenizer.json").write_text(f'"{folder.name}"')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def merge_with(method: str, **params: object):
    checked = PARAMS[method](**params)

    def merge_tensor(base_P, model_SP, drawn):
        merged = METHODS[method](base_P, model_SP, checked, generator=drawn)
        return merged.tensor_P, merged.details

    return merge_tensor


def three(tmp_path: Path, dtype: torch.dtype = torch.float32) -> tuple[Path, dict[str, Path]]:
    base = save(tmp_path / "base", tensors(0, dtype))
    return base, {n: save(tmp_path / n, tensors(k, dtype)) for k, n in enumerate("xy", start=1)}


@pytest.mark.parametrize("method", ["rsaf", "sce", "ties", "dare_ties", "task_arithmetic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard_bytes", [5_000_000, 100])
def test_streaming_equals_in_memory_bit_for_bit(tmp_path, method, dtype, shard_bytes):
    base, models = three(tmp_path, dtype)
    merge = merge_with(method)
    out = tmp_path / "out"
    merge_folders(models, base, merge, out, dtype=None, seed=5, shard_bytes=shard_bytes)
    found = Checkpoint(out)
    assert found.names == sorted(SHAPES)
    assert (out / INDEX).exists() == (shard_bytes == 100)
    for name, shape in SHAPES.items():
        stack = torch.stack([tensors(k, dtype)[name].reshape(-1).float() for k in (1, 2)])
        first = tensors(0, dtype)[name].reshape(-1).float()
        expected = merge(first, stack, generator(5, name))[0].to(dtype).view(shape)
        assert torch.equal(found.tensor(name), expected), name


def test_the_same_merge_gives_the_same_bytes_and_another_seed_others(tmp_path):
    base, models = three(tmp_path)
    hashes = []
    for n, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"out{n}"
        merge_folders(models, base, merge_with("dare_linear"), out, dtype=None, seed=seed)
        hashes.append(sha256_of(out / "model.safetensors"))
    assert hashes[0] == hashes[1] != hashes[2]


def test_side_files_come_from_the_base_and_dtype_reaches_the_config(tmp_path):
    base, models = three(tmp_path)
    out = tmp_path / "out"
    merge_folders(models, base, merge_with("sce"), out, dtype="BF16", seed=0)
    assert (out / "tokenizer.json").read_text() == '"base"'
    assert (out / "chat_template.jinja").exists()
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert Checkpoint(out).tensor("norm").dtype == torch.bfloat16


def refused(tmp_path: Path, base: Path, models: dict[str, Path], match: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match=match):
        merge_folders(models, base, merge_with("sce"), out, dtype=None, seed=0)
    assert not out.exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".out")]


def test_a_truncated_file_is_named_with_expected_and_found_bytes(tmp_path):
    base, models = three(tmp_path)
    path = models["y"] / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    refused(tmp_path, base, models, f"{len(whole)} bytes.*{len(whole) - 10}")


def test_a_file_that_is_no_safetensors_is_named(tmp_path):
    base, models = three(tmp_path)
    (models["y"] / "model.safetensors").write_bytes(b"\xff" * 40)
    refused(tmp_path, base, models, "y/model.safetensors")


def test_shapes_that_differ_are_named_by_tensor(tmp_path):
    base, models = three(tmp_path)
    models["z"] = save(tmp_path / "z", {**tensors(3), "norm": torch.ones(9)})
    refused(tmp_path, base, models, r"norm has shape \[9\].*z.*but \[8\]")


def test_missing_and_extra_tensors_are_named(tmp_path):
    base, models = three(tmp_path)
    values = tensors(3)
    del values["norm"]
    refused(tmp_path, base, {**models, "z": save(tmp_path / "z", values)}, "lacks the tensor norm")
    more = save(tmp_path / "more", {**tensors(3), "odd": torch.ones(2)})
    refused(tmp_path, base, {**models, "more": more}, "has the tensor odd")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_are_named_by_tensor_and_model(tmp_path, bad):
    base, models = three(tmp_path)
    values = tensors(3)
    values["a.weight"][2, 3] = bad
    models["z"] = save(tmp_path / "z", values)
    refused(tmp_path, base, models, "a.weight of z holds 1 NaN or Inf of 64")


def test_pickles_are_refused_with_what_to_do(tmp_path):
    base, models = three(tmp_path)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "pytorch_model.bin").write_bytes(b"x")
    refused(tmp_path, base, {**models, "p": tmp_path / "p"}, "save_pretrained")


def test_an_index_that_points_outside_is_refused(tmp_path):
    base, models = three(tmp_path)
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"norm": "../base/model.safetensors"}}))
    refused(tmp_path, base, {**models, "evil": folder}, "outside the model folder")


def test_integers_must_be_equal_everywhere(tmp_path):
    base = save(tmp_path / "base", {**tensors(0), "ids": torch.arange(4)})
    same = save(tmp_path / "same", {**tensors(1), "ids": torch.arange(4)})
    merge_folders({"s": same}, base, merge_with("sce"), tmp_path / "ok", dtype="BF16", seed=0)
    assert torch.equal(Checkpoint(tmp_path / "ok").tensor("ids"), torch.arange(4))
    other = save(tmp_path / "other", {**tensors(1), "ids": torch.arange(1, 5)})
    refused(tmp_path, base, {"o": other}, "ids .* differs in o")


@pytest.mark.parametrize("base_has_it", [True, False])
def test_a_tied_head_that_one_model_lacks_is_left_out(tmp_path, base_has_it):
    with_head = {**tensors(0), "lm_head.weight": torch.ones(2, 2)}
    parts = [with_head, tensors(1)] if base_has_it else [tensors(0), with_head]
    base = save(tmp_path / "base", parts[0], tie_word_embeddings=True)
    model = save(tmp_path / "model", parts[1], tie_word_embeddings=True)
    merge_folders({"m": model}, base, merge_with("sce"), tmp_path / "out", dtype=None, seed=0)
    assert "lm_head.weight" not in Checkpoint(tmp_path / "out")


def test_what_the_writer_writes_safetensors_reads(tmp_path):
    values = {**tensors(0), "half": torch.ones(3, dtype=torch.bfloat16), "flag": torch.ones(1) > 0}
    kinds = {torch.float32: "F32", torch.bfloat16: "BF16", torch.bool: "BOOL"}
    specs = {n: Spec(kinds[v.dtype], tuple(v.shape)) for n, v in values.items()}
    (path,) = write_checkpoint(tmp_path, specs, values.items())
    found = load_file(path)
    assert found.keys() == values.keys()
    assert all(torch.equal(found[n], values[n]) for n in values)
