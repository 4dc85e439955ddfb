"""From a name in a merge file to a model: found by folder or hub name, quantised or not, with its
adapter, in the layout of another."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.architecture import Architecture, class_of, config_object
from infifusion.merge.checkpoints.by_library import GGUF, dequantised, merged_by_peft
from infifusion.merge.checkpoints.dtypes import FLOATS
from infifusion.merge.checkpoints.lora import WEIGHTS, Adapter
from infifusion.merge.checkpoints.lora_config import CONFIG, read_lora_config
from infifusion.merge.checkpoints.pickled import as_safetensors
from infifusion.merge.checkpoints.reader import PICKLES, Checkpoint, read_config, text_config
from infifusion.merge.checkpoints.renamed import AnyCheckpoint, Renamed, finder, turned
from infifusion.merge.checkpoints.tokens import VOCABULARIES
from infifusion.merge.engine.layout import in_layout_of
from infifusion.merge.engine.model import TIED_HEAD, Model, layers_of

FETCHED = ("*.safetensors", "*.json", "*.model", "*.jinja", "*.txt", "*.py", "*.tiktoken", "*.bpe")
NO_PLACES: Mapping[str, Path] = {}
# What torch.compile and DataParallel put before the names of a model that is saved inside them.
OF_WRAPPERS = ("_orig_mod.", "module.")
# Tensors that stand beside quantised weights, by the names that the libraries give them.
OF_QUANTISATION = re.compile(
    r"\.(qweight|qzeros|g_idx|SCB|weight_format|weight_scale(_inv|_2)?|weight_scales|"
    r"weight_packed|weight\.(absmax|quant_map|nested_\w+|quant_state\.\w+)|\w+_(blocks|scales))$"
)


def open_model(
    name: str,
    folder: Path,
    *,
    allow_pickle: bool = False,
    dequantize: bool = False,
    like: Model | None = None,
    places: Mapping[str, Path] = NO_PLACES,
) -> Model:
    """The model a merge file names; `folder` is that of the file, `like` one whose layout it is to
    have, `places` the folders of names that are the file's own. dequantize: take the quantisation
    of its weights off, where transformers does that here.

    Raises CheckpointError for a folder that is no model, for quantised weights and for an adapter
    that does not fit.
    """
    base, adapter = _split_adapter(name, folder)
    found = places.get(base) or find_model(base, folder, pickles=allow_pickle)
    _refuse_adapter(found)
    place = as_safetensors(found) if allow_pickle else found
    config = read_config(found) if (found / "config.json").is_file() else {}
    method = _quantisation(config, place)
    if method:
        place, config = _without_quantisation(place, config, method, wanted=dequantize)
    checkpoint: AnyCheckpoint = Checkpoint(place)
    config = config or read_config(found)
    if place != found:
        checkpoint = Renamed(checkpoint, {n: n for n in checkpoint.names}, found)
    for prefix in OF_WRAPPERS:
        if all(name.startswith(prefix) for name in checkpoint.names):
            bare = {name.removeprefix(prefix): name for name in checkpoint.names}
            checkpoint = Renamed(checkpoint, bare, found)
    _refuse_scales(checkpoint, found)
    model = Model(name, found, checkpoint, config, None, *layers_of(config, checkpoint))
    if method == GGUF and not any((found / one).is_file() for one in VOCABULARIES):
        model = replace(model, beside=place)  # tokenizer and config are inside of the file
    if adapter is None:
        return model if like is None else in_layout_of(like, model)
    return _with_adapter(model, place, find_model(adapter, folder, pickles=allow_pickle), like,
                         allow_pickle=allow_pickle)  # fmt: skip


def _with_adapter(
    model: Model, place: Path, folder: Path, like: Model | None, *, allow_pickle: bool
) -> Model:
    settings = read_lora_config(folder)
    readable = as_safetensors(folder, single=WEIGHTS) if allow_pickle else folder
    weights = Checkpoint(readable, single=WEIGHTS)
    if not settings.by_peft and any(len(weights.shape(name)) > 2 for name in weights):
        settings = replace(settings, by_peft=("convolutions",))
    if settings.by_peft:
        _require_floats(model, folder)
        merged = merged_by_peft(place, model.architecture, readable, settings)
        config = {**model.config, **_replicated(merged, model.config)}
        checkpoint = Renamed(
            Checkpoint(merged), {n: n for n in Checkpoint(merged).names}, model.folder
        )
        layers = layers_of(config, checkpoint)
        model = Model(model.name, model.folder, checkpoint, config, None, *layers, (folder,))
        return model if like is None else in_layout_of(like, model)
    if like is not None:
        model = in_layout_of(like, model)
    checkpoint = model.checkpoint
    if TIED_HEAD not in checkpoint and model.tied and model.embedding:
        lent = {name: name for name in checkpoint.names} | {TIED_HEAD: model.embedding}
        checkpoint = Renamed(checkpoint, lent, model.folder)
    architecture: Callable[[], Architecture | str] = lambda: model.architecture  # noqa: E731
    lora = Adapter(
        folder,
        checkpoint,
        find=finder(checkpoint.names, architecture),
        stored_transposed=_turned(model),
        settings=settings,
        weights=weights,
    )
    if TIED_HEAD in lora.changed or model.embedding in lora.changed:
        model = replace(model, checkpoint=checkpoint)
    return replace(model, adapter=lora)


def _turned(model: Model) -> Callable[[str], bool | None]:
    def of(stored: str) -> bool | None:
        known = model.architecture
        return None if isinstance(known, str) else turned(known, known.own_name(stored)[0])

    return of


def _replicated(merged: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The entries of the config that PEFT changed: more layers, a head of its own."""
    made = read_config(merged)
    inner, own = text_config(made), text_config(config)
    keys = ("num_hidden_layers", "n_layer", "layer_types", "vocab_size", "tie_word_embeddings")
    changed = {k: inner[k] for k in keys if k in inner and (k in own or k in made)}
    return changed if own is config else {config_key(config): {**own, **changed}}


def config_key(config: dict[str, Any]) -> str:
    """The key under which the language model's part of a config stands."""
    inner = text_config(config)
    return next(key for key, value in config.items() if value is inner)


def _refuse_adapter(folder: Path) -> None:
    if not (folder / "config.json").exists() and (folder / CONFIG).exists():
        base = read_config(folder, CONFIG).get("base_model_name_or_path")
        raise CheckpointError(
            f"{folder} is an adapter, not a model. Write the model that it belongs to before it: "
            f"{base or 'MODEL'}+{folder.name}."
        )


def _quantisation(config: dict[str, Any], folder: Path) -> str | None:
    """The name of the quantisation that the config, or a file beside it, says of the weights."""
    for part in (config, text_config(config)):
        for key in ("quantization_config", "compression_config"):
            said = part.get(key)
            if isinstance(said, dict) and said:
                return str(said.get("quant_method") or said.get("quant_algo") or key)[:60]
    if any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors")):
        return GGUF
    return None


def _without_quantisation(
    folder: Path, config: dict[str, Any], method: str, *, wanted: bool
) -> tuple[Path, dict[str, Any]]:
    if not wanted:
        raise CheckpointError(
            f"{folder} is quantised ({method}, by quantization_config in its config.json or by its "
            "files): such weights stand beside their scales and cannot be merged. Give the model "
            "in bfloat16 or float16; or write dequantize: true into the merge file; if its weights "
            "are not quantised after all, delete the key from config.json."
        )
    if method == GGUF:
        files = sorted(path.name for path in folder.glob("*.gguf"))
        if len(files) > 1:
            raise CheckpointError(
                f"{folder} holds {len(files)} GGUF files ({files[0]}, {files[1]}): several models, "
                "or one in parts, which transformers does not read. Put one file that holds a "
                "whole model into a folder of its own (gguf-split --merge joins parts)."
            )
        place = dequantised(folder, method)
        return place, read_config(place)
    loaded = config_object(config)
    kind = None if isinstance(loaded, str) else class_of(loaded)
    if isinstance(loaded, str) or kind is None:
        raise CheckpointError(
            f"{folder} is quantised ({method}) and cannot be dequantised: {loaded}. Dequantise it "
            "where the model's code runs and give that folder."
        )
    place = dequantised(folder, method, kind, loaded)
    return place, {
        key: value
        for key, value in config.items()
        if key not in ("quantization_config", "compression_config")
    }


def _refuse_scales(checkpoint: AnyCheckpoint, folder: Path) -> None:
    odd = [name for name in checkpoint.names if OF_QUANTISATION.search(name)]
    if odd:
        raise CheckpointError(
            f"{folder} holds {odd[0]} ({checkpoint.dtype(odd[0])}): its weights are quantised, "
            "though its config.json does not say so, and cannot be merged. Give the model in "
            "bfloat16 or float16."
        )


def _require_floats(model: Model, adapter: Path) -> None:
    odd = [n for n in model.checkpoint.names if model.checkpoint.dtype(n) not in FLOATS
           and model.checkpoint.dtype(n) in ("I8", "U8")]  # fmt: skip
    if odd:
        raise CheckpointError(
            f"{adapter} cannot be merged into {model.folder}, which stores {odd[0]} as "
            f"{model.checkpoint.dtype(odd[0])}: quantised weights cannot take an adapter."
        )


def find_model(name: str, folder: Path, *, pickles: bool = False) -> Path:
    """A model's folder: relative to the merge file, as given, or fetched from the hub."""
    for candidate in (folder / Path(name).expanduser(), Path(name).expanduser()):
        if candidate.is_dir():
            return candidate.resolve()
    if any(one.is_file() for one in (folder / Path(name).expanduser(), Path(name).expanduser())):
        raise CheckpointError(
            f"{name} is a file; a model is a folder. Give the folder that it lies in"
            + (", alone, and write dequantize: true." if name.endswith(".gguf") else ".")
        )
    if Path(name).is_absolute() or name.startswith((".", "~")):
        raise CheckpointError(
            f"There is no model folder {name}. Give a folder relative to the merge file, "
            "an absolute "
            "one, or a hub name."
        )
    if "+" in name:
        raise CheckpointError(
            f"{name!r:.200}: there is no such folder, and one adapter is merged into a model at a "
            "time (model+adapter; none into a tokenizer). Merge the first one (merge_method: "
            "passthrough), then give that folder + the second."
        )
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=[*FETCHED, *(PICKLES if pickles else ())],
            )
        )
    except (
        Exception
    ) as error:  # the hub client raises many kinds, all about the name or the network
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{name!r} is neither a folder nor a model that the hub gives: {reason}. Folders are "
            "relative to the merge file; gated models need `hf auth login`."
        ) from error


def _split_adapter(name: str, folder: Path) -> tuple[str, str | None]:
    """model+adapter in two; a folder may have a plus in its name."""
    if (folder / Path(name).expanduser()).is_dir() or Path(name).expanduser().is_dir():
        return name, None
    model, plus, adapter = name.rpartition("+")
    return (model, adapter) if plus and model else (name, None)
