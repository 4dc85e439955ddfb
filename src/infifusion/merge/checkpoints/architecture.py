"""What transformers makes of a config: the model without weights, on torch's meta device.

It tells what no checkpoint says of itself: under which name a stored tensor is loaded, which
tensors are lacking or left over, where the language model's layers are, and of what kind each is.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.dtypes import NAME_OF

# Whole numbers in a config by which a model has so many modules; more is no model.
COUNTED = re.compile(r"^(num|n)_.*(layer|expert|block|head)|^(n_layer|depth|layers)s?$")
MOST_COUNTED = 20_000
CLASS = "class "  # before the name of a layer's module: what it is
# Attributes of a layer's modules that say where it stands, not what it does.
PLACES = re.compile(r"(layer_idx|layer_id|layer_index|block_idx|index)$")
# Lists of a config that have no entry per layer, however long they are.
NOT_PER_LAYER = re.compile(r"architectures|token|section|suppress|labels?$|_ids$|factor$|languages")


@dataclass(frozen=True)
class Loading:
    """What transformers would say of a checkpoint: by the names of the model's own tensors."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Architecture:
    """A config as transformers reads it, and the model that it makes, without weights."""

    config: Any
    model: Any

    @property
    def text(self) -> Any:
        """The part of the config that describes the language model."""
        return self.config.get_text_config(decoder=True)

    @cached_property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the model by its own name, with its shape."""
        return {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}

    @cached_property
    def conversions(self) -> tuple[list[Any], list[Any]]:
        """transformers' renamings and converters from stored names to the model's."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        found = get_model_conversion_mapping(self.model)
        renamings = [one for one in found if isinstance(one, WeightRenaming)]
        return renamings, [one for one in found if isinstance(one, WeightConverter)]

    def own_name(self, stored: str) -> tuple[str, str | None]:
        """The model's name for a stored tensor, and the pattern of the converter that makes the
        model's tensor of it and others; None where it is loaded as it is."""
        from transformers.core_model_loading import rename_source_key

        prefix, known = self.model.base_model_prefix, self._known
        found, pattern = rename_source_key(stored, *self.conversions, prefix, known)
        if found not in known and stored in known:
            found, pattern = rename_source_key(stored, [], [], prefix, known)
        return found, pattern

    @cached_property
    def _known(self) -> dict[str, Any]:
        return self.model.state_dict()

    def module_of(self, tensor: str) -> Any:
        """The module that holds one of the model's own tensors."""
        return self.model.get_submodule(tensor.rpartition(".")[0])

    def loading(self, specs: Mapping[str, tuple[str, tuple[int, ...]]]) -> Loading:
        """How a checkpoint with these tensors (dtype and shape by stored name) would load. Nothing
        is read: the tensors have no values, and transformers' own loader takes them."""
        import torch

        tensors = {
            name: torch.empty(shape, dtype=getattr(torch, NAME_OF.get(dtype, "float32")),
                              device="meta")
            for name, (dtype, shape) in specs.items()
        }  # fmt: skip
        with quiet():
            _, told = type(self.model).from_pretrained(
                None,
                config=self.config,
                state_dict=tensors,
                device_map={"": "meta"},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        mismatched = {one if isinstance(one, str) else one[0] for one in told["mismatched_keys"]}
        # A conversion that fails leaves its tensors without values.
        lacking = set(told["missing_keys"]) - mismatched
        return Loading(
            tuple(sorted(lacking)),
            tuple(sorted(told["unexpected_keys"])),
            tuple(sorted(mismatched)),
        )

    @property
    def decoder(self) -> Any:
        """The language model inside; the model itself where there is none."""
        try:
            decoder = self.model.get_decoder()
        except (AttributeError, NotImplementedError):
            decoder = self.model
        return self.model if decoder is None else decoder

    @cached_property
    def stack(self) -> str | None:
        """What stands before the numbers of the language model's layers in the model's own names;
        None where that is not to be found."""
        from torch import nn

        decoder = self.decoder
        base = next((name for name, one in self.model.named_modules() if one is decoder), None)
        lists = [
            (name, len(one))
            for name, one in decoder.named_modules()
            if isinstance(one, nn.ModuleList) and not re.search(r"\.\d+(\.|$)", f".{name}.")
        ]
        if base is None or not lists:
            return None
        count = getattr(self.text, "num_hidden_layers", None)
        name = next((name for name, length in lists if length == count), lists[0][0])
        return f"{base}.{name}." if base else f"{name}."

    def kinds(self) -> list[dict[str, Any]]:
        """Of every layer of the language model: its modules and what they compute with, apart from
        the layer's number, and its entries in the config's lists."""
        if self.stack is None:
            return []
        layers = self.model.get_submodule(self.stack.removesuffix("."))
        lists = self.per_layer(len(layers))
        return [
            {**_kind(layer), **{f"config.{key}": entries[n] for key, entries in lists.items()}}
            for n, layer in enumerate(layers)
        ]

    def per_layer(self, layers: int) -> dict[str, list[Any]]:
        """The config's lists that have an entry per layer, those that it calculates too."""
        return {
            key: value
            for key, value in self.text.to_dict().items()
            if isinstance(value, list) and len(value) == layers and not NOT_PER_LAYER.search(key)
        }


def _kind(layer: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, module in layer.named_modules():
        found[f"{CLASS}{name}".strip()] = type(module).__name__
        for key, value in vars(module).items():
            if key.startswith("_") or key == "training" or PLACES.search(key):
                continue
            if value is None or isinstance(value, bool | int | float | str):
                found[f"{name}.{key}".lstrip(".")] = value
            elif isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value):
                found[f"{name}.{key}".lstrip(".")] = list(value)
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        found[f"{name} shape"] = list(tensor.shape)
    return found


def architecture_of(values: Mapping[str, Any]) -> Architecture | str:
    """What transformers makes of a config's values; where it cannot, why, in a few words: the
    model brings its own code, which is never run, or transformers does not know it.

    Raises CheckpointError for a config of a known architecture that no model can be made of.
    """
    config = config_object(values)
    if isinstance(config, str):
        return config
    kind = class_of(config)
    if kind is None:
        return f"transformers has no model class for {values.get('architectures')!r:.80}"
    try:
        with quiet():
            return Architecture(config, _empty(kind, config))
    except Exception as error:  # the library raises many kinds for what it cannot build
        raise _no_model(values, error) from error


def config_object(values: Mapping[str, Any]) -> Any:
    """The config as transformers reads it, from its values; a few words why, where it does not
    know it."""
    if not (values.get("architectures") or any(COUNTED.search(key) for key in _keys(values))):
        return "its config.json names no class and has no sizes"
    import transformers

    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        own = " (its code comes with the model and is not run)" if values.get("auto_map") else ""
        return f"transformers {transformers.__version__} does not know model_type {kind!r:.60}{own}"
    _check_counts(values)
    try:
        with quiet():
            known = {k: v for k, v in values.items() if not k.endswith("_implementation")}
            return transformers.CONFIG_MAPPING[kind].from_dict(copy.deepcopy(known))
    except Exception as error:  # the library raises many kinds for what it cannot read
        raise _no_model(values, error) from error


def _keys(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        yield key
        if isinstance(value, Mapping):
            yield from _keys(value)


def _no_model(values: Mapping[str, Any], error: Exception) -> CheckpointError:
    import transformers

    return CheckpointError(
        f"No model can be made of the config ({values.get('model_type')!r:.60}) by transformers "
        f"{transformers.__version__}: {_first_line(error)}"
    )


def _empty(kind: Any, config: Any) -> Any:
    """The model on the meta device, in evaluation mode."""
    import torch

    with torch.device("meta"):
        return kind(config).eval()


def class_of(config: Any) -> Any:
    """The class that the config names, or, where it names none, that loads it as a language model;
    None where it names one that transformers does not have."""
    import transformers

    for name in config.architectures or []:
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    if config.architectures:
        return None
    autos = ["AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForSeq2SeqLM"]
    if config.sub_configs:
        autos[:2] = autos[1::-1]
    for auto in (*autos, "AutoModel"):
        mapping = getattr(transformers, auto)._model_mapping
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found
    return None


def _check_counts(values: Mapping[str, Any], where: str = "") -> None:
    """CheckpointError for numbers of layers or experts that no model has: building it would take
    days and all memory."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            _check_counts(value, f"{where}{key}.")
        elif type(value) is int and value > MOST_COUNTED and COUNTED.search(key):
            raise CheckpointError(
                f"config.json: {where}{key} is {value}, more than any model has. The file is "
                "damaged; download it again."
            )


def _first_line(error: BaseException) -> str:
    return f"{str(error).strip().partition(chr(10))[0]:.300}" or type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the library's warnings, bars and report."""
    import warnings

    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(50)  # CRITICAL
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
