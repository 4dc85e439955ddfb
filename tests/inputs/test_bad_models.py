"""Models and tokenizers that cannot be used, and folders with odd names, which can."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import byte_level_tokenizer, tiny_model
from refusals import assert_refused, infifusion
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ByT5Tokenizer,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
Change = Callable[[Path], object]


def edit_json(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    """Changes one JSON file of the folder in place."""

    def edit(folder: Path) -> None:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        change(values)
        (folder / name).write_text(json.dumps(values), encoding="utf-8")

    return edit


def write(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Changes the tensors of the folder."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return edit


def shard(folder: Path) -> None:
    """The same weights in several files."""
    tiny_model("llama", 325, seed=0).save_pretrained(folder, max_shard_size="20KB")
    (folder / WEIGHTS).unlink()


def without_a_shard(folder: Path) -> None:
    shard(folder)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def without_a_tensor_in_the_index(folder: Path) -> None:
    shard(folder)
    edit_json(INDEX, lambda v: v["weight_map"].pop("model.norm.weight"))(folder)


def outside_index(folder: Path) -> None:
    shard(folder)
    edit_json(INDEX, lambda v: v["weight_map"].update({"model.norm.weight": "../x"}))(folder)


def single_file_over_shards(folder: Path) -> None:
    """As save_pretrained leaves it: the index stays, its shards are gone."""
    shard(folder)
    tiny_model("llama", 325, seed=1).save_pretrained(folder)
    assert (folder / INDEX).exists()


def shards_over_a_single_file(folder: Path) -> None:
    tiny_model("llama", 325, seed=1).save_pretrained(folder, max_shard_size="20KB")
    assert (folder / WEIGHTS).exists()


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")


def truncate(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 100)


def another_head(folder: Path) -> None:
    tiny = tiny_model("llama", 325, seed=0)
    LlamaForSequenceClassification(tiny.config).save_pretrained(folder)


def masked(folder: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertForMaskedLM(
        BertConfig(vocab_size=325, intermediate_size=16, **shape)
    ).save_pretrained(folder)  # fmt: skip


def two_halves(folder: Path) -> None:
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(vocab_size=325, **shape)).save_pretrained(folder)


def with_a_gap(folder: Path) -> None:
    def move(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if ".layers.1." in n]:
            tensors[name.replace(".layers.1.", ".layers.2.")] = tensors.pop(name)

    edit_tensors(move)(folder)


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def no_tokenizer_of_qwen(folder: Path) -> None:
    no_tokenizer(folder)
    edit_json("config.json", lambda v: v.update(model_type="qwen2"))(folder)


def slow(folder: Path) -> None:
    no_tokenizer(folder)
    ByT5Tokenizer().save_pretrained(folder)


def word_pieces(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)


def with_pad_outside(folder: Path) -> None:
    tokenizer = byte_level_tokenizer(320)
    tiny_model("llama", len(tokenizer), seed=0).save_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)


def with_a_hole(folder: Path) -> None:
    """The largest id is 400, though the tokenizer has 321 tokens."""
    edit_json(
        "tokenizer.json", lambda v: v["model"]["vocab"].update({"zzzz": 400})
    )(folder)  # fmt: skip


def larger_vocabulary(folder: Path) -> None:
    byte_level_tokenizer(330, [chr(n) * 9 for n in range(97, 123)] * 9).save_pretrained(folder)
    tiny_model("llama", 300, seed=0).save_pretrained(folder)


BAD: dict[str, tuple[Change, str]] = {
    "gone": (shutil.rmtree, "there is no model folder .*Give the path of a folder"),
    "a file": (lambda f: (shutil.rmtree(f), f.touch()), "there is no model folder"),
    "empty": (lambda f: (shutil.rmtree(f), f.mkdir()), "holds no config.json"),
    "no config": (remove("config.json"), "holds no config.json"),
    "no weights": (remove(WEIGHTS), "holds no .safetensors weights"),
    "pickles": (pickled, "no .safetensors weights. Pickled weights are not read; save the model"),
    "config of words": (write("config.json", b"{oops"), "config.json"),
    "config in a list": (write("config.json", b"[]"), "config.json"),
    "deep config": (write("config.json", b"[" * 100_000), "config.json"),
    "empty config": (write("config.json", b"{}"), "config.json"),
    "unknown kind": (edit_json("config.json", lambda v: v.update(model_type="lama")), "lama"),
    "classifier": (another_head, "LlamaForSequenceClassification .llama. is no causal language"),
    "masked": (masked, "BertForMaskedLM .bert. is no causal language model"),
    "two halves": (two_halves, "T5ForConditionalGeneration .t5. is no causal language model"),
    "cut short": (truncate, "model.safetensors is no whole safetensors file.*copy it again"),
    "no safetensors": (write(WEIGHTS, b"words"), "model.safetensors is no whole safetensors file"),
    "a shard gone": (without_a_shard, "names .model-00002-of-.*which is missing. Download"),
    "short index": (without_a_tensor_in_the_index, "does not fit its files: .model.norm.weight"),
    "index outside": (outside_index, "outside the model folder"),
    "index of words": (lambda f: (shard(f), write(INDEX, b"{")(f)), f"{INDEX} is damaged"),
    "two models": (shards_over_a_single_file, f"{WEIGHTS} and {INDEX}, .*Delete {WEIGHTS} if"),
    "index left": (single_file_over_shards, f"{INDEX}, which names other files .'model-0.*missing"),
    "a gap": (with_a_gap, "says 2 layers, but the weights lack model.layers.1. Is the config"),
    "more layers": (edit_json("config.json", lambda v: v.update(num_hidden_layers=3)), "says 3 la"),
    "no tokenizer": (no_tokenizer, "No tokenizer could be loaded .*Expected a folder with"),
    "no vocabulary": (no_tokenizer_of_qwen, "has no vocabulary, only 1 added tokens.*Expected tok"),
    "slow": (slow, "ByT5Tokenizer, which has no fast version .*Convert it"),
    "tokenizer of words": (write("tokenizer.json", b"{"), "No tokenizer could be loaded"),
    "tokenizer of nothing": (write("tokenizer.json", b""), "No tokenizer could be loaded"),
    "empty tokenizer": (write("tokenizer.json", b"{}"), "No tokenizer could be loaded"),
    "word pieces": (word_pieces, "WordPiece tokenizers drop the blanks.*Use a model with"),
    "pad outside": (with_pad_outside, "the token '<pad>' with the id 320, but .*embeds only 320"),
    "a hole": (with_a_hole, "the token 'zzzz' with the id 400, but .*embeds only 325 tokens"),
    "more tokens": (larger_vocabulary, "embeds only 300 tokens. Name the tokenizer that belongs"),
}  # fmt: skip


@pytest.fixture
def write_recipe(suite: Path, make_recipe, tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe with one source and no merge; keywords replace whole keys."""

    def make(**changes: object) -> Path:
        values = make_recipe(
            suite, sources={"a": {"model": str(suite / "a")}},
            fuse={"unified": {"function": "mean", "gate": "none"}},
            distill={"unified": {"target": "unified"}}, merge={},
        )  # fmt: skip
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**values, **changes}), encoding="utf-8")
        return path

    return make


@pytest.mark.parametrize("role", ["pivot", "sources.a"])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_model_is_refused_by_its_place_before_anything_is_written(
    kind: str, role: str, suite: Path, write_recipe, tmp_path: Path
) -> None:
    change, says = BAD[kind]
    folder = tmp_path / "bad"
    shutil.copytree(suite / "pivot", folder)
    change(folder)
    model = {"model": str(folder)}
    recipe = write_recipe(**({"pivot": model} if role == "pivot" else {"sources": {"a": model}}))
    out = tmp_path / "out"
    assert_refused("run", recipe, "--run-dir", out, untouched=out,
                   says=[re.escape(f"{role}: "), re.escape(str(folder)), says])  # fmt: skip
    assert not out.exists()


def test_a_name_that_is_neither_a_folder_nor_on_the_hub_is_refused(
    write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    says = ["sources.a: ", "'nobody/nothing'", "Paths are relative to the recipe file"]
    recipe = write_recipe(sources={"a": {"model": "nobody/nothing"}})
    assert_refused("run", recipe, "--run-dir", tmp_path / "out", says=says,
                   untouched=tmp_path / "out")  # fmt: skip


TEMPLATES = {
    "{% if %}": "chat template of .*cannot render .*Give the model a chat_template",
    "{{ nothing.at.all }}": "cannot render a conversation with the roles .'user'.",
    "{{ raise_exception('no!') }}": "cannot render .*no!",
    "{% for m in messages %}{{ m.content | upper }}{% endfor %}": "sums/.* changes the response",
    "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}":
        "sums/.* changes the response, or leaves it out",
}  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_template_that_does_not_fit_is_refused(
    template: str, suite: Path, write_recipe, tmp_path: Path
) -> None:
    model = {"model": str(suite / "a"), "chat_template": template}
    recipe = write_recipe(sources={"a": model})
    assert_refused("run", recipe, "--run-dir", tmp_path / "out", says=TEMPLATES[template],
                   untouched=tmp_path / "out")  # fmt: skip


def fewer_heads(folder: Path) -> None:
    edit_json("config.json", lambda v: v.update(num_key_value_heads=4))(folder)


def without_a_norm(folder: Path) -> None:
    edit_tensors(lambda tensors: tensors.pop("model.norm.weight"))(folder)


def with_nan(folder: Path) -> None:
    edit_tensors(lambda tensors: tensors["model.norm.weight"].fill_(torch.nan))(folder)


LOADED = {
    fewer_heads: r"k_proj.weight has shape \[16, 32\], but its config.json asks for \[32, 32\]",
    without_a_norm: "lacks 1 of the weights .*model.norm.weight.*Is the config.json of another",
    with_nan: "tensor model.norm.weight holds NaN or Inf.*take an earlier one",
}


@pytest.mark.parametrize("change", LOADED, ids=lambda change: change.__name__)
def test_weights_that_do_not_fit_their_config_teach_nothing(
    change: Change, suite: Path, write_recipe, tmp_path: Path
) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(suite / "pivot", folder)
    change(folder)
    recipe = write_recipe(sources={"a": {"model": str(folder)}})
    out = tmp_path / "out"
    says = [re.escape(str(folder)), LOADED[change]]
    assert_refused("run", recipe, "--run-dir", out, says=says, untouched=out / "teach")
    if change is not with_nan:  # the pivot is not taught here, and must be whole all the same
        recipe = write_recipe(pivot={"model": str(folder)}, distill={"sft": {}}, fuse={})
        assert_refused("run", recipe, "--run-dir", tmp_path / "two", says=says,
                       untouched=tmp_path / "two" / "distill")  # fmt: skip


def test_weights_of_several_dtypes_work(suite: Path, write_recipe, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(suite / "a", folder)
    edit_tensors(
        lambda tensors: tensors.update({n: t.half() for n, t in tensors.items() if "mlp" in n})
    )(folder)  # fmt: skip
    recipe = write_recipe(sources={"a": {"model": str(folder)}})
    answer = infifusion("run", recipe, "--run-dir", tmp_path / "out", "--until", "teach")
    assert answer.status == 0, answer.said
    assert (tmp_path / "out" / "teach" / "a" / "manifest.json").exists()


def test_a_tokenizer_shorter_than_its_largest_id_works(
    suite: Path, write_recipe, tmp_path: Path
) -> None:
    folder = tmp_path / "hole"
    shutil.copytree(suite / "pivot", folder)  # 320 tokens, 325 rows
    edit_json("tokenizer.json", lambda v: v["model"]["vocab"].update({"zzzz": 324}))(folder)
    recipe = write_recipe(sources={"a": {"model": str(folder)}})
    answer = infifusion("run", recipe, "--run-dir", tmp_path / "out", "--until", "fuse")
    assert answer.status == 0, answer.said
    assert (tmp_path / "out" / "fuse" / "unified" / "manifest.json").exists()


def test_folders_with_odd_names_links_and_relative_paths_work(
    suite: Path, write_recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / 'it\'s a "run" – ü 模型 $(x) & [co] {y} %s'
    odd.mkdir()
    shutil.copytree(suite / "pivot", odd / "the pivot's folder")
    (odd / "link").symlink_to(suite / "a")
    shutil.copy(suite / "train.jsonl", odd / "größe = 1.jsonl")
    recipe = odd / "a recipe.yaml"
    data = {"train": [{"path": "größe = 1.jsonl", "domain": "ü {d}"}], "max_length": 128}
    write_recipe(
        pivot={"model": "the pivot's folder"}, sources={"a": {"model": "./link"}}, data=data,
        training={"max_steps": 1, "per_device_train_batch_size": 2},
        distill={"sft": {}, "unified": {"target": "unified"}},
        merge={"both": {"method": "linear", "models": ["sft", "unified"]}},
    ).rename(recipe)  # fmt: skip
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = os.path.relpath(recipe)
    answer = infifusion("run", there, "--run-dir", f"../{odd.name}/out, really")
    assert answer.status == 0, answer.said
    assert (odd / "out, really" / "report" / "index.html").exists()
    again = infifusion("run", recipe, "--run-dir", odd / "out, really")
    assert again.status == 0 and "distill/" not in again.said, "the same run by another path"
