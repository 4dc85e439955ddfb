"""What is inside of a GGUF file: the model, as transformers takes the quantisation off, and its
tokenizer.

With transformers 5.23 `save_pretrained` and Trainer refuse such a model until what says that it was
quantised is gone, and with the package `kernels` the weights would stay packed: `dequantize` is
asked for.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infifusion.errors import CheckpointError, RecipeError

if TYPE_CHECKING:
    import torch


def contents(file: Path) -> tuple[torch.dtype, int]:
    """The dtype for its weights, float32 or float16 where the file holds nothing else, otherwise
    bfloat16; and the number of parameters. RecipeError without the package gguf, CheckpointError
    for a file that cannot be read."""
    if importlib.util.find_spec("gguf") is None:
        raise RecipeError(
            f"{file} is a GGUF file; to read it, run `pip install 'infifusion[gguf]'` (the package "
            "gguf), or give the model's folder of Hugging Face's."
        )
    try:
        return _contents(file)
    except Exception as error:  # gguf raises many kinds, all about the file
        raise unreadable(file, error) from error


def model_of(file: Path, dtype: torch.dtype) -> Any:
    """The model, not quantised any more. CheckpointError where transformers cannot read it, or
    would make up some of its weights."""
    import transformers

    try:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=dtype,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
            **_dequantised(),
        )
    except Exception as error:  # transformers and gguf raise many kinds, all about the file
        raise unreadable(file, error) from error
    model, told = loaded
    if missing := sorted(told["missing_keys"]):
        raise CheckpointError(
            f"{file} lacks {len(missing)} weights of its model, such as {missing[0]}; they would "
            "be random. Give the model's folder of Hugging Face's."
        )
    _forget_quantisation(model)
    return model


def tokenizer_of(file: Path, rows: int) -> Any:
    """The tokenizer, without tokens beyond the model's rows. CheckpointError where transformers
    does not know its kind."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers and gguf raise many kinds, all about the file
        raise unreadable(file, error) from error
    return _within(tokenizer, rows)


def unreadable(file: Path, error: Exception) -> CheckpointError:
    """The error for a file that a library could not read."""
    reason = " ".join(str(error).split())[:300].rstrip(".")
    return CheckpointError(
        f"{file}: this GGUF file cannot be read: {type(error).__name__}: {reason}. Give the "
        "model's folder of Hugging Face's, or another file of it."
    )


def _within(tokenizer: Any, rows: int) -> Any:
    """The tokenizer without tokens that transformers' class adds beyond those of the file, such as
    its own mark of unknown text: the model has no rows for them."""
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = [token for token in values["added_tokens"] if token["id"] < rows]
    if len(kept) == len(values["added_tokens"]):
        return tokenizer
    values["added_tokens"] = kept
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(json.dumps(values))
    roles = {
        role: token
        for role, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str) and backend.token_to_id(token) is not None
    }
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    made.chat_template = tokenizer.chat_template
    return made


def _dequantised() -> dict[str, Any]:
    """The keyword that keeps transformers from leaving weights packed, where it knows one."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _forget_quantisation(model: Any) -> None:
    """What transformers 5.23 refuses to save or train while it is set."""
    model.is_quantized, model.hf_quantizer = False, None
    model._weight_conversions = None
    for config in (model.config, model.config.get_text_config()):
        if hasattr(config, "quantization_config"):
            del config.quantization_config


def _contents(file: Path) -> tuple[torch.dtype, int]:
    """(dtype that holds all of its weights, parameters)."""
    import torch
    from gguf import GGUFReader  # pyright: ignore

    tensors = GGUFReader(str(file)).tensors
    kinds = {one.tensor_type.name for one in tensors if len(one.shape) > 1}
    dtype = torch.bfloat16
    if kinds == {"F32"}:
        dtype = torch.float32
    elif kinds <= {"F16", "F32"}:
        dtype = torch.float16
    return dtype, sum(int(one.n_elements) for one in tensors)
