"""One vocabulary for models that have different ones: tokenizer, and where each row comes from.

Axes: S models, V rows (tokens) of the result.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from infifusion.errors import RecipeError
from infifusion.merge.checkpoints.tokens import known_tokenizer, load_tokenizer
from infifusion.merge.checkpoints.views import MEAN, PADDING, ZERO, WithRows
from infifusion.merge.engine.file import TokenEmbedding, Tokenizer
from infifusion.merge.engine.model import Model

# Tensors with a row per token, by the names that architectures give them.
BY_TOKEN = re.compile(
    r"(embed_tokens|wte|lm_head|embed_in|embed_out|word_embeddings|tok_embeddings|"
    r"shared_head\.head)\.(weight|bias)$"
)


@dataclass(frozen=True)
class Vocabulary:
    """The result's tokenizer and rows; row_SV: the id of each token in each model, -1 where it has
    none; from_SV: for each model, where the row of a token comes from (`views.WithRows`)."""

    tokenizer: Any
    models: list[Model]
    row_SV: np.ndarray
    from_SV: np.ndarray
    rows: int

    @property
    def identity(self) -> str:
        """SHA-256 of the mapping."""
        digest = hashlib.sha256(str(self.rows).encode())
        for array in (self.row_SV, self.from_SV):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def holds(self, model: Model, tensor: str) -> bool:
        """Whether the tensor has a row per token."""
        shape = model.shape(tensor)
        return bool(BY_TOKEN.search(tensor)) and shape[:1] == (model.vocabulary,)

    def view(self, model: Model, parts: dict[str, tuple[np.ndarray, str]], width: int) -> WithRows:
        """The model's tensor in the new vocabulary; parts: array and dtype of each model's."""
        arrays = [parts[one.name][0] for one in self.models]
        dtypes = [parts[one.name][1] for one in self.models]
        s = next(n for n, one in enumerate(self.models) if one.key == model.key)
        size = self.row_SV.shape[1]
        bare = WithRows(
            arrays, dtypes, width, self.from_SV[s], self.row_SV, np.zeros(width, np.float32)
        )
        if self.rows == size:
            return bare
        # Rows beyond the vocabulary hold the mean row: Hewitt, "Initializing new word embeddings".
        total = np.zeros(width)
        for start in range(0, size, 4096):
            part = bare[slice(start * width, min(start + 4096, size) * width)]
            total += part.reshape(-1, width).sum(axis=0, dtype=np.float64)
        more = self.rows - size
        return WithRows(
            arrays,
            dtypes,
            width,
            np.concatenate([self.from_SV[s], np.full(more, PADDING)]),
            np.pad(self.row_SV, ((0, 0), (0, more)), constant_values=-1),
            (total / size).astype(np.float32),
        )


def build_vocabulary(
    wanted: Tokenizer, models: list[Model], donor: Model, base: Model | None, *, where: str
) -> Vocabulary:
    """Load the tokenizers, make the result's and say where every row comes from.

    A token that a model lacks gets the row of the one model that has it, or of the base, or the
    mean of those that have it; zero where none has. Raises RecipeError for tokenizers that cannot
    be read or tokens that no model has.
    """
    loaded = {model.name: known_tokenizer(model.home) for model in models}
    result = _result(wanted, loaded, models, donor, where)
    own = {model.name: _usable(loaded[model.name], model) for model in models}
    for token in wanted.tokens:
        if token not in result.get_vocab():
            result.add_tokens(token)
    ids = result.get_vocab()
    size = max(ids.values()) + 1
    row_SV = np.full((len(models), size), -1, np.int64)
    for s, model in enumerate(models):
        for token, row in own[model.name].items():
            if token in ids:
                row_SV[s, ids[token]] = row
    from_SV = _origins(row_SV, models, base)
    for token, entry in wanted.tokens.items():
        _configure(entry, token, ids[token], row_SV, from_SV, models, own, where)
    multiple = wanted.pad_to_multiple_of or 1
    return Vocabulary(result, models, row_SV, from_SV, -(-size // multiple) * multiple)


def _origins(row_SV: np.ndarray, models: list[Model], base: Model | None) -> np.ndarray:
    has_SV = row_SV >= 0
    count_V = has_SV.sum(axis=0)
    default_V = np.where(count_V == 0, ZERO, np.where(count_V == 1, has_SV.argmax(axis=0), MEAN))
    if base is not None:
        b = next(n for n, model in enumerate(models) if model.key == base.key)
        default_V = np.where(has_SV[b], b, default_V)
    return np.where(has_SV, np.arange(len(models))[:, None], default_V)


def _configure(
    entry: TokenEmbedding,
    token: str,
    place: int,
    row_SV: np.ndarray,
    from_SV: np.ndarray,
    models: list[Model],
    own: dict[str, dict[str, int]],
    where: str,
) -> None:
    """Apply one entry of tokenizer.tokens."""
    source = entry.source
    if source is None:
        return
    lacking_S = row_SV[:, place] < 0
    if entry.force:
        lacking_S[:] = True
    if isinstance(source, dict) and source.get("kind") == "zero":
        from_SV[lacking_S, place] = ZERO
        return
    name = source.get("model") if isinstance(source, dict) else source
    found = [n for n, model in enumerate(models) if model.name == name]
    if not found:
        raise RecipeError(
            f"{where}: tokenizer.tokens.{token}.source: {name!r} is no model of this merge. "
            "Name one of its models, base included."
        )
    s = found[0]
    if isinstance(source, dict):
        row = source.get("token_id", own[models[s].name].get(str(source.get("token", ""))))
    else:
        row = row_SV[s, place] if row_SV[s, place] >= 0 else None
    rows = range(models[s].vocabulary or 0)
    if not isinstance(row, int | np.integer) or isinstance(row, bool) or row not in rows:
        raise RecipeError(
            f"{where}: tokenizer.tokens.{token}.source: {name} has no such token. Name a token, or "
            "a token_id, that it has."
        )
    if row_SV[s, place] not in (-1, int(row)) and not entry.force:
        raise RecipeError(
            f"{where}: tokenizer.tokens.{token}: {name} has this token itself; set force: true to "
            "give it another row."
        )
    row_SV[s, place] = int(row)
    from_SV[lacking_S, place] = s


def _usable(tokenizer: Any, model: Model) -> dict[str, int]:
    """Token -> id, of those that have a row."""
    stored = [model.shape(name)[0] for name in model.checkpoint if BY_TOKEN.search(name)]
    rows = min([*stored, *([model.vocabulary] if model.vocabulary else [])], default=None)
    return {t: i for t, i in tokenizer.get_vocab().items() if rows is None or i < rows}


def _result(
    wanted: Tokenizer, loaded: dict[str, Any], models: list[Model], donor: Model, where: str
) -> Any:
    if wanted.source == "base":
        return load_tokenizer(donor.home)
    if wanted.source != "union":
        if wanted.source not in loaded:
            raise RecipeError(
                f"{where}: tokenizer_source {wanted.source!r} is neither base, union nor a model "
                f"of this merge: {', '.join(loaded)}."
            )
        return load_tokenizer(next(m.home for m in models if m.name == wanted.source))
    result = load_tokenizer(donor.home)
    for model in models:
        known = result.get_vocab()
        tokenizer = loaded[model.name]
        special = {added.content: added for added in tokenizer.added_tokens_decoder.values()}
        rows = _usable(tokenizer, model)
        # In the order of their ids, so that the same models always give the same vocabulary.
        new = [token for token in sorted(rows, key=rows.__getitem__) if token not in known]
        result.add_tokens([special.get(token, token) for token in new])
    return result
