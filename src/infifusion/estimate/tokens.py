"""How many tokens a run will see: from a finished prepare, from the data, or as given.

The tokenizers library reads tokenizer.json itself: nothing here imports torch.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import safe_open

from infifusion.data.examples import read_examples
from infifusion.data.files import is_local
from infifusion.data.overlap import without_duplicates
from infifusion.errors import DataError, RecipeError
from infifusion.estimate.costs.case import PIVOT
from infifusion.estimate.costs.lengths import Lengths
from infifusion.estimate.text import Counter, counter_of
from infifusion.merge.checkpoints.reader import read_config, text_config
from infifusion.recipe import DataSource, Model, Recipe
from infifusion.store.artifacts import MANIFEST
from infifusion.store.folders import SPLITS, RunFolder
from infifusion.store.identity import data_identity
from infifusion.store.records import plain, read_json
from infifusion.teacher.window import window_of
from infifusion.types import Example

SAMPLE = 2000
"""Examples of a split that are tokenized to estimate all: the mean length of 2,000 has a standard
error of 1 to 2 % where lengths vary by half of their mean."""
RESPONSE_SHARE = 0.75
"""Response tokens among all, where only --tokens-per-example is given: instruction data with short
questions and worked answers."""

AllLengths = dict[tuple[str, str], Lengths]


@dataclass(frozen=True)
class Given:
    """Sizes from the command line in place of data."""

    examples: int
    tokens: int
    response: int | None


def given_sizes(examples: int | None, tokens: int | None, response: int | None) -> Given | None:
    """The three options; RecipeError where they do not fit together."""
    if examples is None and tokens is None and response is None:
        return None
    if examples is None or tokens is None:
        raise RecipeError("--examples and --tokens-per-example are given together or not at all.")
    if examples < 1 or tokens < 2 or not 1 <= (response or 1) < tokens:
        raise RecipeError(
            "--examples must be at least 1, --tokens-per-example at least 2, and "
            "--response-tokens between 1 and one less than that."
        )
    return Given(examples, tokens, response)


def lengths_of(
    recipe: Recipe, folder: RunFolder, given: Given | None, notes: list[str]
) -> AllLengths:
    """Lengths of every model on every split; says in notes where they come from."""
    models = {PIVOT: recipe.pivot, **recipe.sources}
    found = prepared_lengths(recipe, folder) if given is None else None
    if recipe.write_responses is not None:
        also = ", nor are the examples that they become" if found is None else ""
        notes.append(f"write_responses: writing the answers is not counted{also}")
    if given is not None:
        return _as_given(recipe, models, given, notes)
    if found is not None:
        notes.append(f"tokens: counted in {folder.prepare}")
        return found
    return _from_data(recipe, models, notes)


def prepared_lengths(recipe: Recipe, folder: RunFolder) -> AllLengths | None:
    """What a finished prepare of the same data wrote; None where there is none."""
    if not (folder.prepare / MANIFEST).is_file():
        return None
    fingerprint = read_json(folder.prepare / MANIFEST).get("fingerprint", {})
    wanted = plain({"data": data_identity(recipe.data), "seed": recipe.seed})
    if plain({key: fingerprint.get(key) for key in wanted}) != wanted:
        return None
    found = {}
    for name in (PIVOT, *recipe.sources):
        for split in SPLITS:
            path = folder.rendered(name, split)
            if not path.is_file():
                return None
            found[name, split] = _rendered(path)
    return found


def domain_shares(
    recipe: Recipe, folder: RunFolder, given: Given | None, notes: list[str]
) -> dict[str, float]:
    """How many examples of each domain an epoch goes over, as a share of the training examples;
    says in notes where it is not counted. Empty where no run trains on some domains alone and no
    data set has a weight: nothing asks for it."""
    weights = [source.weight for source in recipe.data.train]
    weighted, resolved = any(weight != 1 for weight in weights), recipe.resolve()
    if not weighted and all(run.domains is None for run in [*resolved.tuned, *resolved.runs]):
        return {}
    asked = recipe.write_responses
    files = [*recipe.data.train, *(asked.prompts if asked is not None else [])]
    if given is not None:
        notes.append("domains: taken to have equally many of the examples given, without weights")
        count = dict.fromkeys((file.domain for file in files), 1)
    elif weighted:
        prepared = prepared_lengths(recipe, folder) is not None and folder.data_sets.is_file()
        sets = read_json(folder.data_sets)["data_sets"] if prepared else None
        known = Counts(sets or [example.data_set or 0 for example in examples_of(recipe)])
        often = dict.fromkeys((file.domain for file in files), 0.0)
        for place, source in enumerate(recipe.data.train):
            often[source.domain] += known[place] * source.weight
        total = sum(known.values())
        return {domain: times / total for domain, times in often.items()}
    elif prepared_lengths(recipe, folder) is not None:
        count = read_json(folder.prepare / MANIFEST)["counts"]["train"]
    else:
        count = Counts(example.domain for example in examples_of(recipe))
    total = sum(count.values())
    return {file.domain: count.get(file.domain, 0) / total for file in files}


def _rendered(path: Path) -> Lengths:
    with safe_open(path, framework="np") as file:
        length_N = np.diff(file.get_tensor("offset_N1"))
        positions = file.get_slice("start_R").get_shape()[0]
    return Lengths(
        len(length_N), float(length_N.sum()), float(positions), np.sort(length_N).tolist()
    )


def _as_given(
    recipe: Recipe, models: Mapping[str, Model], given: Given, notes: list[str]
) -> AllLengths:
    response = given.response or RESPONSE_SHARE * given.tokens
    longest = max(given.tokens, min(2 * given.tokens, recipe.data.max_length))
    shortest = max(1, 2 * given.tokens - longest)
    # Evenly spread around the mean: what is known of data that nobody has looked at.
    sample = [round(shortest + (longest - shortest) * i / 100) for i in range(101)]
    apart = recipe.data.validation_share
    train = Lengths(
        given.examples, given.examples * given.tokens, given.examples * response, sample
    )
    notes.append(
        f"tokens: {given.examples:,} examples of {given.tokens:,} tokens as given, {response:,.0f} "
        f"of them the response, for every model; lengths spread evenly up to {longest:,}; "
        "held-out data not counted"
    )
    return {
        (name, split): part
        for name in models
        for split, part in (("train", train.share(1 - apart)), ("validation", train.share(apart)))
    }


def _from_data(recipe: Recipe, models: Mapping[str, Model], notes: list[str]) -> AllLengths:
    train = examples_of(recipe)
    held_out = _read(recipe.data.held_out, recipe.seed)
    if not train:
        raise DataError(
            "The training data holds no example with a response. Look at the fields that `prompt` "
            "and `response` (or `messages`) of data.train name."
        )
    found: AllLengths = {}
    counters = {name: counter_of(name, model) for name, model in models.items()}
    longest = {name: _longest(recipe, model) for name, model in models.items()}
    apart = recipe.data.validation_share
    for split, examples in (("train", train), ("held_out", held_out)):
        measured = _measure(recipe, counters, longest, examples)
        for name, lengths in measured.items():
            if split == "train":
                found[name, "train"] = lengths.share(1 - apart)
                found[name, "validation"] = lengths.share(apart)
            else:
                found[name, split] = lengths
    whole = len(train) <= SAMPLE
    notes.append(
        f"tokens: {'all' if whole else f'{SAMPLE:,} of'} {len(train):,} training examples tokenized"
        + ("" if whole else " and scaled up")
        + ("; data.decontaminate is not applied" if recipe.data.decontaminate else "")
    )
    plain = [name for name, counter in counters.items() if counter.template_failed]
    if plain:
        notes.append(
            f"tokens: the chat template of {', '.join(plain)} could not be rendered here; prompt "
            "and response are counted without it"
        )
    return found


def examples_of(recipe: Recipe) -> list[Example]:
    """The training examples, each once."""
    return without_duplicates(_read(recipe.data.train, recipe.seed))


def _read(sources: list[DataSource], seed: int) -> list[Example]:
    examples: list[Example] = []
    for number, source in enumerate(sources):
        if not is_local(source):
            raise DataError(
                f"{source.path} is a data set of the hub, which plan does not download. Give its "
                "size: --examples 130000 --tokens-per-example 700; or run `prepare` first: "
                "infifusion run RECIPE.yaml --until prepare."
            )
        some = read_examples(source, seed=seed)[0]
        examples += [replace(example, data_set=number) for example in some]
    return examples


def _longest(recipe: Recipe, model: Model) -> int:
    """Tokens of the longest conversation that `prepare` gives a model, as far as its config.json
    lies here and says its window."""
    folder = Path(model.model)
    config = read_config(folder) if (folder / "config.json").is_file() else {}
    return min(recipe.data.max_length, window_of(text_config(config)) or recipe.data.max_length)


def _measure(
    recipe: Recipe,
    counters: Mapping[str, Counter],
    longest: Mapping[str, int],
    examples: list[Example],
) -> dict[str, Lengths]:
    """Lengths for every model of the examples that fit max_length, and its window, for all of
    them."""
    if not examples:
        return {name: Lengths(0, 0, 0, []) for name in counters}
    step = max(1.0, len(examples) / SAMPLE)
    places = [int(i * step) for i in range(min(SAMPLE, len(examples)))]
    sample = [examples[place] for place in places]
    counts = {
        name: counter.count(sample, plain_template=recipe.data.plain_template)
        for name, counter in counters.items()
    }
    fits = np.ones(len(sample), dtype=bool)
    for name, count_N2 in counts.items():
        fits &= count_N2[:, 0] <= longest[name]
    if not fits.any():
        raise DataError(
            "No example is left: all of the sample are longer than data.max_length "
            f"({recipe.data.max_length} tokens; raise it) or than the window of a model "
            f"({', '.join(f'{name}: {limit}' for name, limit in longest.items())})."
        )
    kept = round(len(examples) * float(fits.mean()))
    found = {}
    for name, count_N2 in counts.items():
        tokens, positions = count_N2[fits].mean(axis=0)
        lengths = np.sort(count_N2[fits, 0]).tolist()
        found[name] = Lengths(kept, kept * float(tokens), kept * float(positions), lengths)
    return found
