"""The file that `infifusion merge` reads: mergekit's form, checked key by key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from infifusion.errors import RecipeError
from infifusion.strict import LARGEST_FILE, Strict, read_yaml, require_kind

DOCUMENT = re.compile(r"^---[ \t]*(?:#.*)?$", re.MULTILINE)  # begins another YAML document
NAME = re.compile(r"\w[\w.-]*")  # of one of several merges: it becomes a folder
DEFAULT = "default"  # the module of all tensors that are in no other
IGNORE = "ignore"  # tokenizer_source: tokens are not compared
Dtype = Literal["float32", "bfloat16", "float16"]
Scalar = bool | int | float | str
Gradient = Annotated[list[Scalar], Field(min_length=1)]


class Condition(Strict):
    """A value for the tensors whose name holds `filter`."""

    value: Scalar | Gradient
    """A number; a list is spread over the layers, with straight lines in between."""
    filter: str | None = None
    """Part of a tensor's name; * or nothing: every tensor."""


Setting = Scalar | Gradient | Condition | Annotated[list[Condition], Field(min_length=1)]


def _empty_for_nothing(value: object) -> object:
    """`parameters:` with nothing under it is no parameters."""
    return {} if value is None else value


Parameters = Annotated[dict[str, Setting], BeforeValidator(_empty_for_nothing)]


def _as_name(value: object) -> object:
    """mergekit's long form of a model, {model: {path, revision}, lora: ...}, as a name."""
    if not isinstance(value, dict):
        return value
    if "path" in value and value.keys() <= {"path", "revision"}:
        revision = value.get("revision")
        return f"{value['path']}@{revision}" if revision else value["path"]
    if "model" in value and value.keys() <= {"model", "lora"}:
        model, lora = _as_name(value["model"]), _as_name(value.get("lora"))
        return f"{model}+{lora}" if lora else model
    raise ValueError(
        "a model is a name, or {model: .., lora: ..}, each a name or {path: .., revision: ..}"
    )


ModelName = Annotated[str, BeforeValidator(_as_name)]


class MergeModel(Strict):
    """One model of the merge."""

    model: ModelName
    """Folder, relative to the merge file, or hub name; name@revision, and name+adapter for LoRA."""
    parameters: Parameters = {}
    """Its weight, density, ..."""


class SliceSource(MergeModel):
    """Some layers of one model."""

    layer_range: tuple[int, int]
    """First layer, and the one after the last."""


class Slice(Strict):
    """Layers of the result, each merged from one layer of every source."""

    sources: list[SliceSource] = Field(min_length=1)
    """All of one length."""
    base_model: ModelName | None = None
    """Instead of the file's base_model."""
    parameters: Parameters = {}
    """Parameters for these layers."""


class Module(Strict):
    """One part of a model, such as the language model or the vision tower."""

    models: list[MergeModel] | None = None
    """The models to merge, all layers."""
    slices: list[Slice] | None = None
    """Or layers of models, stacked; of the language model alone."""
    parameters: Parameters = {}
    """The method's own parameters."""


class TokenEmbedding(Strict):
    """Where the embedding of one token comes from."""

    source: Any = None
    """A model of the merge; {kind: zero}; or {kind: model_token, model, token or token_id}."""
    force: bool = False
    """Also for models that have the token."""

    @model_validator(mode="after")
    def _something_to_force(self) -> TokenEmbedding:
        if self.force and self.source is None:
            raise ValueError("force: true needs a source")
        return self


class Tokenizer(Strict):
    """How the result's vocabulary is made."""

    source: str = "union"
    """base, union, or a model of the merge."""
    tokens: dict[str, TokenEmbedding] = {}
    """Embeddings of single tokens, which are added where they are missing."""
    pad_to_multiple_of: int | None = Field(default=None, ge=1)
    """Pad the embeddings' rows to a multiple of this."""


class MergeFile(Strict):
    """A whole merge."""

    merge_method: str
    """A merge method (`infifusion list`), or module:function."""
    base_model: ModelName | None = None
    """The untouched pivot."""
    models: list[MergeModel] | None = None
    """The models to merge, all layers; base_model may stand among them."""
    slices: list[Slice] | None = None
    """Or layers of models, stacked."""
    modules: dict[str, Module] | None = None
    """Or either of them for each part of the models: text_decoder, vision_tower, audio_tower,
    multi_modal_projector, or whole parts of tensors' names between dots; default is the rest. What
    no module names is copied from the model that the modules are parts of: the base, or else the
    first that has more than them."""
    parameters: Parameters = {}
    """The method's own parameters."""
    dtype: Dtype | None = None
    """dtype of the result, where out_dtype is not given. Arithmetic is always float32."""
    out_dtype: Dtype | None = None
    """dtype of the result; the base's by default."""
    tokenizer_source: str | None = None
    """base, union, or a model of the merge; by default the base's tokenizer is copied, and
    models whose tokens differ are refused. ignore: rows are merged by their number all the same."""
    tokenizer: Tokenizer | None = None
    """The same with more to say."""
    chat_template: str | None = None
    """auto, chatml, or a Jinja template; by default the tokenizer's own."""
    mergekit_compat: bool = False
    """Do as mergekit 0.1.5 does where it differs from the papers (docs/merge.md)."""
    seed: int = 0
    """Decides the draws of the random methods."""
    dequantize: bool = False
    """Take the quantisation off models that have one, where transformers does that on this machine
    (fp8, mxfp4, compressed-tensors, GGUF, ...); without it they are refused."""

    @model_validator(mode="after")
    def _one_form(self) -> MergeFile:
        forms = [key for key in ("models", "slices", "modules") if getattr(self, key)]
        if len(forms) != 1:
            raise ValueError(
                "give exactly one of models, slices and modules; found "
                f"{', '.join(forms) or 'none'}"
            )
        for name, module in (self.modules or {}).items():
            if bool(module.models) == bool(module.slices):
                raise ValueError(f"modules.{name}: give exactly one of models and slices")
        if self.tokenizer and self.tokenizer_source:
            raise ValueError("give tokenizer or tokenizer_source, not both")
        return self

    def parts(self) -> dict[str, Module]:
        """The modules; one of all tensors, where whole models are merged."""
        return self.modules or {DEFAULT: Module(models=self.models, slices=self.slices)}

    def vocabulary(self) -> Tokenizer | None:
        """How the vocabulary is made, where it is."""
        if self.tokenizer_source == IGNORE:
            return None
        if self.tokenizer_source:
            return Tokenizer(source=self.tokenizer_source)
        return self.tokenizer


def read_merge_file(path: Path, *, base_override: str | None) -> MergeFile:
    """Read and check; `base_override` replaces base_model."""
    values = read_yaml(path)
    require_kind(values, "merge file", path)
    return merge_file_of(values, where=str(path), base_override=base_override)


def read_merges(path: Path, *, base_override: str | None) -> list[tuple[str | None, MergeFile]]:
    """The merges of a file of several documents, each before those that take it for a model, with
    their names; the last one is the result. Of a file of one: that one.

    Raises RecipeError for a document without name that is not the only such, for names that stand
    twice, and for merges that need one another.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode("utf-8-sig") if len(content) <= LARGEST_FILE else ""
    except (OSError, ValueError):  # read_merge_file says what is wrong
        text = ""
    marks = [match.span() for match in DOCUMENT.finditer(text)]
    edges = [0, *(place for mark in marks for place in mark), len(text)]
    parts = [
        part for part in zip(edges[::2], edges[1::2], strict=True) if text[slice(*part)].strip()
    ]
    if len(parts) < 2:
        return [(None, read_merge_file(path, base_override=base_override))]
    merges: dict[str | None, tuple[MergeFile, set[str]]] = {}
    for number, part in enumerate(parts):
        values = read_yaml(path, part=part)
        name = values.pop("name", None)
        if name in merges or not (name is None or (isinstance(name, str) and NAME.fullmatch(name))):
            raise RecipeError(
                f"{path}: the merge {number + 1} is called {name!r:.100}. Of several merges in one "
                "file each has a name of its own, of letters, digits, '-', '_' and '.'; the result "
                "alone may be without."
            )
        where = f"{path}, {name or 'the merge without name'}"
        merges[name] = (
            merge_file_of(values, where=where, base_override=base_override),
            set(_texts(values)),
        )
    return _in_order(merges, path)


def _texts(values: Any) -> Iterator[str]:
    """Every text in a mapping's values, and what stands before a plus in it."""
    if isinstance(values, str):
        yield values
        yield values.partition("+")[0]
    for inner in (
        values.values()
        if isinstance(values, dict)
        else (values if isinstance(values, list) else ())
    ):
        yield from _texts(inner)


def _in_order(
    merges: dict[str | None, tuple[MergeFile, set[str]]], path: Path
) -> list[tuple[str | None, MergeFile]]:
    ordered: list[tuple[str | None, MergeFile]] = []
    while waiting := {k: v for k, v in merges.items() if k not in dict(ordered)}:
        ready = [k for k, (_, texts) in waiting.items() if not (texts & waiting.keys()) - {k}]
        ready = [k for k in ready if k not in waiting[k][1]]
        if not ready:
            raise RecipeError(
                f"{path}: the merges {', '.join(str(k) for k in waiting)} need one another. Let "
                "one of them begin with a model."
            )
        # The result is the one that no other takes: without name, or the last in the file.
        name = next((k for k in ready if k is not None), None)
        ordered.append((name, merges[name][0]))
    named_last = [k for k in merges if not any(k in texts for _, texts in merges.values())]
    if len(named_last) > 1:
        odd = ", ".join(str(k or "the one without name") for k in named_last)
        raise RecipeError(
            f"{path}: {odd} are each taken by no other merge; a file of several merges has one "
            "result. Leave out what is not used, or put it into a file of its own."
        )
    return ordered


def merge_file_of(values: dict[str, Any], *, where: str, base_override: str | None) -> MergeFile:
    """The same from the file's values; `where` names them in errors."""
    if base_override is not None:
        values = {**values, "base_model": base_override}
    return MergeFile.from_mapping(values, where=where)
