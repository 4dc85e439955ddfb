"""Pivot and sources."""

from __future__ import annotations

import datetime
from typing import Any, Literal

from pydantic import Field, field_validator

from infifusion.recipe.engine import Engine
from infifusion.recipe.steps import Lora
from infifusion.strict import Strict

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["4bit", "8bit"]
SystemPlace = Literal["keep", "merge_into_user", "drop"]


class Tune(Strict):
    """Fine-tuning of a source on the training data, before it teaches: it learns how answers are
    written here, so that its beliefs are of what they say."""

    lora: Lora | None = None
    """Train low-rank adapters, which are then merged into the copy, in place of all weights."""
    num_train_epochs: float = Field(default=1.0, gt=0)
    """Passes over the examples. Few: a source that knows them by heart teaches no more than they
    do."""
    learning_rate: float | None = Field(default=None, gt=0)
    """By default 2e-4 with lora, 2e-5 without."""
    domains: list[str] | None = None
    """Fine-tune on the examples of these domains alone; on all by default."""
    training: dict[str, Any] = {}
    """Other transformers.TrainingArguments, over those of the recipe; of those the number of steps
    and epochs and the learning rate do not hold here."""


class Model(Strict):
    """A pivot or a source: what `from_pretrained` needs."""

    LATER = (
        "chat_template_kwargs",
        "chat_template_date",
        "system",
        "gguf_file",
        "tune",
        "engine",
    )

    model: str
    """Folder of a Hugging Face checkpoint, relative to the recipe file, or a hub name; or a GGUF
    file, which is converted to a folder once and kept in the cache."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    gguf_file: str | None = None
    """Name of a GGUF file in the folder or hub repository that `model` names."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer, where it is not the model's own."""
    dtype: Dtype = "auto"
    """Arithmetic wherever the model runs without being trained; auto is bfloat16 on a GPU and on a
    CPU that multiplies faster in it (`infifusion doctor` says so) where the model has 512 hidden
    units or more, and float32 otherwise. The logits are float32 in any case."""
    chat_template: str | None = None
    """A Jinja chat template in place of the tokenizer's, or a .jinja file that holds one; the plain
    template where both lack."""
    chat_template_kwargs: dict[str, bool | int | float | str | None] = {}
    """Variables of the chat template, such as enable_thinking: false or date_string: 1 Jan 2026.
    They become part of the template: in training, answers, scores, and in the saved model."""
    chat_template_date: datetime.date | None = None
    """The day that a chat template which writes today's date is to write, such as 2026-01-31. It
    becomes part of the template, as chat_template_kwargs do."""
    system: SystemPlace = "keep"
    """System messages of the data: keep them, merge_into_user (put before the text of the user's
    turn that follows, for templates that have no place for them), or drop them."""
    attn_implementation: str | None = None
    """Passed to from_pretrained, e.g. sdpa, eager or flash_attention_2."""
    device_map: str | None = None
    """Passed to from_pretrained wherever the model runs without being trained, e.g. auto."""
    quantization: Quantization | None = None
    """Load the weights in 4 bits (NF4) or 8 through bitsandbytes: a source wherever it runs, the
    pivot where it is scored and in runs with `lora`, whose adapters are then merged into the
    unquantised weights."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you trust its author."""
    temperature: float | Literal["fit"] = 1.0
    """Of a source: its logits are divided by it before it teaches (top-K, entropy, bits per byte).
    fit: the one with the lowest cross-entropy on data.validation_share, which must be above 0. The
    answers of write_responses and the scores of the source itself are not touched by it."""
    tune: Tune | None = None
    """Of a source: fine-tune a copy of it first, which then teaches in its place, and is scored as
    source:NAME beside untuned:NAME. Answers of write_responses are its own from before, and are not
    among what it is tuned on."""
    engine: Engine | None = None
    """Runs the model in a vLLM server in place of this process, for its teacher pass, its answers
    and its scores. `model` then names the folder (or hub name) with its config.json and tokenizer,
    without weights if need be; the pivot is still trained here. See docs/scaling.md."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _are_variables(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not (name.isascii() and name.isidentifier()):
                raise ValueError(f"{name!r} is no name of a template's variable")
        return value

    @field_validator("temperature", mode="before")
    @classmethod
    def _above_zero(cls, value: Any) -> Any:
        try:
            fits = value == "fit" or 0 < float(value) < float("inf")
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError("expected a number above 0, or fit")
        return value
