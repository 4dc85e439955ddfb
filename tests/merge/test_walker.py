"""Checkpoints on disk, and merging them tensor by tensor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from safetensors.torch import load_file, save_file

from infifusion.errors import CheckpointError
from infifusion.merge.blocks.blocks import Blocks, Raw
from infifusion.merge.blocks.result import in_memory
from infifusion.merge.blocks.stored import encode
from infifusion.merge.checkpoints.reader import INDEX, SINGLE, Checkpoint
from infifusion.merge.checkpoints.writer import Shard, Spec
from infifusion.merge.engine.models import open_model
from infifusion.merge.engine.plan import plan_models
from infifusion.merge.engine.walker import seed_of
from infifusion.merge.engine.weights import run_plan
from infifusion.merge.methods import METHODS
from infifusion.recipe import Model as RecipeModel
from infifusion.store.hashes import sha256_of
from infifusion.store.identity import model_identity
from infifusion.teacher.load import load_model

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


def merge_folders(
    models: dict[str, Path], base: Path, method: str, out: Path, *, dtype=None, seed=0, **options
):
    """Plan and carry out a merge of whole models; options of run_plan, or the method's own."""
    run = {k: options.pop(k) for k in list(options) if k in ("threads", "memory", "shard_bytes")}
    opened = {n: replace(open_model(str(p), Path()), name=n) for n, p in models.items()}
    plan = plan_models(
        opened,
        replace(open_model(str(base), Path()), name="the base"),
        method=method,
        params=options,
        dtype=dtype,
        seed=seed,
    )
    return plan, run_plan(plan, out, **run)


def tensor(folder: Path, name: str) -> torch.Tensor:
    return load_file(folder / Checkpoint(folder).stored(name).file)[name]


def three(tmp_path: Path, dtype: torch.dtype = torch.float32) -> tuple[Path, dict[str, Path]]:
    base = save(tmp_path / "base", tensors(0, dtype))
    return base, {n: save(tmp_path / n, tensors(k, dtype)) for k, n in enumerate("xy", start=1)}


PARAMS = {"slerp": {"t": 0.3}, "nearswap": {"t": 0.01}}
MODELS = {"slerp": 1, "nearswap": 1, "arcee_fusion": 1, "passthrough": 1}


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shard_bytes", [5_000_000, 100])
def test_streaming_equals_in_memory_bit_for_bit(tmp_path, method, dtype, shard_bytes):
    base, models = three(tmp_path, dtype)
    models = dict(list(models.items())[: MODELS.get(method, 2)])
    out = tmp_path / "out"
    params = PARAMS.get(method, {})
    plan, _ = merge_folders(
        models, base, method, out, seed=5, shard_bytes=shard_bytes, threads=3, **params
    )
    assert Checkpoint(out).names == sorted(SHAPES)
    assert (out / INDEX).exists() == (shard_bytes == 100)
    stored = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    for name, shape in SHAPES.items():

        def raw(seed: int, name: str = name) -> Raw:
            values = tensors(seed, dtype)[name].reshape(-1)
            array = values.view(torch.uint16) if dtype == torch.bfloat16 else values
            return Raw(array.numpy(), stored)

        blocks = Blocks(
            raw(0) if METHODS[method].base != "unused" else None,
            [raw(n + 1) for n in range(len(models))],
            shape,
            seed=seed_of(5, name),
        )
        merged = METHODS[method].function(blocks, plan.tensors[name].params)
        expected = encode(in_memory(merged), stored)
        found = tensor(out, name).reshape(-1)
        found = found.view(torch.uint16) if dtype == torch.bfloat16 else found
        assert found.numpy().tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("method", ["rsaf", "ties", "della", "dare_ties", "model_stock", "slerp"])
def test_threads_and_memory_do_not_change_a_byte(tmp_path, method, monkeypatch):
    """Tensors of many blocks: 300,000 positions, some of them equal at the border."""
    drawn = torch.Generator().manual_seed(0)
    many = {
        "a.weight": torch.randn(600, 500, generator=drawn),
        "b": torch.randn(9, generator=drawn),
    }
    base = save(tmp_path / "base", {k: v.to(torch.bfloat16) for k, v in many.items()})
    models = {}
    for n in range(MODELS.get(method, 3)):
        values = {k: v + 0.1 * torch.randn(v.shape, generator=drawn) for k, v in many.items()}
        models[f"m{n}"] = save(tmp_path / f"m{n}", {k: v.bfloat16() for k, v in values.items()})
    params = {"ties": {"density": 0.3}, "dare_ties": {"density": 0.3}, "slerp": {"t": 0.3}}
    params["della"] = {"density": 0.4, "epsilon": 0.2}
    hashes = []
    for n, options in enumerate(({"threads": 1}, {"threads": 8}, {"memory": 200_000_000})):
        monkeypatch.setattr("infifusion.merge.blocks.blocks.SPAN", 1)
        out = tmp_path / f"out{n}"
        merge_folders(models, base, method, out, **params.get(method, {}), **options)
        hashes.append(sha256_of(out / "model.safetensors"))
    assert len(set(hashes)) == 1


def test_the_same_merge_gives_the_same_bytes_and_another_seed_others(tmp_path):
    base, models = three(tmp_path)
    hashes = []
    for n, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"out{n}"
        merge_folders(models, base, "dare_linear", out, seed=seed, density=0.5)
        hashes.append(sha256_of(out / "model.safetensors"))
    assert hashes[0] == hashes[1] != hashes[2]


def test_side_files_come_from_the_base_and_dtype_reaches_the_config(tmp_path):
    base, models = three(tmp_path)
    out = tmp_path / "out"
    merge_folders(models, base, "sce", out, dtype="bfloat16")
    assert (out / "tokenizer.json").read_text() == '"base"'
    assert (out / "chat_template.jinja").exists()
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert Checkpoint(out).dtype("norm") == "BF16"


def refused(tmp_path: Path, base: Path, models: dict[str, Path], match: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match=match):
        merge_folders(models, base, "sce", out)
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


def test_a_folder_with_a_single_file_and_an_index_of_others_is_refused_by_all_readers(tmp_path):
    """transformers would load the single file, a merge the shards."""
    folder, other = tmp_path / "both", tiny_model("llama", 300, seed=1)
    other.save_pretrained(folder)
    tiny_model("llama", 300, seed=2).save_pretrained(folder, max_shard_size="20KB")
    says = "both holds model.safetensors and model.safetensors.index.json, .*Delete model.safe"
    model = RecipeModel(model=str(folder))
    readers = (Checkpoint, lambda f: open_model(str(f), Path()), lambda f: load_model(model),
               lambda f: model_identity(model))  # fmt: skip
    for read in readers:
        with pytest.raises(CheckpointError, match=says):
            read(folder)
    (folder / SINGLE).unlink()  # as the message says; or the index and its shards
    assert all(read(folder) is not None for read in readers)
    for path in folder.glob("model*"):
        path.unlink()
    other.save_pretrained(folder)
    assert all(read(folder) is not None for read in readers)


def test_an_index_may_name_the_single_file(tmp_path):
    folder = save(tmp_path / "one", tensors(0))
    weight_map = dict.fromkeys(SHAPES, SINGLE)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert Checkpoint(folder).names == sorted(SHAPES)
    assert model_identity(RecipeModel(model=str(folder)))["files"].keys() >= {SINGLE}


def test_integers_must_be_equal_everywhere(tmp_path):
    base = save(tmp_path / "base", {**tensors(0), "ids": torch.arange(4)})
    same = save(tmp_path / "same", {**tensors(1), "ids": torch.arange(4)})
    merge_folders({"s": same}, base, "sce", tmp_path / "ok", dtype="bfloat16")
    assert torch.equal(tensor(tmp_path / "ok", "ids"), torch.arange(4))
    other = save(tmp_path / "other", {**tensors(1), "ids": torch.arange(1, 5)})
    refused(tmp_path, base, {"o": other}, "ids .* differs in o")


@pytest.mark.parametrize("who", [[True, False], [False, True], [True, True]])
def test_a_head_that_is_a_copy_of_the_tied_embedding_is_left_out(tmp_path, who):
    """who: which of base and model store one."""
    folders = []
    for n, has_it in enumerate(who):
        embedding = torch.full((4, 2), float(n))
        values = {**tensors(n), "model.embed_tokens.weight": embedding}
        copy = {"lm_head.weight": embedding.clone()} if has_it else {}
        folders.append(save(tmp_path / f"{n}", values | copy, tie_word_embeddings=True))
    merge_folders({"m": folders[1]}, folders[0], "sce", tmp_path / "out")
    assert "lm_head.weight" not in Checkpoint(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]


def test_a_head_that_no_embedding_can_stand_for_is_refused_with_both_folders(tmp_path):
    base = save(tmp_path / "base", tensors(0), tie_word_embeddings=True)
    with_head = {**tensors(1), "lm_head.weight": torch.ones(2, 2)}
    model = save(tmp_path / "model", with_head, tie_word_embeddings=True)
    refused(
        tmp_path, base, {"m": model}, "lm_head.weight stands in .*model .m., .*base .* has neither"
    )


def test_what_a_shard_holds_safetensors_reads(tmp_path):
    values = {**tensors(0), "half": torch.ones(3, dtype=torch.float16), "flag": torch.ones(1) > 0}
    kinds = {torch.float32: "F32", torch.float16: "F16", torch.bool: "BOOL"}
    specs = {n: Spec(kinds[v.dtype], tuple(v.shape)) for n, v in values.items()}
    path = tmp_path / "model.safetensors"
    shard = Shard(path, specs)
    for name in reversed(list(values)):  # in any order, in parts
        flat = values[name].reshape(-1).numpy()
        for start in reversed(range(0, len(flat), 5)):
            shard.put(name, start, flat[start : start + 5])
    shard.close()
    found = load_file(path)
    assert found.keys() == values.keys()
    assert all(torch.equal(found[n], values[n]) for n in values)


def test_a_killed_merge_leaves_nothing_that_looks_finished_and_goes_on_at_its_last_shard(
    tmp_path, monkeypatch
):
    import infifusion.merge.engine.walker as walker

    base, models = three(tmp_path)
    out = tmp_path / "out"
    merge_folders(models, base, "sce", tmp_path / "whole", shard_bytes=100)
    written = []
    real = walker._write_shard

    def killed(path, tasks, *rest):
        written.append(path.name)
        if len(written) == 2:
            raise KeyboardInterrupt
        return real(path, tasks, *rest)

    monkeypatch.setattr(walker, "_write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        merge_folders(models, base, "sce", out, shard_bytes=100)
    assert not out.exists()
    monkeypatch.setattr(walker, "_write_shard", lambda p, *a: written.append(p.name) or real(p, *a))
    merge_folders(models, base, "sce", out, shard_bytes=100)
    assert len(written) == len(set(written)) + 1  # the second shard alone was begun twice
    assert {p.name: sha256_of(p) for p in out.iterdir()} == {
        p.name: sha256_of(p) for p in (tmp_path / "whole").iterdir()
    }
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_another_merge_does_not_go_on_from_what_a_killed_one_left(tmp_path, monkeypatch):
    import infifusion.merge.engine.walker as walker

    base, models = three(tmp_path)
    real = walker._write_shard
    count = []

    def killed(*parts):
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        return real(*parts)

    monkeypatch.setattr(walker, "_write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        merge_folders(models, base, "ties", tmp_path / "out", shard_bytes=100, density=0.5)
    monkeypatch.setattr(walker, "_write_shard", real)
    merge_folders(models, base, "ties", tmp_path / "out", shard_bytes=100, density=1.0)
    merge_folders(models, base, "ties", tmp_path / "fresh", shard_bytes=100, density=1.0)
    for name in SHAPES:
        assert torch.equal(tensor(tmp_path / "out", name), tensor(tmp_path / "fresh", name))


def damaged(tmp_path: Path, header: bytes, data: bytes, match: str) -> None:
    base, models = three(tmp_path)
    text = len(header).to_bytes(8, "little") + header + data
    (models["y"] / "model.safetensors").write_bytes(text)
    refused(tmp_path, base, models, match)


def test_offsets_that_overlap_or_leave_a_hole_are_refused(tmp_path):
    entry = '{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}'
    for n, (second, size) in enumerate((((4, 12), 12), ((12, 20), 20))):
        place = tmp_path / str(n)
        place.mkdir()
        header = f'{{"a":{entry % (0, 8)},"b":{entry % second}}}'.encode()
        damaged(place, header, bytes(size), "b lies at byte")


def test_offsets_that_do_not_fit_the_shape_are_refused(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}'
    damaged(tmp_path, header, bytes(8), r"a is F32 \[3\], but takes 8 bytes")


def test_a_tensor_that_stands_twice_is_refused(tmp_path):
    one = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    damaged(tmp_path, f"{{{one},{one}}}".encode(), bytes(8), "a name stands twice")


def test_nan_goes_through_where_it_is_allowed(tmp_path):
    base, models = three(tmp_path)
    values = tensors(3)
    values["norm"][1] = float("nan")
    models["z"] = save(tmp_path / "z", values)
    opened = {n: open_model(str(p), Path()) for n, p in models.items()}
    plan = plan_models(
        opened, open_model(str(base), Path()), method="linear", params={}, dtype=None, seed=0
    )
    run_plan(plan, tmp_path / "out", allow_nan=True)
    assert torch.isnan(tensor(tmp_path / "out", "norm")).tolist() == [n == 1 for n in range(8)]


def test_a_result_that_overflows_its_dtype_is_named(tmp_path):
    base, models = three(tmp_path, torch.float16)
    with pytest.raises(CheckpointError, match="merged tensor .* NaN or Inf as F16"):
        merge_folders(models, base, "task_arithmetic", tmp_path / "out", weight=1e6)
    assert not (tmp_path / "out").exists()


def test_too_little_memory_says_how_much_is_needed(tmp_path):
    from infifusion.errors import RecipeError

    base, models = three(tmp_path)
    with pytest.raises(RecipeError, match="this merge needs .* MB with one thread"):
        merge_folders(models, base, "sce", tmp_path / "out", memory=1_000_000)


def test_a_shard_that_is_cut_short_is_written_again(tmp_path, monkeypatch):
    import infifusion.merge.engine.walker as walker

    base, models = three(tmp_path)
    real = walker._write_shard
    count = []

    def killed(*parts):
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        return real(*parts)

    monkeypatch.setattr(walker, "_write_shard", killed)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        merge_folders(models, base, "sce", out, shard_bytes=100)
    first = walker.unfinished(out) / "model-00001-of-00002.safetensors"
    first.write_bytes(first.read_bytes()[:-1])
    monkeypatch.setattr(walker, "_write_shard", real)
    merge_folders(models, base, "sce", out, shard_bytes=100)
    merge_folders(models, base, "sce", tmp_path / "fresh", shard_bytes=100)
    for name in SHAPES:
        assert torch.equal(tensor(out, name), tensor(tmp_path / "fresh", name))


def test_a_merge_that_memory_stops_keeps_its_finished_shards(tmp_path, monkeypatch):
    import infifusion.merge.engine.walker as walker

    base, models = three(tmp_path)
    real, out = walker._write_shard, tmp_path / "out"
    written: list[str] = []

    def tight(path, *parts):
        if written:
            raise torch.OutOfMemoryError("CUDA out of memory")
        written.append(path.name)
        return real(path, *parts)

    def noted(path, *parts):
        written.append(path.name)
        return real(path, *parts)

    monkeypatch.setattr(walker, "_write_shard", tight)
    with pytest.raises(torch.OutOfMemoryError):
        merge_folders(models, base, "sce", out, shard_bytes=100)
    monkeypatch.setattr(walker, "_write_shard", noted)
    merge_folders(models, base, "sce", out, shard_bytes=100)
    assert written == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert not walker.unfinished(out).exists()


def test_two_processes_do_not_write_one_folder(tmp_path):
    from infifusion.errors import ArtifactError
    from infifusion.merge.engine.walker import _alone

    base, models = three(tmp_path)
    with _alone(tmp_path / "out"), pytest.raises(ArtifactError, match="Another process"):
        merge_folders(models, base, "sce", tmp_path / "out")
    merge_folders(models, base, "sce", tmp_path / "out")


def test_a_link_is_not_written_through(tmp_path):
    from infifusion.errors import ArtifactError

    base, models = three(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="exists already"):
        merge_folders(models, base, "sce", tmp_path / "out")


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}',
        b"[" * 100_000,
        b'{"a":1}',
        b"[1]",
    ],
    ids=["huge", "text", "negative", "deep", "no entry", "no object"],
)
def test_headers_that_are_not_what_they_should_be_are_refused(tmp_path, header):
    damaged(tmp_path, header, bytes(8), "its header cannot be read")


def test_floats_and_whole_numbers_are_not_merged(tmp_path):
    base, models = three(tmp_path)
    values = tensors(3)
    models["z"] = save(tmp_path / "z", {**values, "norm": torch.arange(8)})
    refused(tmp_path, base, models, "norm is F32 in .* but I64 in .*z")
