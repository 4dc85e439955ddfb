"""Whether models belong together, and what stands beside the result."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import byte_level_tokenizer
from made import (
    IDS,
    SMALL,
    WEIGHTS,
    adapted,
    changed_json,
    copied,
    loaded,
    logits,
    made,
    mean_of,
    merged,
    notes_of,
)
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GptOssConfig,
    LlamaConfig,
    Mxfp4Config,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.errors import CheckpointError, InfiFusionError

TURNED = 5


@pytest.fixture
def pair(tmp_path):
    """a/ and b/: two Llamas."""
    for seed, name in enumerate("ab"):
        made(tmp_path / name, LlamaConfig(**SMALL), seed=seed)
    return tmp_path


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}, "head_dim: 8.*4"),
        ({"hidden_act": "gelu"}, "hidden_act: 'silu'.*'gelu'"),
        (
            {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
            "model_type: 'llama'.*'mistral'",
        ),
        (
            {"model_type": "gemma", "architectures": ["GemmaForCausalLM"]},
            "model_type: 'llama'.*'gemma'",
        ),
    ],
)
def test_models_that_calculate_otherwise_are_refused_with_both_values(pair, entries, match):
    copied(pair / "b", "c", **entries)
    with pytest.raises(CheckpointError, match=match):
        mean_of(pair, "a", "c")
    assert not (pair / "out").exists()


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"rope_theta": 5e5, "rope_parameters": ...}, "rope_parameters.rope_theta: 500000.0, a"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}},
            "rope_parameters.rope_type: 'linear', a has 'default'",
        ),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps: 1e-05, a has 1e-06"),
    ],
)
def test_other_positions_and_epsilons_are_named_with_both_values(pair, entries, said):
    copied(pair / "b", "c", **entries)
    assert f"c has {said}" in notes_of(mean_of(pair, "a", "c"))


def test_entries_that_change_nothing_are_not_named(pair):
    entries = {"use_cache": False, "dtype": "bfloat16", "transformers_version": "4.1", "x": 1}
    copied(pair / "b", "c", **entries, bos_token_id=7, attention_dropout=0.3)
    assert "c has" not in notes_of(mean_of(pair, "a", "c")).replace("c has x: 1", "")


def test_an_architecture_that_transformers_does_not_know_is_said_to_be_unchecked(pair):
    own = {"model_type": "mynet", "architectures": ["MyNet"], "auto_map": {"AutoModel": "m.My"}}
    copied(pair / "a", "c", **own)
    copied(pair / "b", "d", **own)
    said = notes_of(mean_of(pair, "c", "d"))
    assert "not checked" in said and "'mynet' (its code comes with the model" in said
    copied(pair / "b", "e", **own, num_attention_heads=2)
    with pytest.raises(CheckpointError, match="num_attention_heads: 4.*2"):
        mean_of(pair, "c", "e", out="no")


def test_a_model_that_lacks_a_tensor_itself_is_refused_before_anything_is_written(pair):
    def without(tensors):
        return {k: v for k, v in tensors.items() if k != "model.norm.weight"}

    copied(pair / "a", "c", tensors=without)
    with pytest.raises(CheckpointError, match="would lack model.norm.weight; so does .*c .c. itse"):
        merged(pair, merge_method="passthrough", models=[{"model": "c"}])
    assert not (pair / "out").exists()


@pytest.mark.parametrize("entry", [{"num_hidden_layers": 10**9}, {"num_hidden_layers": "four"}])
def test_a_config_of_which_no_model_can_be_made_is_refused(pair, entry):
    copied(pair / "a", "c", **entry)
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        merged(pair, merge_method="passthrough", models=[{"model": "c"}])


def test_the_check_runs_outside_this_process_and_its_notes_are_printed(pair, monkeypatch):
    import infifusion.merge.checkpoints.result_check as check

    copied(pair / "b", "c", rms_norm_eps=1e-5)
    alone = SimpleNamespace(modules={}, executable=sys.executable)
    monkeypatch.setattr(check, "sys", alone)  # as where torch was never imported
    listed = [{"model": name, "parameters": {"weight": 1.0}} for name in "ac"]
    (pair / "m.yaml").write_text(json.dumps({"merge_method": "linear", "models": listed}))
    for arguments in (["--dry-run"], ["--plan"], [str(pair / "out")]):
        found = CliRunner().invoke(cli.app, ["merge", str(pair / "m.yaml"), *arguments])
        assert found.exit_code == 0, found.output
        assert "c has rms_norm_eps: 1e-05, a has 1e-06" in found.output
    changed_json(pair / "c" / "config.json", hidden_act="gelu")
    found = CliRunner().invoke(cli.app, ["merge", str(pair / "m.yaml"), "--dry-run"])
    assert isinstance(found.exception, CheckpointError) and "hidden_act" in str(found.exception)


def tokenized(folder, tokenizer, *, seed=0, **config):
    made(folder, LlamaConfig(**{**SMALL, "vocab_size": 300, **config}), seed=seed)
    tokenizer.save_pretrained(folder)


def turned(tokenizer):
    """The same tokens, each at a number higher by five."""
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = values["model"]["vocab"]
    moved = {token: (number + TURNED) % len(vocabulary) for token, number in vocabulary.items()}
    values["model"]["vocab"] = moved
    for one in values["added_tokens"]:
        one["id"] = (one["id"] + TURNED) % len(vocabulary)
    inner = Tokenizer.from_str(json.dumps(values))
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<eos>")


def test_rows_of_other_tokens_are_refused_unless_that_is_asked_for(tmp_path):
    tokenized(tmp_path / "a", byte_level_tokenizer(290, ["abab"] * 9))
    tokenized(tmp_path / "b", byte_level_tokenizer(290, ["cdcd"] * 9), seed=1)
    tokenized(tmp_path / "c", byte_level_tokenizer(290, ["abab"] * 9), seed=2)
    mean_of(tmp_path, "a", "c", out="same")
    with pytest.raises(CheckpointError, match="Token 257 is 'ab' in .* and 'cd' in .*b .*ignore"):
        mean_of(tmp_path, "a", "b")
    ignored = load_file(mean_of(tmp_path, "a", "b", out="all", tokenizer_source="ignore") / WEIGHTS)
    a, b = (load_file(tmp_path / name / WEIGHTS) for name in "ab")
    for name, tensor in ignored.items():
        torch.testing.assert_close(tensor, (a[name] + b[name]) / 2)
    loaded(mean_of(tmp_path, "a", "b", out="union", tokenizer_source="union"))


def test_a_token_that_one_tokenizer_has_is_named(tmp_path):
    tokenized(tmp_path / "a", byte_level_tokenizer(290))
    more = byte_level_tokenizer(290)
    more.add_tokens("<new>")
    tokenized(tmp_path / "b", more, seed=1)
    assert "the first: '<new>', " in notes_of(mean_of(tmp_path, "a", "b"))


@pytest.mark.parametrize("source", ["b", "union"])
def test_special_numbers_follow_their_tokens_into_another_tokenizer(tmp_path, source):
    plain = byte_level_tokenizer(290)
    tokenized(tmp_path / "a", plain, eos_token_id=0, pad_token_id=0)
    tokenized(tmp_path / "b", turned(plain), seed=1, eos_token_id=TURNED)
    (tmp_path / "a" / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [0, 3], "pad_token_id": 0, "temperature": 0.5})
    )
    out = mean_of(tmp_path, "a", "b", tokenizer_source=source)
    shift = TURNED if source == "b" else 0
    assert AutoTokenizer.from_pretrained(out).eos_token_id == shift
    config = json.loads((out / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (shift, shift)
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [shift, 3 + shift]
    assert (generation["pad_token_id"], generation["temperature"]) == (shift, 0.5)
    # The same text gives the same logits, moved with their tokens.
    both = mean_of(tmp_path, "a", "b", out="base", tokenizer_source="base")
    found = logits(loaded(out), IDS + shift)[..., shift : 60 + shift]
    torch.testing.assert_close(found, logits(loaded(both))[..., :60], rtol=1e-4, atol=1e-5)


def test_files_of_a_training_an_adapter_or_a_quantisation_stay_behind(pair):
    left = ["adapter_config.json", "trainer_state.json", "training_args.json"]
    left += ["quantize_config.json", "all_results.json", "zero_to_fp32.py", "training_args.bin"]
    kept = ["qwen.tiktoken", "vocab.bpe", "modeling_own.py", "preprocessor_config.json"]
    kept += ["additional_chat_templates/rag.jinja", "own/inner/code.py", "LICENSE.txt"]
    for name in [*left, *kept, "checkpoint-5/code.py"]:
        (pair / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (pair / "a" / name).write_text("{}")
    out = mean_of(pair, "a", "b")
    here = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert set(kept) <= here
    assert not here & {*left, "checkpoint-5/code.py"}
    loaded(out)


def eight_bits(tensors):
    """Matrices as fp8 with one scale each, as transformers stores them."""
    found = {}
    for name, tensor in tensors.items():
        if "proj" in name:
            scale = tensor.abs().amax() / 400
            found[name] = (tensor / scale).to(torch.float8_e4m3fn)
            found[f"{name}_scale_inv"] = scale.reshape(1, 1)
        else:
            found[name] = tensor
    return found


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}


@pytest.mark.parametrize("order", [0, 1])
def test_quantised_models_are_refused_by_name_or_dequantised(pair, order):
    copied(pair / "b", "c", tensors=eight_bits, quantization_config=FP8)
    names = ["a", "c"][:: 1 - 2 * order]
    with pytest.raises(CheckpointError, match="c is quantised .fp8, .*dequantize: true"):
        mean_of(pair, *names)
    out = mean_of(pair, *names, dequantize=True)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    loaded(out)
    found, a, b = (load_file(f / WEIGHTS) for f in (out, pair / "a", pair / "b"))
    assert found.keys() == a.keys()
    for name, tensor in found.items():  # fp8 has 3 bits after the first
        expected = (a[name] + b[name]) / 2
        assert (tensor - expected).abs().max() <= b[name].abs().max() / 16


def test_a_dequantised_model_takes_an_adapter(pair):
    copied(pair / "b", "c", tensors=eight_bits, quantization_config=FP8)
    adapted(pair / "b", pair / "adapter", target_modules=["q_proj"])
    listed = [{"model": "c+adapter"}]
    found = merged(pair, merge_method="passthrough", models=listed, dequantize=True)
    change = load_file(found / WEIGHTS)["model.layers.0.self_attn.q_proj.weight"]
    base = load_file(pair / "b" / WEIGHTS)["model.layers.0.self_attn.q_proj.weight"]
    lora = load_file(pair / "adapter" / "adapter_model.safetensors")
    place = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    delta = lora[place.format("B")] @ lora[place.format("A")] * (7 / 3)
    assert (change - base - delta).abs().max() <= base.abs().max() / 16


def test_mxfp4_is_dequantised_as_transformers_does_it(tmp_path):
    small = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16, "num_hidden_layers": 2}
    config = GptOssConfig(**{**SMALL, **small}, num_local_experts=4, num_experts_per_tok=2)
    made(tmp_path / "a", config)
    drawn = torch.Generator().manual_seed(0)

    def four_bits(tensors):
        found = {}
        for name, tensor in tensors.items():
            if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                count, inner, outer = tensor.shape
                shape = (count, outer, inner // 32)
                blocks = torch.randint(0, 255, (*shape, 16), generator=drawn)
                found[f"{name}_blocks"] = blocks.to(torch.uint8)
                found[f"{name}_scales"] = torch.full(shape, 120, dtype=torch.uint8)
            else:
                found[name] = tensor
        return found

    said = {"quant_method": "mxfp4", "modules_to_not_convert": []}
    copied(tmp_path / "a", "b", tensors=four_bits, quantization_config=said)
    listed = [{"model": "b"}]
    with pytest.raises(CheckpointError, match="b is quantised .mxfp4"):
        merged(tmp_path, merge_method="passthrough", models=listed)
    out = merged(tmp_path, merge_method="passthrough", models=listed, dequantize=True)
    expected = AutoModelForCausalLM.from_pretrained(
        tmp_path / "b", quantization_config=Mxfp4Config(dequantize=True), dtype="auto"
    )
    torch.testing.assert_close(logits(loaded(out).float()), logits(expected.float()))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "compressed-tensors", "hqq"])
def test_every_quantisation_is_refused_by_its_name(pair, method):
    copied(pair / "b", "c", quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(CheckpointError, match=f"c is quantised .{method}"):
        mean_of(pair, "a", "c")


@pytest.mark.parametrize("name", ["qweight", "weight.absmax", "weight_scale", "SCB"])
def test_quantised_tensors_are_found_though_no_config_says_so(pair, name):
    odd = f"model.layers.0.mlp.up_proj.{name}"
    copied(pair / "b", "c", tensors=lambda tensors: tensors | {odd: torch.ones(2)})
    with pytest.raises(CheckpointError, match=f"holds {odd}.*quantised"):
        merged(pair, merge_method="passthrough", models=[{"model": "c"}])


def test_a_number_beyond_float16_is_named_as_such(pair):
    name = "model.norm.weight"
    copied(pair / "b", "c", tensors=lambda tensors: tensors | {name: tensors[name] + 1e5})
    with pytest.raises(CheckpointError, match="float16 holds no number beyond 65504.*bfloat16"):
        merged(pair, merge_method="passthrough", models=[{"model": "c"}], dtype="float16")


def test_the_same_question_is_asked_once(pair, monkeypatch):
    """Notes are kept, too, and speak of the models at hand."""
    import infifusion.merge.engine.checks as checks

    copied(pair / "b", "e", rms_norm_eps=1.25e-5)
    mean_of(pair, "a", "b", out="first")
    mean_of(pair, "a", "e", out="noted")
    monkeypatch.setattr(checks, "ask", lambda question: pytest.fail("asked again"))
    copied(pair / "b", "c")  # names and folders are not asked about
    mean_of(pair, "a", "c", out="second")
    copied(pair / "e", "f")
    assert "f has rms_norm_eps: 1.25e-05, a has" in notes_of(mean_of(pair, "a", "f", out="third"))
    copied(pair / "b", "d", rms_norm_eps=1.75e-5)
    with pytest.raises(pytest.fail.Exception, match="asked again"):
        mean_of(pair, "a", "d", out="fourth")


def test_gguf_files_that_are_no_single_model_are_refused_by_name(pair):
    """Several in a folder; and a file given for a folder."""
    (pair / "g").mkdir()
    for name in ("one-Q4_K.gguf", "one-Q8_0.gguf"):
        (pair / "g" / name).write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"g is quantised .GGUF.*dequantize: true"):
        mean_of(pair, "a", "g")
    with pytest.raises(CheckpointError, match=r"holds 2 GGUF files .one-Q4_K.gguf, one-Q8_0"):
        mean_of(pair, "a", "g", dequantize=True)
    with pytest.raises(CheckpointError, match=r"one-Q8_0.gguf is a file; .*dequantize: true"):
        mean_of(pair, "a", "g/one-Q8_0.gguf")
    (pair / "g" / "one-Q4_K.gguf").unlink()
    unread = r"one-Q8_0.gguf(: this GGUF file cannot be read| is a GGUF file; .*infifusion\[gguf\])"
    with pytest.raises(InfiFusionError, match=unread):
        mean_of(pair, "a", "g", dequantize=True)
    assert not (pair / "out").exists()
