"""A model with another model's tokenizer."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import byte_level_tokenizer, sentencepiece_tokenizer
from made import SMALL, WEIGHTS, adapted, changed_json, copied, loaded, logits, made
from safetensors.torch import load_file, save_file
from test_adapters import LLAVA
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    Gemma3nTextConfig,
    GPT2Config,
    LlamaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.errors import ArtifactError, CheckpointError, RecipeError

OTHER = ["def mean(values):\n    return sum(values) / len(values)\n", "for value in values: pass\n"]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def config(rows, **more):
    return LlamaConfig(**SMALL | {"vocab_size": rows, **more})


def of(folder, name, tokenizer, kind=None, *, seed=0, **more):
    """A model with its tokenizer."""
    rows = len(tokenizer) + more.pop("spare", 0)
    model = made(folder / name, kind or config(rows, **more), seed=seed)
    tokenizer.save_pretrained(folder / name)
    return model


def transplanted(folder, *options, model="model", donor="donor", out="out"):
    names = [str(folder / name) for name in (model, donor, out)]
    command = ["transplant-tokenizer", *names, *map(str, options), "--json"]
    found = CliRunner().invoke(cli.app, command, catch_exceptions=False)
    return json.loads(found.output.splitlines()[-1])


@pytest.fixture
def pair(tmp_path):
    """Two ByteLevel tokenizers of other merges, and models."""
    of(tmp_path, "model", byte_level_tokenizer(320))
    of(tmp_path, "donor", byte_level_tokenizer(340, OTHER), seed=1, hidden_size=48, spare=12)
    return tmp_path


def ids_of(folder, name):
    return AutoTokenizer.from_pretrained(folder / name).get_vocab()


@pytest.mark.parametrize("method", ["omp", "pieces"])
@pytest.mark.parametrize("tied", [False, True])
def test_shared_tokens_keep_their_rows_and_the_result_loads(tmp_path, method, tied):
    of(tmp_path, "model", byte_level_tokenizer(320), tie_word_embeddings=tied)
    of(tmp_path, "donor", byte_level_tokenizer(340, OTHER), seed=1, spare=12)
    details = transplanted(tmp_path, "--method", method)
    out, donor = tmp_path / "out", tmp_path / "donor"
    loaded(out)
    ours, theirs = ids_of(tmp_path, "model"), ids_of(tmp_path, "donor")
    shared = ours.keys() & theirs.keys()
    assert details["copied"] == len(shared) > 250
    assert details["new"] == len(theirs) - len(shared) > 20
    found, model = load_file(out / WEIGHTS), load_file(tmp_path / "model" / WEIGHTS)
    assert found.keys() == model.keys()
    for name in [EMBEDDING, *([] if tied else [HEAD])]:
        rows = load_file(donor / WEIGHTS)[EMBEDDING].shape[0] if method == "omp" else len(theirs)
        assert found[name].shape == (rows, 32)
        for token in shared:
            assert torch.equal(found[name][theirs[token]], model[name][ours[token]])
        new = found[name][[theirs[token] for token in theirs.keys() - shared]]
        assert torch.isfinite(new).all() and (new.abs().sum(dim=1) > 0).all()
    for name in found.keys() - {EMBEDDING, HEAD}:
        assert torch.equal(found[name], model[name])
    assert (out / "tokenizer.json").read_bytes() == (donor / "tokenizer.json").read_bytes()
    assert json.loads((out / "config.json").read_text())["vocab_size"] == rows


def test_the_same_tokens_under_other_numbers_give_the_same_model(tmp_path):
    """Every row moves with its token: logits are those of the model, in the donor's order."""
    tokenizer = byte_level_tokenizer(320)
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    order = np.random.default_rng(0).permutation(len(tokenizer)).tolist()
    values["model"]["vocab"] = {t: order[i] for t, i in values["model"]["vocab"].items()}
    for added in values["added_tokens"]:
        added["id"] = order[added["id"]]
    turned = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(values)), eos_token="<eos>"
    )
    model = of(tmp_path, "model", tokenizer)
    of(tmp_path, "donor", turned, seed=1)
    transplanted(tmp_path)
    found = loaded(tmp_path / "out")
    text = "def f(x): return x + 12\n"
    one, other = (t(text, return_tensors="pt").input_ids for t in (tokenizer, turned))
    expected = logits(model, one)[..., torch.tensor(order).argsort()]
    assert torch.equal(logits(found, other), expected)


def test_a_new_token_is_the_sum_of_the_shared_ones_that_it_is_in_the_donor(pair):
    """The donor's row is 2 a - 0.5 b of two shared tokens; so is the model's."""
    ours, theirs = ids_of(pair, "model"), ids_of(pair, "donor")
    new = next(t for t in sorted(theirs) if t not in ours and t.isascii())
    for name in (EMBEDDING, HEAD):
        model = load_file(pair / "model" / WEIGHTS)[name]

        def changed(tensors, name=name):
            rows = tensors[name].clone()
            rows[theirs[new]] = 2 * rows[theirs["a"]] - 0.5 * rows[theirs["b"]]
            return tensors | {name: rows}

        copied(pair / "donor", f"donor-{name}", tensors=changed)
        transplanted(pair, "--count", 4, donor=f"donor-{name}", out=f"out-{name}")
        found = load_file(pair / f"out-{name}" / WEIGHTS)[name][theirs[new]]
        expected = 2 * model[ours["a"]] - 0.5 * model[ours["b"]]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_pieces_are_the_mean_of_what_the_own_tokenizer_makes(pair):
    transplanted(pair, "--method", "pieces")
    ours, theirs = ids_of(pair, "model"), ids_of(pair, "donor")
    tokenizer = AutoTokenizer.from_pretrained(pair / "model")
    found, model = (load_file(pair / name / WEIGHTS) for name in ("out", "model"))
    checked = 0
    for token in sorted(theirs.keys() - ours.keys()):
        text = token.replace("Ġ", " ").replace("Ċ", "\n")
        if not text.isascii():
            continue
        ids = tokenizer(f"0{text}").input_ids
        if ids[0] != ours["0"]:
            continue
        expected = model[EMBEDDING][ids[1:]].mean(dim=0)
        torch.testing.assert_close(found[EMBEDDING][theirs[token]], expected)
        checked += 1
    assert checked > 15


def test_bytes_are_compared_not_their_spelling(tmp_path):
    """SentencePiece writes a blank as U+2581 and has bytes as <0xFF>."""
    of(tmp_path, "model", sentencepiece_tokenizer(560))
    of(tmp_path, "donor", byte_level_tokenizer(320), seed=1)
    transplanted(tmp_path)
    ours, theirs = ids_of(tmp_path, "model"), ids_of(tmp_path, "donor")
    found, model = (load_file(tmp_path / name / WEIGHTS)[EMBEDDING] for name in ("out", "model"))
    assert torch.equal(found[theirs["ÿ"]], model[ours["<0xFF>"]])
    blank = next(t for t in theirs if t.startswith("Ġ") and "▁" + t[1:] in ours and len(t) > 1)
    assert torch.equal(found[theirs[blank]], model[ours["▁" + blank[1:]]])
    assert torch.equal(found[theirs["<eos>"]], model[ours["</s>"]])  # by its role


def test_numbers_of_special_tokens_follow_their_text(pair):
    for name, extra in (("model", ["<a>", "<b>"]), ("donor", ["<b>", "<c>", "<a>"])):
        tokenizer = AutoTokenizer.from_pretrained(pair / name)
        tokenizer.add_special_tokens({"additional_special_tokens": extra})
        tokenizer.save_pretrained(pair / name)
    ours, theirs = ids_of(pair, "model"), ids_of(pair, "donor")
    of_model = {**SMALL, "vocab_size": len(ours)}
    tokenizer = AutoTokenizer.from_pretrained(pair / "model")
    made(pair / "model", LlamaConfig(**of_model))
    tokenizer.save_pretrained(pair / "model")
    changed_json(pair / "model" / "config.json", eos_token_id=ours["<b>"], bos_token_id=ours["<a>"])
    (pair / "model" / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [ours["<b>"], ours["<eos>"]], "suppress_tokens": [ours["<a>"]]})
    )
    transplanted(pair)
    values = json.loads((pair / "out" / "config.json").read_text())
    assert (values["eos_token_id"], values["bos_token_id"]) == (theirs["<b>"], theirs["<a>"])
    generation = json.loads((pair / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [theirs["<b>"], theirs["<eos>"]]
    assert generation["suppress_tokens"] == [theirs["<a>"]]
    rows = load_file(pair / "model" / WEIGHTS)[EMBEDDING]
    found = load_file(pair / "out" / WEIGHTS)[EMBEDDING]
    assert torch.equal(found[theirs["<a>"]], rows[ours["<a>"]])


def test_a_model_with_an_adapter_and_one_of_turned_matrices_are_taken(pair):
    adapter = adapted(pair / "model", pair / "ad", target_modules=["embed_tokens", "q_proj"])
    name = f"model+{pair / 'ad'}"
    transplanted(pair, model=name)
    found = load_file(pair / "out" / WEIGHTS)
    expected = adapter.merge_and_unload().state_dict()
    ours, theirs = ids_of(pair, "model"), ids_of(pair, "donor")
    row = found[EMBEDDING][theirs["a"]]
    torch.testing.assert_close(row, expected[EMBEDDING][ours["a"]], rtol=1e-4, atol=1e-5)
    layer = "model.layers.1.self_attn.q_proj.weight"
    torch.testing.assert_close(found[layer], expected[layer], rtol=1e-4, atol=1e-5)
    gpt2 = GPT2Config(vocab_size=320, n_embd=24, n_layer=2, n_head=3)
    of(pair, "gpt2", byte_level_tokenizer(320), gpt2)
    transplanted(pair, model="gpt2", out="of gpt2")
    loaded(pair / "of gpt2")


def test_rows_that_are_no_tokens_are_the_mean_of_those_that_are(pair):
    transplanted(pair)
    found = load_file(pair / "out" / WEIGHTS)[EMBEDDING]
    mean = load_file(pair / "model" / WEIGHTS)[EMBEDDING].mean(dim=0)
    size = len(ids_of(pair, "donor"))
    assert len(found) == size + 12
    torch.testing.assert_close(found[size:], mean.expand(12, -1))


def test_another_number_of_threads_gives_the_same_bytes(pair):
    for threads in (1, 2):
        transplanted(pair, "--threads", threads, out=f"out{threads}")
    one, two = ((pair / f"out{n}" / WEIGHTS).read_bytes() for n in (1, 2))
    assert one == two


def test_a_tokenizer_that_transformers_would_read_otherwise_is_said(tmp_path):
    """Beside a qwen2 config AutoTokenizer replaces the pre-tokenizer of digits by three."""
    values = json.loads(byte_level_tokenizer(320).backend_tokenizer.to_str())
    by_three = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}| ?\p{L}+|\s+|[^\s\p{L}\p{N}]+"},
                "behavior": "Isolated", "invert": False}  # fmt: skip
    only = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False,
            "trim_offsets": True}  # fmt: skip
    values["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [by_three, only]}
    size = len(values["model"]["vocab"])
    for number, merged in enumerate(["12", "123", "34", "45", "67"]):
        values["model"]["vocab"][merged] = size + number
        values["model"]["merges"].append([merged[:-1], merged[-1]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(values)), eos_token="<eos>"
    )
    of(tmp_path, "donor", tokenizer, seed=1)
    kind = Qwen2Config(**{k: v for k, v in SMALL.items() if k != "head_dim"} | {"vocab_size": 320})
    of(tmp_path, "model", byte_level_tokenizer(320), kind)
    details = transplanted(tmp_path)
    assert any("AutoTokenizer" in note or "tokenizer_class" in note for note in details["notes"])


def test_a_donor_of_tokenizer_files_alone_is_enough_for_pieces(pair):
    (pair / "donor" / WEIGHTS).unlink()
    (pair / "donor" / "config.json").unlink()
    transplanted(pair, "--method", "pieces")
    loaded(pair / "out")
    with pytest.raises(CheckpointError, match="donor"):
        transplanted(pair, out="again")


def test_what_cannot_be_transplanted_is_refused(pair):
    with pytest.raises(RecipeError, match=r"--method 'mean'.*omp or pieces"):
        transplanted(pair, "--method", "mean")
    with pytest.raises(RecipeError, match="--count is of --method omp"):
        transplanted(pair, "--method", "pieces", "--count", 8)
    sizes = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    more = {"vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8}
    kind = Gemma3nTextConfig(**sizes, **heads, **more, num_kv_shared_layers=0, laurel_rank=4)
    of(pair, "gemma3n", byte_level_tokenizer(320), kind)
    with pytest.raises(CheckpointError, match="rows by token for every layer"):
        transplanted(pair, model="gemma3n")
    text = {**SMALL, "vocab_size": 321}
    tokenizer = byte_level_tokenizer(320)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    values = LLAVA.to_dict() | {"text_config": LlamaConfig(**text).to_dict()}
    sees = type(LLAVA).from_dict(values | {"image_token_id": 320, "image_token_index": 320})
    made(pair / "sees", sees, kind=LlavaForConditionalGeneration)
    tokenizer.save_pretrained(pair / "sees")
    with pytest.raises(CheckpointError, match=r"is '<image>', which the donor's tokenizer"):
        transplanted(pair, model="sees")
    assert not (pair / "out").exists()


def test_faults_of_the_donor_are_named_as_the_donor_s(pair):
    values = load_file(pair / "donor" / WEIGHTS)
    values[EMBEDDING][17, 3] = float("nan")
    save_file(values, pair / "donor" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"embed_tokens.* of .*donor holds NaN"):
        transplanted(pair)
    with pytest.raises(CheckpointError, match=r"There is no model folder .*donor.adapter"):
        transplanted(pair, "--method", "pieces", donor="donor+adapter")
    (pair / "out").mkdir()
    (pair / "out" / "mine").write_text("")
    with pytest.raises(ArtifactError, match="exists already"):
        transplanted(pair)
