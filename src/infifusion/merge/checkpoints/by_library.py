"""What transformers and PEFT do to a whole model in memory: take the quantisation off, and merge
adapters that are more than W + s B A. The result is a folder that lasts as long as this process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.checkpoints.architecture import Architecture, quiet
from infifusion.merge.checkpoints.dtypes import NAME_OF
from infifusion.merge.checkpoints.gguf import contents, model_of, tokenizer_of
from infifusion.merge.checkpoints.lora_config import LoraSettings
from infifusion.merge.checkpoints.writer import temporary_model

GGUF = "GGUF"


def merged_by_peft(
    model_folder: Path, architecture: Architecture | str, adapter: Path, settings: LoraSettings
) -> Path:
    """The model with the adapter merged by PEFT. The head is untied first, unless the adapter
    trains single tokens: PEFT would add the change of one to both.

    Raises CheckpointError where PEFT cannot, or would leave a tensor of the adapter out.
    """
    import torch

    if isinstance(architecture, str):
        raise CheckpointError(
            f"{adapter} has {', '.join(settings.by_peft)}, which PEFT merges into a model of "
            f"transformers: {architecture}. Merge it where the model's code runs "
            "(merge_and_unload) and give that folder."
        )
    from peft import PeftConfig, PeftModel

    try:
        with quiet():
            model = _loaded(type(architecture.model), model_folder)
            if "trainable_token_indices" not in settings.by_peft:
                _untie(model)
            config: Any = PeftConfig.from_pretrained(str(adapter))
            config.inference_mode, config.ensure_weight_tying = True, False
            adapted = PeftModel(model, config)
            told = adapted.load_adapter(str(adapter), "default", is_trainable=False)
            no_place = list(getattr(told, "unexpected_keys", None) or [])
            no_place += [k for k in getattr(told, "missing_keys", None) or [] if "lora_" in k]
            if no_place:
                raise CheckpointError(
                    f"{adapter}: PEFT finds no place for {no_place[0]} in {model_folder} "
                    f"({len(no_place)} tensors). It was trained on {settings.base}: give that "
                    "model."
                )
            _part(adapted, tuple(getattr(model, "all_tied_weights_keys", None) or ()))
            with torch.no_grad():
                return _saved(adapted.merge_and_unload(safe_merge=True), "adapted")
    except CheckpointError:
        raise
    except Exception as error:  # PEFT raises many kinds for what does not fit
        raise CheckpointError(
            f"{adapter}: PEFT cannot merge this adapter ({', '.join(settings.by_peft)}) into "
            f"{model_folder}: {error!s:.300}. It was trained on {settings.base}."
        ) from error


def dequantised(folder: Path, method: str, kind: Any = None, config: Any = None) -> Path:
    """The model without its quantisation, as transformers takes it off on this machine; kind and
    config: its class and config, which a GGUF file has inside. Raises CheckpointError with what is
    lacking where it cannot."""
    try:
        with quiet():
            if method == GGUF:
                return _of_gguf(next(folder.glob("*.gguf")))
            config.quantization_config = {**config.quantization_config, "dequantize": True}
            model = _loaded(kind, folder, config=config)
            if getattr(model, "is_quantized", False):
                model = model.dequantize()
            model._weight_conversions = None  # those of the quantisation would be undone
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            return _saved(model, "dequantised")
    except (CheckpointError, RecipeError):
        raise
    except Exception as error:  # missing packages and devices, by many kinds of errors
        raise CheckpointError(
            f"{folder}: transformers cannot take the quantisation ({method}) off on this machine: "
            f"{str(error) or type(error).__name__:.300}. Install what is lacking, or dequantise "
            "the model elsewhere and give that folder."
        ) from error


def _of_gguf(file: Path) -> Path:
    """In float32: what the quantisation stands for is between the numbers of bfloat16. With the
    tokenizer inside of the file, where transformers knows its kind."""
    import torch

    contents(file)
    model = model_of(file, torch.float32)
    place = _saved(model, "dequantised")
    with contextlib.suppress(CheckpointError):
        rows = int(model.config.get_text_config().vocab_size)
        tokenizer_of(file, rows).save_pretrained(place)
    return place


def _loaded(kind: Any, folder: Path, **options: Any) -> Any:
    """The model in its own dtype. CheckpointError where some of its weights would be made up."""
    model, told = kind.from_pretrained(
        folder,
        dtype="auto",
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        **options,
    )
    if lacking := sorted(told["missing_keys"]):
        more = f" and {len(lacking) - 1} more tensors" if len(lacking) > 1 else ""
        raise CheckpointError(
            f"{folder} lacks {lacking[0]}{more}: loaded by transformers, they would be random. "
            "Download or save that model again."
        )
    return model


def _untie(model: Any) -> None:
    """Give a tied head its own copy of the embedding."""
    import torch

    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embedding is None or head.weight is not embedding.weight:
        return
    head.weight = torch.nn.Parameter(embedding.weight.detach().clone())
    model.config.tie_word_embeddings = False
    for inner in (getattr(model.config, "text_config", None), model.config.get_text_config()):
        if inner is not None:
            inner.tie_word_embeddings = False
    model.all_tied_weights_keys = {}


def _part(model: Any, tied: tuple[str, ...]) -> None:
    """Give each of the layers that PEFT repeats weights of its own, all but those called `tied`:
    they share them, and the changes of all would be added to one."""
    import torch

    seen: set[int] = set()
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if not name.endswith(tied) and parameter.data_ptr() in seen and parameter.numel():
            owner, _, key = name.rpartition(".")
            fresh = torch.nn.Parameter(parameter.detach().clone(), requires_grad=False)
            setattr(model.get_submodule(owner), key, fresh)
        seen.add(parameter.data_ptr())


def _saved(model: Any, what: str) -> Path:
    """The model as transformers saves it, checked for quantised rests."""
    place = temporary_model(what)
    model.save_pretrained(place)
    bad = [
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and str(tensor.dtype).removeprefix("torch.") not in KNOWN
    ]
    if bad:
        raise CheckpointError(f"{what}: {bad[0]} is still stored in a dtype of its own.")
    return place


KNOWN = frozenset(NAME_OF.values())
