"""Strict, frozen configuration: unknown keys are refused by name, all problems at once."""

from __future__ import annotations

import json
import types
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, ClassVar, Self, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.functional_serializers import model_serializer
from pydantic_core import ErrorDetails

from infifusion.errors import RecipeError
from infifusion.registry import nearest

Config = TypeVar("Config", bound="Strict")
LARGEST_FILE = 1_000_000
"""Bytes of a YAML file; a recipe has a few thousand."""
LARGEST_VALUE = 100_000
"""Values of a YAML file with its aliases written out."""
KINDS = {
    "recipe": ("pivot", "infifusion run"),
    "sweep file": ("recipe", "infifusion sweep"),
    "merge file": ("merge_method", "infifusion merge"),
    "mixture of experts": ("experts", "infifusion moe"),
}
"""What a YAML file of ours can be, the key that no other kind has, the command that reads it."""
PLAIN = {
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "list_type": "expected a list",
    "string_type": "expected text",
    **dict.fromkeys(["bool_type", "bool_parsing"], "expected true or false"),
    **dict.fromkeys(["int_type", "int_parsing", "int_from_float"], "expected a whole number"),
    **dict.fromkeys(["float_type", "float_parsing"], "expected a number"),
}
"""pydantic's kinds of problems in the words of docs/recipe_fields.md."""
MEND_YAML = "Correct that place; text that YAML takes for something else goes in quotes."
QUOTES = " Put it in quotes to make it text."
LONGEST_SHOWN = 300  # characters of a value in a message


class Strict(BaseModel):
    """A frozen pydantic model that forbids unknown keys; a string under a field documents it."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )
    LATER: ClassVar[tuple[str, ...]] = ()
    """Fields newer than some run folders, whose fingerprints fit if defaults are not written."""

    @model_serializer(mode="wrap")
    def _without_later(self, handler: Any) -> dict[str, Any]:
        fields, values = type(self).model_fields, handler(self)
        same = {name for name in self.LATER if getattr(self, name) == fields[name].default}
        return {key: value for key, value in values.items() if key not in same}

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic would take `true` for 1."""
        field = cls.model_fields[str(info.field_name)]
        kinds = {part for part in parts_of(field.annotation) if isinstance(part, type)}
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            raise ValueError("expected a number")
        return value

    @classmethod
    def from_mapping(cls, values: object, *, where: str) -> Self:
        """Validate; raise one RecipeError that lists every problem. `where` names the file."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RecipeError(_explain(cls, error, where)) from None


def as_json(config: Strict) -> dict[str, Any]:
    """A configuration as plain JSON values, for manifests."""
    return json.loads(config.model_dump_json(by_alias=True))


def as_written(config: Strict) -> dict[str, Any]:
    """The same without the fields that were left to their defaults: what a YAML file would say."""
    return json.loads(config.model_dump_json(by_alias=True, exclude_unset=True))


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice: YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<: *other
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                line = key_node.start_mark.line + 1
                raise RecipeError(
                    f"The key '{key}' is written twice (second time in line {line}). Remove one of "
                    "the two."
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, *, part: tuple[int, int] | None = None) -> dict[str, Any]:
    """One YAML mapping from a file, or from its characters `part` (first, last + 1); RecipeError
    when it is missing, longer than LARGEST_FILE, not YAML or not a mapping."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(
            f"There is no file {path}. Give the path of a YAML file; infifusion init writes one."
        ) from None
    except IsADirectoryError:
        raise RecipeError(
            f"{path} is a folder. Give the path of a YAML file, such as {path}/recipe.yaml."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        raise RecipeError(
            f"{path} cannot be read as a YAML text file in UTF-8: {error}. Give the path of one."
        ) from None
    if len(content) > LARGEST_FILE:
        raise RecipeError(
            f"{path} has more than {LARGEST_FILE:,} bytes: it is no YAML file written by hand. "
            "Give the path of one."
        )
    values = _parse(text[slice(*part)] if part else text, str(path))
    if not isinstance(values, dict):
        held = "nothing" if values is None else f"a {type(values).__name__}"
        raise RecipeError(
            f"{path} holds {held}; expected a mapping of keys to values, such as `name: first`."
        )
    return values


def require_kind(values: dict[str, Any], kind: str, path: Path) -> None:
    """RecipeError where a file is plainly of another of the KINDS: one sentence in place of a line
    for every key."""
    if KINDS[kind][0] in values:
        return
    for other, (key, command) in KINDS.items():
        if key in values:
            raise RecipeError(
                f"{path} is a {other} (it has the key '{key}'), not a {kind}: {command} {path}."
            )


def _parse(text: str, where: str) -> Any:
    """The value of a YAML text. Raises RecipeError, which begins with `where`, for anything that is
    not plain YAML, or has more than LARGEST_VALUE values once its aliases are written out."""
    loader = None
    try:
        loader = _UniqueKeyLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _written_out(node) > LARGEST_VALUE:
            raise RecipeError(
                f"its aliases (*name) stand for more than {LARGEST_VALUE:,} values, or for "
                "themselves. Write out what they stand for."
            )
        return loader.construct_document(node)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None
    except RecursionError:
        raise RecipeError(f"{where}: its values lie too deep in one another.") from None
    except Exception as error:  # PyYAML raises YAMLError, and whatever int(), float() and date() do
        raise RecipeError(f"{where} is not valid YAML: {_reason(error)}. {MEND_YAML}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _reason(error: Exception) -> str:
    """Where YAML stops making sense, and why."""
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return _in_short(error)
    problem = " ".join(str(part) for part in (error.context, error.problem) if part)
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})"


def _written_out(root: yaml.Node) -> float:
    """How many values a YAML text has with its aliases written out; infinite where one stands
    inside itself. Without recursion: a text can be nested deeply."""
    size: dict[yaml.Node, float] = {}
    pending: list[tuple[yaml.Node, bool]] = [(root, False)]
    while pending:
        node, inner_known = pending.pop()
        if not isinstance(node.value, list):
            size[node] = 1
            continue
        inner = [part for entry in node.value for part in _parts(entry)]
        if inner_known:
            size[node] = 1 + sum(size[part] for part in inner)
        elif node not in size:
            size[node] = float("inf")  # what it has while its own values are looked at
            pending += [(node, True), *((part, False) for part in inner)]
    return size[root]


def _parts(entry: yaml.Node | tuple[yaml.Node, yaml.Node]) -> tuple[yaml.Node, ...]:
    return entry if isinstance(entry, tuple) else (entry,)


def override(values: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Apply `--set a.b=c` assignments to a mapping; values are read as YAML."""
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise RecipeError(
                f"--set {assignment!r} is not of the form a.b=c, for example "
                "--set training.learning_rate=1e-4."
            )
        here = values
        *parents, last = path.split(".")
        for key in parents:
            here = here.setdefault(key, {})
            if not isinstance(here, dict):
                raise RecipeError(
                    f"--set {assignment!r}: '{key}' is not a mapping but {_in_short(here)}. Change "
                    "it in the file."
                )
        here[last] = _parse(text, f"--set {_in_short(assignment)}")
    return values


def _in_short(value: object) -> str:
    """The value, or the first line of an error, in at most LONGEST_SHOWN characters."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} ..."


def _explain(cls: type[Strict], error: ValidationError, where: str) -> str:
    """Every problem on a line of its own under one that counts them."""
    lines = [line for problem in error.errors() for line in _sentences(cls, problem)]
    count = "a problem" if len(lines) == 1 else f"{len(lines)} problems"
    return f"{where} has {count}:\n" + "\n".join(f"  {line}" for line in lines)


def _sentences(cls: type[Strict], problem: ErrorDetails) -> list[str]:
    """One of pydantic's problems in plain words; a validator of the whole can find several."""
    kind, given, location = problem["type"], problem["input"], problem["loc"]
    place = ".".join(map(str, location))
    if kind == "extra_forbidden":
        known = _fields_at(cls, location[:-1])
        listed = f" Known here: {', '.join(sorted(known))}." if known else ""
        return [f"{place}: there is no such key.{nearest(str(location[-1]), known)}{listed}"]
    if kind == "missing":
        return [f"{place}: this key is required and missing."]
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    message = PLAIN.get(kind, message)
    if kind == "model_type" and (keys := _fields_at(cls, location)):
        message += f" of keys such as {', '.join(keys[:3])}"
    # A mapping is shown only where it stands for something else.
    own = isinstance(given, dict) and kind == "value_error"
    shown = "" if own else f" (found {_in_short(given)})"
    plain = kind == "string_type" and not isinstance(given, dict | list | None)
    sentences = [f"{said.removesuffix('.')}{shown}" for said in message.split("\n")]
    start, end = f"{place}: " if place else "", QUOTES if plain else ""
    return [f"{start}{s}{'' if s.endswith('?') else '.'}{end}" for s in sentences]


def _fields_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the model reached by walking `location` from `cls`, in its order."""
    here: Any = cls
    for part in location:
        fields = getattr(here, "model_fields", {})
        if part in fields:
            here = _model_in(fields[part].annotation)
    return list(getattr(here, "model_fields", {}))


def parts_of(annotation: Any) -> list[Any]:
    """What a field may hold: the parts of a union, None left out, or the annotation alone."""
    if get_origin(annotation) is Annotated:
        return parts_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [one for part in get_args(annotation) for one in parts_of(part)]
        return [part for part in inner if part is not NoneType]
    return [annotation]


def _model_in(annotation: Any) -> Any:
    """The Strict model inside an annotation such as `dict[str, Source] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
