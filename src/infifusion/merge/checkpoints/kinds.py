"""The config of a model of stacked layers: every layer of the kind that it was in its source.

Many configs do not list the kinds of their layers but give them by a rule: every sixth layer has
full attention, the first three have no experts. After stacking, the rule would give other kinds.
Here the rule is replaced by a list, or by other numbers, where the config can say what is needed.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from infifusion.errors import CheckpointError
from infifusion.merge.checkpoints.architecture import CLASS, Architecture, architecture_of
from infifusion.merge.checkpoints.reader import text_config
from infifusion.merge.checkpoints.subject import Subject

Json = dict[str, Any]
Origins = list[tuple[Subject, int]]
# Numbers of a config that give the kind of a layer by its place.
FIRST = re.compile(r"first_k|dense_layers|dense_replace|max_window_layers|start_(idx|index|layer)")
PERIOD = re.compile(r"(.*)_(period|interval|freq|step|pattern|stride)$")
SKIPPED = re.compile(r"rope|rotary|save|log|eval")
MOST_TRIED = 400


def config_of_stack(config: Json, origins: Origins) -> Json:
    """The config (with the number of layers and the lists that it has per layer already as they are
    to be), changed where the kinds of the layers need it.

    Raises CheckpointError with what differs where no change that is known here gives each layer the
    kind that it has in its source.
    """
    wanted = []
    for model, layer in origins:
        known = model.architecture
        if isinstance(known, str):
            return config
        kinds = known.kinds()
        if layer >= len(kinds):
            return config
        wanted.append(kinds[layer])
    first: tuple[int, str, Any, Any] | None = None
    for number, candidate in enumerate(_candidates(config, origins)):
        if number > MOST_TRIED:
            break
        try:
            made = architecture_of(candidate)
        except CheckpointError:  # this one the library does not take
            continue
        if isinstance(made, str):
            return config
        alike = [_same_class(model, made) for model, _ in origins]
        different = _first_difference(wanted, made.kinds(), alike)
        if different is None:
            return candidate
        first = first or different
    if first is None:
        raise CheckpointError(
            "The config of the stacked layers is refused by transformers. Look at the layers' "
            "entries in the models' config.json."
        )
    number, key, needed, found = first
    model, layer = origins[number]
    raise CheckpointError(
        f"Layer {number} of the result is layer {layer} of {model.name}, where {key or 'it'} is "
        f"{needed!r:.80}; the config of the result would make it {found!r:.80}: it gives the kinds "
        "of layers by a rule that this stack does not follow, and has no list for it. Stack whole "
        "periods of layers, from the first on."
    )


def _same_class(model: Subject, made: Architecture) -> bool:
    known = model.architecture
    return isinstance(known, Architecture) and type(known.decoder) is type(made.decoder)


def _first_difference(
    wanted: list[Json], found: list[Json], alike: list[bool]
) -> tuple[int, str, Any, Any] | None:
    """alike: whether a layer's source is of the result's class; else the language model inside of
    another has other names for the same, and what both say is compared."""
    for number, (one, other) in enumerate(zip(wanted, found, strict=False)):
        keys = one.keys() | other.keys() if alike[number] else one.keys() & other.keys()
        for key in sorted(keys):
            if key.startswith(CLASS) and not alike[number]:
                continue
            if key.startswith("config.") and (key not in one or key not in other):
                continue  # the list has an entry per layer by chance
            if one.get(key) != other.get(key):
                return number, key, one.get(key), other.get(key)
    return (
        None if len(wanted) == len(found) else (0, "the number of layers", len(wanted), len(found))
    )


def _candidates(config: Json, origins: Origins) -> Iterator[Json]:
    """The config as it is; with the lists that it calculates written out; with lists of layers'
    numbers renumbered; and with other numbers in its rules, one rule at a time and in pairs."""
    yield config
    listed = _with_lists(config, origins)
    renumbered = _with_numbers(listed, origins)
    several = [one for one in (listed, renumbered) if one != config]
    yield from several
    base = several[-1] if several else config
    yield from _with_rules(base, len(origins))


def _with_lists(config: Json, origins: Origins) -> Json:
    """With every list per layer that the sources' configs calculate."""
    made = copy.deepcopy(config)
    inner = text_config(made)
    found: list[dict[str, list[Any]]] = []
    for model, _ in origins:
        known = model.architecture
        assert isinstance(known, Architecture)
        found.append(known.per_layer(len(known.kinds())))
    for key in found[0]:
        if all(key in lists for lists in found):
            inner[key] = [
                lists[key][layer] for lists, (_, layer) in zip(found, origins, strict=True)
            ]
    for key, value in inner.items():
        if isinstance(value, str) and all(_spells(model, key) for model, _ in origins):
            letters = [text_config(model.config)[key][layer] for model, layer in origins]
            inner[key] = "".join(letters)
    return made


def _spells(model: Subject, key: str) -> bool:
    """Whether the value has a letter per layer, as Nemotron-H's hybrid_override_pattern."""
    known, value = model.architecture, text_config(model.config).get(key)
    layers = len(known.kinds()) if isinstance(known, Architecture) else 0
    return isinstance(value, str) and len(value) == layers and "pattern" in key


def _with_numbers(config: Json, origins: Origins) -> Json:
    """With lists of layers' numbers (mlp_only_layers: [0, 5]) as the numbers of the new layers; a
    step that would add others is set to 1."""
    made = copy.deepcopy(config)
    inner = text_config(made)
    for key, value in list(inner.items()):
        if not isinstance(value, list) or not re.search(r"layers|_idx|_ids|indices", key):
            continue
        if not all(type(entry) is int for entry in value) or len(set(value)) != len(value):
            continue
        inner[key] = [
            number
            for number, (model, layer) in enumerate(origins)
            if layer in (text_config(model.config).get(key) or [])
        ]
    if "mlp_only_layers" in inner:
        step = inner.get("decoder_sparse_step", 1)
        inner["decoder_sparse_step"] = 1
        inner["mlp_only_layers"] = [
            number
            for number, (model, layer) in enumerate(origins)
            if layer in (text_config(model.config).get("mlp_only_layers") or [])
            or (layer + 1) % (step or 1)
        ]
    return made


def _with_rules(config: Json, layers: int) -> Iterator[Json]:
    inner = text_config(config)
    numbers = {key: value for key, value in inner.items() if type(value) is int}
    for key in numbers:
        if FIRST.search(key):
            for value in range(layers + 1):
                yield _changed(config, {key: value})
    rules = []
    for key in numbers:
        match = PERIOD.match(key)
        if match is None or SKIPPED.search(key):
            continue
        offset = next((k for k in numbers if k == f"{match[1]}_offset"), None)
        rules.append((key, offset))
    options = [
        [
            {key: period, **({offset: shift} if offset else {})}
            for period in range(1, layers + 2)
            for shift in (range(period) if offset else (0,))
        ]
        for key, offset in rules
    ]
    for one in options:
        for values in one:
            yield _changed(config, values)
    if len(options) == 2:
        for values in options[0]:
            for more in options[1]:
                yield _changed(config, {**values, **more})


def _changed(config: Json, values: Json) -> Json:
    made = copy.deepcopy(config)
    text_config(made).update(values)
    return made
