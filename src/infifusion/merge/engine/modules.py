"""The parts of a model that a merge file's `modules` name: language model, towers, projectors, or
any part of tensors' names. Each is merged as if it were a model of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from infifusion.errors import CheckpointError, RecipeError
from infifusion.merge.checkpoints.renamed import Renamed
from infifusion.merge.engine.file import DEFAULT
from infifusion.merge.engine.model import Model, layers_of

LANGUAGE, VISION, AUDIO, PROJECTOR = "language model", "vision tower", "audio tower", "projector"
# mergekit's names of modules, and the libraries'.
WORDS = {
    "text_decoder": LANGUAGE,
    "language_model": LANGUAGE,
    "text_model": LANGUAGE,
    "vision_tower": VISION,
    "vision_model": VISION,
    "audio_tower": AUDIO,
    "multi_modal_projector": PROJECTOR,
}
# What leads from a tower to the language model, inside of the tower or beside it.
PROJECTORS = re.compile(
    r"(^|\.)(multi_modal_projector|multimodal_projector|mm_projector|modality_projection|"
    r"connector|merger|deepstack_merger_list|aligner|resampler|embed_vision|embed_audio|mlp1|"
    r"img_projection|vision_projection|audio_projection)(\.|$)"
)
HEARS = re.compile(r"(^|[._])(audio|speech|apm)")
SEES = re.compile(r"(^|[._])(vision|visual|image|img|vpm|sam|clip|siglip)")
HEADS = re.compile(r"^(.*?)(lm_head|embed_out)\.(weight|bias)$")


def kind_of(tensor: str, stack: str) -> str | None:
    """Which part of a model a tensor belongs to, by its name; stack: what stands before the numbers
    of the language model's layers. None for what is none of the four."""
    home = stack.removesuffix(".").rpartition(".")[0]
    home = f"{home}." if home else ""
    if PROJECTORS.search(tensor):
        return PROJECTOR
    inside = tensor.removeprefix(home) if tensor.startswith(home) else tensor
    if HEARS.search(inside):
        return AUDIO
    if SEES.search(inside):
        return VISION
    head = HEADS.match(tensor)
    if tensor.startswith(home) or (head and home.startswith(head[1])):
        return LANGUAGE
    return None


@dataclass(frozen=True)
class Modules:
    """The modules of a file, as the tensors of one model show them. stack: that of the model whose
    names all others are brought to."""

    names: tuple[str, ...]
    stack: str

    def of(self, tensor: str) -> str | None:
        """The module that a tensor is in: the one named by the longest part of its name, else by
        what it belongs to, else `default`; None where the file has no such."""
        paths = [n for n in self.names if n not in WORDS and f".{n.strip('.')}." in f".{tensor}."]
        if paths:
            return max(paths, key=len)
        kind = kind_of(tensor, self.stack)
        word = next((n for n in self.names if WORDS.get(n, "") == kind), None)
        return word or (DEFAULT if DEFAULT in self.names else None)

    def part(self, model: Model, module: str) -> Model:
        """One module of a model as a model of its own."""
        return part_of(model, lambda tensor: self.of(tensor) == module)

    def lacking(self, model: Model) -> list[str]:
        """The modules of which the model has no tensor."""
        found = {self.of(tensor) for tensor in model.checkpoint.names}
        return [name for name in self.names if name not in found]


def part_of(model: Model, holds: Callable[[str], bool]) -> Model:
    """The model with some of its tensors only, its layers counted among these."""
    names = {name: name for name in model.checkpoint.names if holds(name)}
    checkpoint = Renamed(model.checkpoint, names, model.folder)
    stack, layers = model.stack, model.layers
    if not any(name.startswith(stack) for name in names):
        stack, layers = layers_of({}, checkpoint)
    return replace(
        model,
        checkpoint=checkpoint,
        stack=stack,
        layers=layers,
        whole=model.whole or model,
        language=model.stack,
    )


def with_all(names: Iterable[str], candidates: Iterable[Model], *, where: str) -> Model:
    """The first of the models that has a tensor of each module and others beside: that of which
    they are parts; else the first that has all. RecipeError where none has, or where two words mean
    one part."""
    listed = tuple(names)
    kinds = [WORDS[name] for name in listed if name in WORDS]
    for kind in kinds:
        if kinds.count(kind) > 1:
            twice = [name for name in listed if WORDS.get(name) == kind]
            raise RecipeError(f"{where}: modules {' and '.join(twice)} are both the {kind}.")
    models = list(candidates)
    lacking = [Modules(listed, model.stack).lacking(model) for model in models]
    fitting = [model for model, lacks in zip(models, lacking, strict=True) if not lacks]
    if fitting:
        return next((model for model in fitting if _is_more(model, listed)), fitting[0])
    has = sorted({tensor.split(".")[0] for tensor in models[0].checkpoint.names})
    raise RecipeError(
        f"{where}: no model of the file has tensors of all its modules; {models[0].name} has none "
        f"of {', '.join(lacking[0])}. A module is one of {', '.join(WORDS)}, {DEFAULT} for the "
        f"rest, or a part of tensors' names between dots, such as {', '.join(has[:4])}."
    )


def _is_more(model: Model, names: tuple[str, ...]) -> bool:
    modules = Modules(names, model.stack)
    return "text_config" in model.config or any(
        modules.of(tensor) is None for tensor in model.checkpoint.names
    )


def require_parts(module: str, models: Iterable[Model], base: Model | None, donor: Model) -> None:
    """CheckpointError where one of the models has nothing of a module."""
    for model in models:
        if model.checkpoint.names:
            continue
        hint = (
            f"Leave the module out: then it is copied from {donor.name}"
            if base is not None and model.key == base.key
            else "Leave this model out of the module"
        )
        raise CheckpointError(
            f"modules.{module}: {model.folder} ({model.name}) has no tensor of it. {hint}."
        )
