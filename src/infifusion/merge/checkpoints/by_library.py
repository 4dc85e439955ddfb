"""What transformers and PEFT do to a whole model in memory: take the quantisation off, and merge
adapters that are more than W + s B A. The result is a folder that lasts as long as this process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.architecture import Architecture, quiet
from infifusion.merge.checkpoints.dtypes import NAME_OF
from infifusion.merge.checkpoints.lora_config import LoraSettings
from infifusion.merge.checkpoints.temporary import temporary_model

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
            model = _loaded(architecture, model_folder)
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
    file = ""
    try:
        with quiet():
            if method == GGUF:
                import transformers

                file = next(folder.glob("*.gguf")).name
                model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                    folder, gguf_file=file, local_files_only=True, trust_remote_code=False
                )
            else:
                config.quantization_config = {**config.quantization_config, "dequantize": True}
                model = kind.from_pretrained(
                    folder,
                    config=config,
                    dtype="auto",
                    local_files_only=True,
                    trust_remote_code=False,
                )
            if method == GGUF:  # read without it; what says otherwise keeps it from being saved
                model.is_quantized, model.hf_quantizer = False, None
            elif getattr(model, "is_quantized", False):
                model = model.dequantize()
            model._weight_conversions = None  # those of the quantisation would be undone
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            place = _saved(model, "dequantised")
            if method == GGUF:
                _save_tokenizer(folder, file, place)
            return place
    except CheckpointError:
        raise
    except Exception as error:  # missing packages and devices, by many kinds of errors
        raise CheckpointError(
            f"{folder}: transformers cannot take the quantisation ({method}) off on this machine: "
            f"{str(error) or type(error).__name__:.300}. Install what is lacking, or dequantise "
            "the model elsewhere and give that folder."
        ) from error


def _save_tokenizer(folder: Path, file: str, place: Path) -> None:
    """The tokenizer inside of a GGUF file; nothing where transformers does not know its kind."""
    import transformers

    with contextlib.suppress(ValueError, KeyError, NotImplementedError, OSError):
        transformers.AutoTokenizer.from_pretrained(
            folder, gguf_file=file, local_files_only=True, trust_remote_code=False
        ).save_pretrained(place)


def _loaded(architecture: Architecture, folder: Path) -> Any:
    return type(architecture.model).from_pretrained(
        folder, dtype="auto", local_files_only=True, trust_remote_code=False
    )


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
