"""Model folders from strangers: nothing is run, nothing outside them is read."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from infifusion.data.tokenizers import load_tokenizer
from infifusion.errors import CheckpointError, InfiFusionError, RecipeError, TokenizerError
from infifusion.merge.checkpoints.header import read_header
from infifusion.merge.checkpoints.reader import INDEX, SINGLE, Checkpoint, read_config
from infifusion.merge.engine.models import open_model
from infifusion.recipe import Model, Recipe
from infifusion.teacher.load import load_model
from infifusion.train.start import load_start


class Planted:
    """A pickle that makes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def header_file(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def entry(shape=(1,), dtype="F32", offsets=(0, 4)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": torch.ones(4)}, folder / SINGLE)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickles_are_not_opened_by_any_road(name, tmp_path, suite):
    folder, mark = tmp_path / "m", tmp_path / "mark"
    folder.mkdir()
    for file in (suite / "pivot").iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / name).write_bytes(pickle.dumps({"w": Planted(mark)}))
    start = Model(model=str(folder))
    roads = {
        "merge": lambda: open_model(str(folder), tmp_path),
        "merge --allow-pickle": lambda: open_model(str(folder), tmp_path, allow_pickle=True),
        "teach": lambda: load_model(start),
        "distill": lambda: load_start(start, device=torch.device("cpu")),
    }
    for road in roads.values():
        with pytest.raises((CheckpointError, OSError)):
            road()
    assert not mark.exists()


def test_code_that_comes_with_a_model_runs_only_where_it_is_asked_for(tmp_path, suite):
    folder, mark = tmp_path / "m", tmp_path / "mark"
    folder.mkdir()
    for file in (suite / "pivot").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "stranger", "auto_map": {"AutoConfig": "code.C"}}
    (folder / "config.json").write_text(json.dumps(config))
    tokens = json.loads((folder / "tokenizer_config.json").read_text())
    tokens |= {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["code.T", "code.T"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    code = f"import os\nos.mkdir({str(mark)!r})\nclass C: pass\nclass T: pass\n"
    (folder / "code.py").write_text(code)
    with pytest.raises(CheckpointError):
        load_model(Model(model=str(folder)))
    with pytest.raises((TokenizerError, ValueError)):
        load_tokenizer(str(folder))
    assert not mark.exists()
    with pytest.raises(InfiFusionError):
        load_tokenizer(str(folder), trust_remote_code=True)  # it runs, and is no tokenizer
    assert mark.exists()


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b.safetensors", "x" * 5000, 7, {}]
)
def test_an_index_names_files_of_its_folder_alone(name, model):
    (model / INDEX).write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match="outside the model folder|which is missing"):
        Checkpoint(model)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"weight_map": ' * 5_000, "{}", "[]", '{"weight_map": 3}', "\ud800"],
)
def test_an_index_that_is_none_is_refused(text, model):
    (model / INDEX).write_text(text, errors="surrogatepass")
    with pytest.raises(CheckpointError, match="damaged"):
        Checkpoint(model)


@pytest.mark.parametrize("name", [SINGLE, "config.json", "merges.txt", "chat_template.jinja"])
def test_a_link_out_of_a_model_folder_is_refused(name, model, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes((model / SINGLE).read_bytes())
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(secret)
    with pytest.raises(CheckpointError, match="symbolic link to .*outside the model folder"):
        Checkpoint(model)
    with pytest.raises(CheckpointError, match="symbolic link"):
        open_model(str(model), tmp_path, allow_pickle=True)
    with pytest.raises(CheckpointError, match="symbolic link"):
        load_tokenizer(str(model))
    with pytest.raises(CheckpointError, match=r"symbolic link|config\.json"):
        load_model(Model(model=str(model)))


def test_links_inside_a_folder_and_those_of_the_hub_cache_are_followed(model, tmp_path):
    (model / SINGLE).rename(model / "weights.bin.safetensors")
    (model / SINGLE).symlink_to("weights.bin.safetensors")
    assert Checkpoint(model).names == ["w"]
    cache = tmp_path / "models--a--b"
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for name in (SINGLE, "config.json"):
        (cache / "blobs" / name[:3]).write_bytes((model / name).read_bytes())
        (snapshot / name).symlink_to(Path("../../blobs") / name[:3])
    assert open_model(str(snapshot), tmp_path).checkpoint.names == ["w"]
    (tmp_path / "link").symlink_to(snapshot)
    assert Checkpoint(tmp_path / "link").names == ["w"]
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="symbolic link"):
        Checkpoint(snapshot)


HEADERS = {
    "a length beyond the file": (1 << 40).to_bytes(8, "little") + b"{}",
    "a length of 2^64": b"\xff" * 8 + b"{}",
    "seven bytes": b"\0" * 7,
    "nothing": b"",
}
JSON = {
    "brackets": b"[" * 1_000_000,
    "objects": b'{"a":' * 100_000,
    "a number of a million digits": b'{"a":' + b"9" * 1_000_000 + b"}",
    "a list": b"[]",
    "NaN": json.dumps({"a": entry(offsets=(0, float("nan")))}).encode(),
    "a huge shape": json.dumps({"a": entry(shape=(1 << 40, 1 << 40))}).encode(),
    "a shape beyond 64 bits": json.dumps({"a": entry((0, 1 << 70), offsets=(0, 0))}).encode(),
    "a thousand axes": json.dumps({"a": entry((1,) * 1000)}).encode(),
    "a huge shape of a dtype unknown": json.dumps({"a": entry((1 << 70,), "X9")}).encode(),
    "a dtype that is none": json.dumps({"a": entry(dtype=["F32"])}).encode(),
    "offsets beyond the file": json.dumps({"a": entry((1 << 40,), offsets=(0, 1 << 42))}).encode(),
    "offsets below 0": json.dumps({"a": entry(offsets=(-4, 0))}).encode(),
    "offsets turned round": json.dumps({"a": entry(offsets=(4, 0))}).encode(),
    "an overlap": json.dumps({"a": entry(), "b": entry()}).encode(),
    "a name twice": b'{"a":' + json.dumps(entry()).encode() + b',"a":{}}',
    "a key twice": b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "true for a length": json.dumps({"a": entry(shape=(True,))}).encode(),
}


@pytest.mark.parametrize("name", [*HEADERS, *JSON])
def test_a_hostile_header_is_refused(name, tmp_path):
    path = tmp_path / SINGLE
    if name in HEADERS:
        path.write_bytes(HEADERS[name])
    else:
        header_file(path, JSON[name], b"\0" * 4)
    with pytest.raises(CheckpointError, match="no whole safetensors file") as caught:
        read_header(path)
    assert len(str(caught.value)) < 1000


def test_a_header_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / SINGLE
    with path.open("wb") as file:  # sparse: it takes no space
        file.write((1 << 30).to_bytes(8, "little"))
        file.truncate((1 << 30) + 8)
    with pytest.raises(CheckpointError, match="would take 1073741824 bytes"):
        read_header(path)


def test_a_config_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(CheckpointError, match="8,589,934,592 bytes"):
        read_config(tmp_path)


NAMES = [
    "../x",
    "..",
    ".x",
    "a/b",
    "a\\b",
    "a:b",
    "",
    "a\0b",
    "a\nb",
    "x" * 201,
    "é" * 101,
    "\ud800",
]


@pytest.mark.parametrize("kind", ["sources", "fuse", "distill", "merge"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_would_leave_the_run_folder_is_refused(kind, name, suite, make_recipe):
    values = make_recipe(suite)
    values[kind] = {**values[kind], name: next(iter(values[kind].values()))}
    with pytest.raises(RecipeError, match="cannot name a folder"):
        Recipe.from_mapping(values, where="r.yaml")


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", ".x", ""])
def test_the_name_of_a_run_is_no_path(name, suite, make_recipe):
    with pytest.raises(RecipeError, match="name"):
        Recipe.from_mapping(make_recipe(suite, name=name), where="r.yaml")


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "[" * 100_000},
        {"r": 10**4000, "lora_alpha": 10**4000},
        {"r": True},
        {"r": 2.5},
        {"r": 0},
        {"lora_alpha": float("nan")},
        {"lora_alpha": "9" * 100_000},
    ],
)
def test_an_adapter_s_config_that_is_none_is_refused_in_a_few_words(changes, model):
    values = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, **changes}
    (model / "adapter_config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError) as caught:
        open_model(f"{model}+{model}", model)
    assert "expected a whole number" in str(caught.value) or "only plain LoRA" in str(caught.value)
    assert len(str(caught.value)) < 1000
