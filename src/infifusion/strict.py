"""Strict, frozen configuration: unknown keys are refused by name, all problems at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from infifusion.errors import RecipeError
from infifusion.registry import nearest

Config = TypeVar("Config", bound="Strict")


class Strict(BaseModel):
    """A frozen pydantic model that forbids unknown keys; a string under a field documents it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )

    @classmethod
    def from_mapping(cls, values: object, *, where: str) -> Self:
        """Validate; raise one RecipeError that lists every problem. `where` names the file."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RecipeError(_explain(cls, error, where)) from None


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
                raise RecipeError(f"The key '{key}' is written twice (second time in line {line}).")
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML mapping from a file; RecipeError when it is missing, not YAML or not a mapping."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(f"There is no file {path}. Give the path of a YAML file.") from None
    except (IsADirectoryError, UnicodeDecodeError, PermissionError) as error:
        raise RecipeError(
            f"{path} cannot be read as a YAML text file: {error}. Give a UTF-8 file that "
            "you may read."
        ) from None
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error} Remove one of the two.") from None
    except yaml.YAMLError as error:
        raise RecipeError(
            f"{path} is not valid YAML: {error}\nMend the line named last; quote texts that hold "
            "': ', '#' or braces."
        ) from None
    if not isinstance(values, dict):
        found = type(values).__name__
        raise RecipeError(f"{path} holds a {found}; expected a mapping of keys to values.")
    return values


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
                raise RecipeError(f"--set {assignment!r}: '{key}' is not a mapping.")
        here[last] = yaml.safe_load(text)
    return values


def _explain(cls: type[Strict], error: ValidationError, where: str) -> str:
    lines = []
    for problem in error.errors():
        location = ".".join(str(part) for part in problem["loc"]) or "(top level)"
        if problem["type"] == "extra_forbidden":
            known = _fields_at(cls, problem["loc"][:-1])
            hint = nearest(str(problem["loc"][-1]), known)
            listed = f" Known here: {', '.join(sorted(known))}." if known else ""
            lines.append(f"  {location}: there is no such key.{hint}{listed}")
        elif problem["type"] == "missing":
            lines.append(f"  {location}: this key is required and missing.")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            found = "" if isinstance(problem["input"], dict) else f" (found {problem['input']!r})"
            lines.append(f"  {location}: {message}{found}.".replace("..", "."))
    count = "a problem" if len(lines) == 1 else f"{len(lines)} problems"
    return f"{where} has {count}:\n" + "\n".join(lines)


def _fields_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """Field names of the model reached by walking `location` from `cls`."""
    here: Any = cls
    for part in location:
        fields = getattr(here, "model_fields", {})
        if part in fields:
            here = _model_in(fields[part].annotation)
    return set(getattr(here, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """The Strict model inside an annotation such as `dict[str, Source] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
