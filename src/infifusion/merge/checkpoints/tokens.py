"""Whether models that are merged row by row mean the same token by the same row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from infifusion.errors import CheckpointError, RecipeError

# Files that alone decide which id a token has.
VOCABULARIES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"),
    *("sentencepiece.bpe.model", "added_tokens.json", "qwen.tiktoken", "tiktoken.model"),
)


class HasRows(Protocol):
    """A model as far as its rows go."""

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def home(self) -> Path: ...
    @property
    def rows(self) -> int | None: ...


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer; its own code is never run. RecipeError where there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        # Without a tokenizer file transformers makes one of added tokens alone for some families.
        if not tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys():
            raise ValueError("its vocabulary is empty")
        return tokenizer
    except Exception as error:  # the library raises many kinds for a folder without tokenizer
        raise RecipeError(
            f"{folder} has no tokenizer that can be read ({error}); tokenizer_source needs one of "
            "every model: save it beside the weights (tokenizer.save_pretrained), or "
            "remove the key."
        ) from error


def known_tokenizer(folder: Path) -> Any:
    """The same, read once as long as its files stay as they are: not to be changed."""
    stamps = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir()]
    return _known(folder, tuple(sorted(stamps)))


@lru_cache(maxsize=16)
def _known(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> Any:
    return load_tokenizer(folder)


def same_tokens(donor: HasRows, models: Sequence[HasRows]) -> list[str]:
    """Notes on what could not be compared, or is in one model only. CheckpointError where an id
    is another token in one of the models."""
    notes: list[str] = []
    ours: dict[int, str] | None = None
    for model in models:
        if model.home == donor.home or _same_files(donor.home, model.home):
            continue
        ours = ours if ours is not None else _tokens(donor.home)
        theirs = _tokens(model.home)
        if not ours or not theirs:
            without = donor if not ours else model
            notes.append(
                f"{without.folder} has no tokenizer that can be read: whether its rows stand for "
                "the same tokens as those of the others was not compared."
            )
            continue
        rows = min(n for n in (donor.rows, model.rows, max(max(ours), max(theirs)) + 1) if n)
        odd = sorted(i for i in ours.keys() & theirs.keys() if i < rows and ours[i] != theirs[i])
        if odd:
            raise CheckpointError(
                f"Token {odd[0]} is {ours[odd[0]]!r:.60} in {donor.folder} and "
                f"{theirs[odd[0]]!r:.60} in {model.folder} ({model.name}); {len(odd)} of {rows} "
                "rows stand for other tokens. Merging them row by row would mix unlike tokens: "
                "write tokenizer_source: union, base or one of the models; or tokenizer_source: "
                "ignore, if the rows belong together all the same."
            )
        if one := sorted(i for i in ours.keys() ^ theirs.keys() if i < rows):
            token = ours.get(one[0], theirs.get(one[0]))
            has, lacks = (donor, model) if one[0] in ours else (model, donor)
            notes.append(
                f"{len(one)} tokens are in one tokenizer only (the first: {token!r:.60}, {one[0]}, "
                f"in {has.name} but not in {lacks.name}); their rows are merged with unused ones. "
                "tokenizer_source: union would keep them apart."
            )
    return notes


def brings_tokens(adapter: Path, model: Path) -> bool:
    """Whether an adapter's tokenizer is the model's with more tokens, for rows that were to spare,
    say."""
    ours, theirs = _tokens(model), _tokens(adapter)
    more = theirs.keys() - ours.keys()
    return bool(ours and more) and all(theirs.get(i) == token for i, token in ours.items())


def _same_files(one: Path, other: Path) -> bool:
    """Whether both folders have the same vocabulary, byte for byte."""
    found = False
    for name in VOCABULARIES:
        a, b = one / name, other / name
        if a.is_file() != b.is_file():
            return False
        if a.is_file():
            if a.stat().st_size != b.stat().st_size or a.read_bytes() != b.read_bytes():
                return False
            found = True
    return found


def _tokens(folder: Path) -> dict[int, str]:
    """Token by id; empty where there is no tokenizer."""
    path = folder / "tokenizer.json"
    try:
        if path.is_file():
            values = json.loads(path.read_text(encoding="utf-8"))
            vocabulary = values["model"]["vocab"]
            if isinstance(vocabulary, list):  # Unigram: token and score
                vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
            added = {one["content"]: one["id"] for one in values.get("added_tokens") or []}
            return {number: token for token, number in {**vocabulary, **added}.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    if not any((folder / name).is_file() for name in (*VOCABULARIES, "tokenizer_config.json")):
        return {}
    try:
        return {number: token for token, number in load_tokenizer(folder).get_vocab().items()}
    except ValueError:
        return {}
