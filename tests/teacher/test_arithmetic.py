"""What `dtype: auto` stands for on a CPU, and the float32 logits of half-precision models.

Whether bfloat16 pays is said by the test, never asked of the processor that runs it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from infifusion.process import processor
from infifusion.recipe import Model, Recipe
from infifusion.store.identity import running_identity
from infifusion.store.records import write_record
from infifusion.teacher import arithmetic
from infifusion.teacher.arithmetic import auto_in_words, settled, with_dtype
from infifusion.teacher.forward import make_teacher
from infifusion.teacher.lm_head import split_head
from infifusion.teacher.load import load_model


def model_folder(folder: Path, *, hidden: int, dtype: torch.dtype = torch.bfloat16) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=hidden,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return folder


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "wide", hidden=512)


@pytest.fixture
def narrow(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "narrow", hidden=64)


@pytest.fixture
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that is good at bfloat16."""
    monkeypatch.setattr(arithmetic, "pick_device", lambda: "cpu")
    monkeypatch.setattr(arithmetic, "bfloat16_pays", lambda _: True)
    monkeypatch.setattr(arithmetic, "gain_of_bfloat16", lambda _: 2.5)


@pytest.fixture
def pays_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "pick_device", lambda: "cpu")
    monkeypatch.setattr(arithmetic, "bfloat16_pays", lambda _: False)


def recipe_of(pivot: Path, source: Path, **more: object) -> Recipe:
    values = {
        "name": "r",
        "pivot": {"model": str(pivot)},
        "sources": {"s": {"model": str(source)}},
        "data": {"train": [{"path": "t.jsonl", "domain": "d"}]},
        "fuse": {"unified": {}},
        "distill": {"fused": {"target": "unified"}, "sft": {"training": {"bf16": False}}},
        **more,
    }
    return Recipe.from_mapping(values, where="test")


def test_a_wide_model_runs_in_bfloat16_where_it_pays(pays: None, wide: Path, narrow: Path) -> None:
    assert with_dtype(Model(model=str(wide))).dtype == "bfloat16"
    assert with_dtype(Model(model=str(narrow))).dtype == "auto"


def test_what_the_recipe_says_stays(pays: None, wide: Path) -> None:
    for dtype in ("float32", "float16", "bfloat16"):
        assert with_dtype(Model(model=str(wide), dtype=dtype)).dtype == dtype
    quantised = Model(model=str(wide), quantization="8bit")
    assert with_dtype(quantised) == quantised


def test_nothing_changes_where_it_does_not_pay(pays_not: None, wide: Path, tmp_path: Path) -> None:
    recipe = recipe_of(wide, wide)
    assert settled(recipe, tmp_path) == recipe
    assert auto_in_words(recipe) is None
    assert with_dtype(recipe.pivot) == recipe.pivot


def test_a_run_is_settled_model_by_model(pays: None, wide: Path, narrow: Path, tmp_path: Path):
    found = settled(recipe_of(wide, narrow), tmp_path)
    assert (found.pivot.dtype, found.sources["s"].dtype) == ("bfloat16", "auto")
    runs = {run.name: run.training for run in found.resolve().runs}
    assert runs == {"fused": {"bf16": True}, "sft": {"bf16": False}}
    found = settled(recipe_of(narrow, wide), tmp_path)
    assert (found.pivot.dtype, found.sources["s"].dtype) == ("auto", "bfloat16")
    assert found.distill == recipe_of(narrow, wide).distill
    assert "s in bfloat16" in (auto_in_words(recipe_of(narrow, wide)) or "")


def test_a_pivot_saved_in_float32_is_trained_in_it(pays: None, wide: Path, tmp_path: Path) -> None:
    """As on a GPU: bf16 is the default of checkpoints in bfloat16."""
    full = model_folder(tmp_path / "full", hidden=512, dtype=torch.float32)
    assert settled(recipe_of(full, wide), tmp_path).distill == recipe_of(full, wide).distill


@pytest.mark.parametrize("where", ["training", "deepspeed"])
def test_training_that_says_its_arithmetic_stays(pays: None, wide: Path, tmp_path: Path, where):
    more: dict = {"training": {"fp16": False}}
    if where == "deepspeed":
        more = {"distill": {"fused": {"target": "unified", "parallel": "deepspeed"}}}
    recipe = recipe_of(wide, wide, **more)
    assert settled(recipe, tmp_path).distill == recipe.distill


def begun(root: Path, place: str, key: str, dtype: str) -> None:
    (root / place).mkdir(parents=True)
    write_record(root / place / "started.json", {"fingerprint": {key: {"dtype": dtype}}})


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("teach/s", "model"),
        ("respond/s", "model"),
        ("evaluate/source__s", "model"),
        ("evaluate/fused", "model"),
        ("distill/fused", "pivot"),
    ],
)
def test_a_run_goes_on_as_it_began(
    monkeypatch: pytest.MonkeyPatch, pays: None, wide: Path, tmp_path: Path, place: str, key: str
) -> None:
    """In float32 on a processor that would take bfloat16, and the other way round."""
    recipe = recipe_of(wide, wide)
    begun(tmp_path / "old", place, key, "auto")
    assert settled(recipe, tmp_path / "old") == recipe
    begun(tmp_path / "new", place, key, "bfloat16")
    monkeypatch.setattr(arithmetic, "bfloat16_pays", lambda _: False)
    found = settled(recipe, tmp_path / "new")
    assert (found.pivot.dtype, found.sources["s"].dtype) == ("bfloat16", "bfloat16")


def test_a_narrow_models_beginning_says_nothing(
    pays: None, wide: Path, narrow: Path, tmp_path: Path
) -> None:
    """It is float32 in any case: `auto` stands in its fingerprint in new runs, too."""
    begun(tmp_path, "teach/s", "model", "auto")
    assert settled(recipe_of(wide, narrow), tmp_path).pivot.dtype == "bfloat16"


def test_half_precision_is_known_by_its_logits(wide: Path) -> None:
    """A cache of bfloat16 logits is not gone on with."""
    assert running_identity(Model(model=str(wide), dtype="bfloat16"))["logits"] == "float32"
    assert "logits" not in running_identity(Model(model=str(wide), dtype="float32"))


def exact_logits(model: LlamaForCausalLM, hidden_RD: torch.Tensor) -> torch.Tensor:
    return hidden_RD.double() @ model.lm_head.weight.detach().double().t()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("block", [7, 300, 8192])
def test_half_precision_models_have_float32_logits(
    monkeypatch: pytest.MonkeyPatch, wide: Path, dtype: str, block: int
) -> None:
    monkeypatch.setattr("infifusion.teacher.lm_head.BLOCK", block)
    model = load_model(Model(model=str(wide), dtype=dtype))
    teacher = make_teacher(model, top_k=5, batch_tokens=64, head_rows=None)
    hidden_RD = torch.randn(9, 512, generator=torch.manual_seed(1)).to(model.dtype)
    with torch.inference_mode():
        logits_RV = teacher.head.logits(hidden_RD)
    assert logits_RV.dtype is torch.float32
    expected_RV = exact_logits(model, hidden_RD)
    assert torch.allclose(logits_RV.double(), expected_RV, rtol=0, atol=1e-5)
    half_RV = split_head(model).logits(hidden_RD).double()
    assert (half_RV - expected_RV).abs().max() > 1e-4  # what it would be without


def test_the_products_setting_is_restored(wide: Path) -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    model = load_model(Model(model=str(wide), dtype="bfloat16"))
    with torch.inference_mode():
        split_head(model).with_float32_logits().logits(torch.zeros(1, 512, dtype=torch.bfloat16))
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_a_float32_head_is_the_models_own(narrow: Path) -> None:
    head = split_head(load_model(Model(model=str(narrow), dtype="float32")))
    assert head.with_float32_logits() is head


CPU = (
    "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx512f avx512_bf16\n\nprocessor\t: 1\n"
)


@pytest.fixture
def cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def write(text: str | None) -> None:
        path = tmp_path / "cpuinfo"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        processor._described.cache_clear()

    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    yield write
    processor._described.cache_clear()


def test_the_processor_is_asked_by_its_flags(cpuinfo) -> None:
    for text, has in (
        (CPU, True),
        (CPU.replace("avx512_bf16", "amx_bf16 amx_tile"), True),
        (CPU.replace("avx512_bf16", ""), False),
        (None, False),
    ):
        cpuinfo(text)
        assert processor.has_instructions() is has


@pytest.mark.parametrize(("gain", "expected"), [(2.4, True), (1.3, True), (1.1, False)])
def test_what_was_measured_decides_and_is_kept(
    monkeypatch: pytest.MonkeyPatch, cpuinfo, tmp_path: Path, gain: float, expected: bool
) -> None:
    cpuinfo(CPU)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(processor, "_measure", lambda: gain)
    assert processor.bfloat16_seems_to_pay(tmp_path / "c")  # by the flags, before it is measured
    assert processor.bfloat16_pays(tmp_path / "c") is expected
    monkeypatch.setattr(processor, "_measure", lambda: pytest.fail("measured twice"))
    assert processor.bfloat16_pays(tmp_path / "c") is expected
    assert processor.bfloat16_seems_to_pay(tmp_path / "c") is expected
    cpuinfo(CPU.replace("Some", "Another"))
    assert processor.kept_gain(tmp_path / "c") is None  # another processor's figure


def test_a_damaged_or_unwritable_cache_is_measured_anew(
    monkeypatch: pytest.MonkeyPatch, cpuinfo, tmp_path: Path
) -> None:
    cpuinfo(CPU)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(processor, "_measure", lambda: 2.0)
    (tmp_path / processor.FILE).write_text("[1]")
    assert processor.gain_of_bfloat16(tmp_path) == 2.0
    assert json.loads((tmp_path / processor.FILE).read_text())["gain"] == 2.0
    (tmp_path / "file").write_text("")
    assert processor.gain_of_bfloat16(tmp_path / "file") == 2.0


def test_the_measurement_is_of_both_kinds() -> None:
    assert 0.01 < processor._measure() < 1000
