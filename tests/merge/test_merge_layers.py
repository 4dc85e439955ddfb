"""What a merge file can ask for beyond whole models: layers, vocabularies, adapters, templates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import byte_level_tokenizer, tiny_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.engine.file import Condition, read_merge_file
from infifusion.merge.engine.plan import plan_file
from infifusion.merge.engine.settings import evaluate, matches
from infifusion.merge.engine.weights import run_plan


def merge(folder: Path, out: str = "out", *, pickle: bool = False, **values: object) -> Path:
    path = folder / f"{out}.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    plan = plan_file(read_merge_file(path, base_override=None), path, pickle=pickle)
    run_plan(plan, folder / out)
    return folder / out


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """a/ and b/: two small Llamas with tokenizers of 300 and 290 tokens, two layers each."""
    for seed, (name, size) in enumerate((("a", 300), ("b", 290))):
        tiny_model("llama", size, seed=seed).save_pretrained(tmp_path / name)
        text = ["abab abab"] if name == "a" else ["cdcd cdcd"]
        byte_level_tokenizer(size, text * 9).save_pretrained(tmp_path / name)
    return tmp_path


def same_vocabulary(models: Path) -> Path:
    tiny_model("llama", 300, seed=1).save_pretrained(models / "b")
    shutil.copy(models / "a" / "tokenizer.json", models / "b" / "tokenizer.json")
    return models


def test_stacked_layers_are_renumbered_and_load(models):
    same_vocabulary(models)
    layers = json.loads((models / "a" / "config.json").read_text())["num_hidden_layers"]
    out = merge(
        models,
        merge_method="passthrough",
        slices=[
            {"sources": [{"model": "a", "layer_range": [0, layers]}]},
            {"sources": [{"model": "b", "layer_range": [layers - 1, layers]}]},
        ],
    )
    a, b, found = weights(models / "a"), weights(models / "b"), weights(out)
    part = "mlp.up_proj.weight"
    for n in range(layers):
        assert torch.equal(found[f"model.layers.{n}.{part}"], a[f"model.layers.{n}.{part}"])
    last = f"model.layers.{layers}.{part}"
    assert torch.equal(found[last], b[f"model.layers.{layers - 1}.{part}"])
    assert torch.equal(found["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    assert torch.equal(found["model.norm.weight"], b["model.norm.weight"])
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert loaded.config.num_hidden_layers == layers + 1
    assert loaded(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_settings_are_interpolated_over_the_layers_and_filtered():
    assert evaluate([0, 1, 0.5], "x", 0.75, loose=False) == pytest.approx(0.75)
    assert evaluate([0, 1, 0.5], "x", 1.0, loose=False) == 0.5
    assert evaluate(["1e-3", 3e-3], "x", 0.5, loose=False) == pytest.approx(2e-3)
    assert evaluate([True, False], "x", 0.9, loose=False) is True
    listed = [Condition(filter="mlp", value=[0, 4]), Condition(value=9)]
    assert evaluate(listed, "layers.0.mlp.up", 0.25, loose=False) == 1
    assert evaluate(listed, "norm", 0.25, loose=False) == 9
    assert evaluate(listed[:1], "norm", 0.25, loose=False) is None


def test_a_filter_does_not_cut_a_number_in_two():
    assert matches("layers.1", "model.layers.1.mlp", loose=False)
    assert not matches("layers.1", "model.layers.10.mlp", loose=False)
    assert not matches("1.mlp", "model.layers.11.mlp", loose=False)
    assert matches("layers.1", "model.layers.10.mlp", loose=True)
    assert matches("mlp", "model.layers.10.mlp2", loose=False)
    assert matches("*", "anything", loose=False) and matches(None, "anything", loose=False)


def test_models_with_other_vocabularies_are_refused_with_what_to_do(models):
    with pytest.raises(CheckpointError, match="tokenizer_source: union"):
        merge(models, merge_method="linear", models=[{"model": "a"}, {"model": "b"}])


def test_a_union_vocabulary_gives_every_token_its_own_row(models):
    out = merge(
        models,
        merge_method="linear",
        models=[
            {"model": "a", "parameters": {"weight": 1.0}},
            {"model": "b", "parameters": {"weight": 3.0}},
        ],
        tokenizer={"source": "union", "pad_to_multiple_of": 16},
    )
    tokenizer, loaded = (
        AutoTokenizer.from_pretrained(out),
        AutoModelForCausalLM.from_pretrained(out),
    )
    theirs = [AutoTokenizer.from_pretrained(models / n).get_vocab() for n in "ab"]
    ids = tokenizer.get_vocab()
    assert set(ids) == set(theirs[0]) | set(theirs[1])
    assert loaded.config.vocab_size % 16 == 0
    assert loaded.config.vocab_size == weights(out)["model.embed_tokens.weight"].shape[0]
    rows = [weights(models / n)["model.embed_tokens.weight"] for n in "ab"]
    found = weights(out)["model.embed_tokens.weight"]
    seen = {"both": 0, "a": 0, "b": 0}
    for token, row in ids.items():
        in_a, in_b = token in theirs[0], token in theirs[1]
        if in_a and in_b:
            expected = (rows[0][theirs[0][token]] + 3 * rows[1][theirs[1][token]]) / 4
        else:  # the one row stands for both models
            side = 0 if in_a else 1
            expected = rows[side][theirs[side][token]]
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-6)
        seen["both" if in_a and in_b else "a" if in_a else "b"] += 1
    assert min(seen.values()) > 0
    mean = found[: len(ids)].mean(dim=0)
    torch.testing.assert_close(found[-1], mean, rtol=1e-4, atol=1e-6)


def test_the_bases_vocabulary_drops_other_tokens(models):
    out = merge(
        models,
        merge_method="task_arithmetic",
        base_model="a",
        models=[{"model": "a"}, {"model": "b", "parameters": {"weight": 1.0}}],
        tokenizer_source="base",
    )
    ids = AutoTokenizer.from_pretrained(models / "a").get_vocab()
    assert AutoTokenizer.from_pretrained(out).get_vocab() == ids
    other = AutoTokenizer.from_pretrained(models / "b").get_vocab()
    rows = [weights(models / n)["model.embed_tokens.weight"] for n in "ab"]
    found = weights(out)["model.embed_tokens.weight"]
    for token, row in ids.items():
        expected = rows[1][other[token]] if token in other else rows[0][row]
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-6)


def test_single_tokens_take_the_row_they_are_told_to(models):
    other = AutoTokenizer.from_pretrained(models / "b").get_vocab()
    only_b = min(set(other) - set(AutoTokenizer.from_pretrained(models / "a").get_vocab()))
    out = merge(
        models,
        merge_method="linear",
        models=[{"model": "a"}, {"model": "b"}],
        tokenizer={
            "source": "base",
            "tokens": {
                "<new>": {"source": {"kind": "model_token", "model": "b", "token": only_b}},
                "<zero>": {"source": {"kind": "zero"}},
            },
        },
    )
    ids = AutoTokenizer.from_pretrained(out).get_vocab()
    found = weights(out)["model.embed_tokens.weight"]
    expected = weights(models / "b")["model.embed_tokens.weight"][other[only_b]]
    torch.testing.assert_close(found[ids["<new>"]], expected)
    assert (found[ids["<zero>"]] == 0).all()


def test_a_lora_adapter_is_merged_as_peft_merges_it(models):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(models / "a")
    torch.manual_seed(0)
    adapted = get_peft_model(
        model, LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "up_proj"])
    )
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(models / "adapter")
    out = merge(models, merge_method="passthrough", models=[{"model": "a+adapter"}])
    expected = adapted.merge_and_unload().state_dict()
    found = weights(out)
    changed = 0
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
        changed += not torch.equal(tensor, weights(models / "a")[name])
    assert changed == 2 * 2


def test_an_adapter_of_another_kind_is_refused(models):
    (models / "odd").mkdir()
    (models / "odd" / "adapter_config.json").write_text('{"peft_type": "LOHA"}')
    with pytest.raises(CheckpointError, match="only plain LoRA.*LOHA.*merge_and_unload"):
        merge(models, merge_method="passthrough", models=[{"model": "a+odd"}])


def test_an_adapter_that_uses_spare_rows_brings_their_tokens(models):
    """The rows stay as many; the tokenizer beside the adapter has one token more."""
    tokenizer = AutoTokenizer.from_pretrained(models / "a")
    spare = tiny_model("llama", len(tokenizer) + 8, seed=0)
    spare.save_pretrained(models / "a")
    get_peft_model(spare, LoraConfig(target_modules=["q_proj"])).save_pretrained(models / "ad")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool>"]})
    tokenizer.save_pretrained(models / "ad")
    out = merge(models, merge_method="passthrough", models=[{"model": "a+ad"}])
    assert AutoTokenizer.from_pretrained(out).get_vocab() == tokenizer.get_vocab()


def test_a_row_per_token_in_one_model_only_is_refused_in_another_vocabulary(models):
    """A head of further tokens would keep the rows of the old numbers."""
    values = weights(models / "a")
    more = {"mtp.embed_tokens.weight": values["model.embed_tokens.weight"].clone()}
    save_file({**values, **more}, models / "a" / "model.safetensors", metadata={"format": "pt"})
    listed = [{"model": "a"}, {"model": "b"}]
    with pytest.raises(CheckpointError, match="mtp.embed_tokens.weight stands in .*a.* only"):
        merge(models, merge_method="linear", models=listed, tokenizer_source="union")


def test_a_token_s_row_that_is_forced_has_a_source(models):
    tokens = {"source": "base", "tokens": {"abab": {"force": True}}}
    with pytest.raises(RecipeError, match="force: true needs a source"):
        merge(models, merge_method="passthrough", models=[{"model": "a"}], tokenizer=tokens)


def test_a_template_of_an_older_processor_gives_way(models):
    """Processors take chat_template.json, where there is one."""
    old = json.dumps({"chat_template": "{{ 'old' }}"})
    (models / "a" / "chat_template.json").write_text(old)
    listed = [{"model": "a"}]
    out = merge(models, merge_method="passthrough", models=listed, chat_template="{{ 'new' }}")
    assert not (out / "chat_template.json").exists()
    out = merge(models, "auto", merge_method="passthrough", models=listed, chat_template="auto")
    assert (out / "chat_template.jinja").read_text() == "{{ 'old' }}"


@pytest.mark.parametrize(
    ("wanted", "expected"), [("chatml", "<|im_start|>user\nhi<|im_end|>\n"), ("{{ 'x' }}", "x")]
)
def test_a_chat_template_is_written(models, wanted, expected):
    out = merge(models, merge_method="passthrough", models=[{"model": "a"}], chat_template=wanted)
    tokenizer = AutoTokenizer.from_pretrained(out)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text == expected


def test_the_most_common_chat_template_is_found(models):
    same_vocabulary(models)
    for name in ("c", "d"):
        shutil.copytree(models / "b", models / name)
    for name, template in (("b", "one"), ("c", "two"), ("d", "two")):
        (models / name / "chat_template.jinja").write_text(template)
    listed = [{"model": name} for name in "abcd"]
    out = merge(models, merge_method="linear", models=listed, chat_template="auto")
    assert (out / "chat_template.jinja").read_text() == "two"
    with pytest.raises(RecipeError, match="no model of the merge has a chat template"):
        merge(models, "no", merge_method="linear", models=listed[:1], chat_template="auto")
    assert not (models / "no").exists()


def test_pickles_are_read_only_when_asked_for_and_only_tensors(models):
    tensors = weights(models / "a")
    (models / "a" / "model.safetensors").unlink()
    torch.save(tensors, models / "a" / "pytorch_model.bin")
    values = {"merge_method": "passthrough", "models": [{"model": "a"}]}
    with pytest.raises(CheckpointError, match="--allow-pickle"):
        merge(models, **values)
    found = weights(merge(models, pickle=True, **values))
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())

    class Evil:
        def __reduce__(self):
            return (Path.touch, (models / "ran",))

    torch.save({"a": Evil()}, models / "a" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        merge(models, "evil", pickle=True, **values)
    assert not (models / "ran").exists()


def test_a_tied_model_lends_its_embedding_as_head(models):
    same_vocabulary(models)
    tied = tiny_model("llama", 300, seed=3)
    tensors = {k: v for k, v in tied.state_dict().items() if k != "lm_head.weight"}
    save_file(tensors, models / "b" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((models / "b" / "config.json").read_text())
    (models / "b" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    head = torch.randn_like(tensors["model.embed_tokens.weight"])
    save_file(
        {**weights(models / "a"), "lm_head.weight": head},
        models / "a" / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = json.loads((models / "a" / "config.json").read_text())
    (models / "a" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    out = merge(models, merge_method="linear", models=[{"model": "a"}, {"model": "b"}])
    expected = (head + tensors["model.embed_tokens.weight"]) / 2
    torch.testing.assert_close(weights(out)["lm_head.weight"], expected)


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize(
    "said", [True, False], ids=["both say tied", "the one with a head does not"]
)
@pytest.mark.parametrize("base", [None, "a", "b"])
def test_a_trained_head_beside_tied_embeddings_is_merged_and_the_config_says_so(
    models, order, said, base
):
    """transformers 5 runs b with its head though the config says tied; version 4 does not."""
    same_vocabulary(models)
    with_head = tiny_model("llama", 300, seed=5).eval()
    with_head.lm_head.weight = torch.nn.Parameter(torch.randn(300, 32))
    with_head.config.tie_word_embeddings = said
    with_head.save_pretrained(models / "b")
    a, b = weights(models / "a"), weights(models / "b")
    assert "lm_head.weight" in b and "lm_head.weight" not in a
    values = {"base_model": base} if base else {}
    listed = [{"model": name, "parameters": {"weight": 0.5}} for name in order]
    out = merge(models, merge_method="linear", models=listed, **values)
    embedding = "model.embed_tokens.weight"
    expected = (a[embedding] + b["lm_head.weight"]) / 2
    torch.testing.assert_close(weights(out)["lm_head.weight"], expected)
    torch.testing.assert_close(weights(out)[embedding], (a[embedding] + b[embedding]) / 2)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    loaded, told = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(told.values())
    torch.testing.assert_close(loaded.lm_head.weight.detach(), expected)


def test_a_trained_head_is_merged_as_a_change_of_the_embedding(models):
    """Task arithmetic with a tied base: base + (b - base) + (c - base), the head like the rest."""
    same_vocabulary(models)
    heads = {}
    for name in "bc":
        model = tiny_model("llama", 300, seed=ord(name))
        heads[name] = torch.randn(300, 32)
        if name == "b":
            model.lm_head.weight = torch.nn.Parameter(heads[name])
        model.save_pretrained(models / name)
    heads["c"] = weights(models / "c")["model.embed_tokens.weight"]
    out = merge(
        models,
        merge_method="task_arithmetic",
        base_model="a",
        models=[{"model": name, "parameters": {"weight": 1.0}} for name in "bc"],
    )
    base = weights(models / "a")["model.embed_tokens.weight"]
    expected = base + (heads["b"] - base) + (heads["c"] - base)
    torch.testing.assert_close(weights(out)["lm_head.weight"], expected)


def test_a_union_with_a_model_without_tokenizer_files_is_refused(models):
    """transformers would give a tokenizer of special tokens alone."""
    for path in (models / "b").glob("*token*"):
        path.unlink()
    config = json.loads((models / "b" / "config.json").read_text())
    (models / "b" / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))
    listed = [{"model": "a"}, {"model": "b"}]
    with pytest.raises(RecipeError, match="b has no tokenizer .*its vocabulary is empty.*save it"):
        merge(models, merge_method="linear", tokenizer_source="union", models=listed)


def test_a_trained_head_is_merged_in_a_union_of_vocabularies(models):
    model = tiny_model("llama", 290, seed=5)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(290, 32))
    model.save_pretrained(models / "b")
    out = merge(
        models,
        merge_method="linear",
        tokenizer_source="union",
        models=[{"model": "a"}, {"model": "b"}],
    )
    a, b = weights(models / "a"), weights(models / "b")
    ids, a_ids, b_ids = (
        AutoTokenizer.from_pretrained(folder).get_vocab()
        for folder in (out, models / "a", models / "b")
    )
    found = weights(out)["lm_head.weight"]
    assert a_ids.keys() & b_ids.keys() and b_ids.keys() - a_ids.keys()
    for token, row in ids.items():
        of_a = a["model.embed_tokens.weight"][a_ids[token]] if token in a_ids else None
        of_b = b["lm_head.weight"][b_ids[token]] if token in b_ids else None
        rows = [one for one in (of_a, of_b) if one is not None]
        torch.testing.assert_close(found[row], sum(rows) / len(rows))
    loaded, told = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(told.values())
    torch.testing.assert_close(loaded.lm_head.weight.detach(), found)


def test_diff_by_hand(models):
    same_vocabulary(models)
    base = {k: torch.ones_like(v) for k, v in weights(models / "a").items()}
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(base, models / "a" / "model.safetensors")
    for folder, (first, second) in (("b", (0.5, 0.5)), ("c", (0.5, -0.5))):
        if folder == "c":
            shutil.copytree(models / "b", models / "c")
        changed = {k: v.clone() for k, v in base.items()}
        changed[name].view(-1)[0] += first
        changed[name].view(-1)[1] += second
        save_file(changed, models / folder / "model.safetensors")
    result = CliRunner().invoke(
        cli.app,
        ["diff", *(str(models / n) for n in "abc"), "--json", "--html", str(models / "d.html")],
    )
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    (found,) = [t for t in values["tensors"] if t["name"] == name]
    size = base[name].numel()
    # Two of all positions; RMS sqrt(.5 / size) over 1; signs agree at one of two; cosine 0.
    assert found["changed"] == pytest.approx([2 / size] * 2)
    assert found["rms"] == pytest.approx([(0.5 / size) ** 0.5] * 2)
    assert found["sign_agreement"] == 0.5
    assert found["cosine"] == pytest.approx(0, abs=1e-12)
    others = [t for t in values["tensors"] if t["name"] != name]
    assert all(t["changed"] == [0, 0] and t["cosine"] is None for t in others)
    page = (models / "d.html").read_text()
    assert "mlp.up_proj" in page and "<script" not in page


def test_one_base_however_it_is_spelt(models):
    same_vocabulary(models)
    shutil.copytree(models / "b", models / "c")
    found = []
    for n, name in enumerate(("a", "./a", str(models / "a") + "/")):
        out = merge(
            models,
            f"out{n}",
            merge_method="task_arithmetic",
            base_model=name,
            models=[{"model": "a"}, {"model": "b"}, {"model": "c"}],
            parameters={"normalize": True, "weight": 1.0},
        )
        found.append(weights(out)["model.norm.weight"])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_other_numbered_tensors_are_not_taken_for_layers(models):
    same_vocabulary(models)
    for name in "ab":
        tensors = weights(models / name)
        more = {f"visual.blocks.{n}.w": torch.full((2,), float(n)) for n in range(5)}
        save_file({**tensors, **more}, models / name / "model.safetensors")
    whole = merge(models, "w", merge_method="linear", models=[{"model": "a"}, {"model": "b"}])
    assert weights(whole).keys() == weights(models / "a").keys()
    stack = [{"sources": [{"model": "a", "layer_range": [0, 1]}]}] * 3
    stacked = weights(merge(models, "s", merge_method="passthrough", slices=stack))
    assert {f"visual.blocks.{n}.w" for n in range(5)} <= stacked.keys()
    layers = {name.split(".")[2] for name in stacked if name.startswith("model.layers.")}
    assert layers == {"0", "1", "2"}


def test_a_stacked_layers_config_entry_comes_along(models):
    same_vocabulary(models)
    for name, kinds in (
        ("a", ["full_attention", "sliding_attention"]),
        ("b", ["sliding_attention"] * 2),
    ):
        path = models / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"layer_types": kinds}))
    slices = [
        {"sources": [{"model": "a", "layer_range": [1, 2]}]},
        {"sources": [{"model": "b", "layer_range": [0, 2]}]},
    ]
    out = merge(models, merge_method="passthrough", slices=slices)
    config = json.loads((out / "config.json").read_text())
    assert config["layer_types"] == ["sliding_attention"] * 3
    path = models / "b" / "config.json"
    config = json.loads(path.read_text())
    del config["layer_types"]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="no 'layer_types' for layer 0"):
        merge(models, "no", merge_method="passthrough", slices=slices)
    assert not (models / "no").exists() and not (models / ".no.unfinished").exists()


def test_an_adapter_and_another_vocabulary_go_together(models):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(models / "a")
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["lm_head"]))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(models / "adapter")
    if "lm_head.weight" not in weights(models / "a"):
        pytest.skip("the tests' model ties its embeddings")
    out = merge(
        models,
        merge_method="passthrough",
        models=[{"model": "a+adapter"}],
        tokenizer={"source": "base", "tokens": {"<x>": {"source": {"kind": "zero"}}}},
    )
    head = weights(out)["lm_head.weight"]
    expected = adapted.merge_and_unload().state_dict()["lm_head.weight"]
    torch.testing.assert_close(head[: len(expected)], expected, rtol=1e-5, atol=1e-6)


def test_what_is_not_needed_is_noted_and_empty_parameters_are_none(models):
    same_vocabulary(models)
    path = models / "m.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "merge_method": "task_arithmetic",
                "base_model": "a",
                "models": [{"model": "b", "parameters": None}],
                "parameters": {"density": 0.5, "int8_mask": True},
            }
        )
    )
    plan = plan_file(read_merge_file(path, base_override=None), path)
    assert plan.notes == [
        "density is not needed: every entry is kept.",
        "int8_mask is not needed: masks take one bit here.",
    ]
