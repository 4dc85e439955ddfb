"""align: how well two tokenizers fit on a text."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from infifusion.align.boundaries import keys, match
from infifusion.align.byte_spans import TokenTable, byte_starts, token_table
from infifusion.align.coverage import coverage
from infifusion.align.first_token import first_tokens
from infifusion.align.vocabulary import vocabulary_map
from infifusion.data.examples import template_fields
from infifusion.data.lines import read_jsonl
from infifusion.data.tokenizers import encode, load_tokenizer, tokenizer_json
from infifusion.errors import DataError, TokenizerError


def align_tokenizers(*, source: str, pivot: str, text: Path, field: str | None) -> dict[str, Any]:
    """The figures that `infifusion align --json` prints."""
    texts = _read(text, field)
    loaded = {name: load_tokenizer(name) for name in (source, pivot)}
    tables = {name: token_table(tokenizer_json(loaded[name])) for name in loaded}
    source_ids, pivot_ids = (encode(loaded[name], texts) for name in (source, pivot))
    started = time.perf_counter()
    source_U, source_row = flat_starts(tables[source], source_ids, texts, source)
    pivot_T, pivot_row = flat_starts(tables[pivot], pivot_ids, texts, pivot)
    source_T = match(keys(pivot_T, pivot_row), keys(source_U, source_row))
    seconds = time.perf_counter() - started
    covered = coverage(source_T, np.concatenate([np.asarray(i, np.int32) for i in pivot_ids]))
    mapping = vocabulary_map(
        tables[source],
        tables[pivot],
        partial(first_tokens, tables[pivot], partial(encode, loaded[pivot])),
        roles={},
        size=len(tables[source]),
    )
    return {
        "pivot_positions": covered.positions,
        "aligned_positions": covered.aligned,
        "aligned_share": covered.share,
        "vocabulary": mapping.shares(),
        "worst_tokens": [
            {
                "token": tables[pivot].bytes_V[token].decode(errors="replace"),
                "id": token,
                "unaligned": missed,
                "seen": seen,
            }
            for token, missed, seen in covered.worst
        ],
        "tokens_per_second": round(covered.positions / max(seconds, 1e-9)),
    }


def align_table(result: dict[str, Any]) -> Table:
    """The same figures for a person."""
    share, vocabulary = result["aligned_share"], result["vocabulary"]
    table = Table(
        title=(
            f"{result['aligned_positions']} of {result['pivot_positions']} pivot positions "
            f"aligned ({100 * share:.1f} %)\nsource vocabulary: "
            f"{100 * vocabulary['same_bytes']:.1f} % by equal bytes, "
            f"{100 * vocabulary['first_token']:.1f} % by first token, "
            f"{100 * vocabulary['unmapped']:.1f} % not mapped\n"
            f"{result['tokens_per_second']:,} tokens/s, tokenizing apart"
        )
    )
    for column in ("pivot token", "id", "unaligned", "of"):
        table.add_column(column, justify="left" if column == "pivot token" else "right")
    for worst in result["worst_tokens"]:
        row = (repr(worst["token"]), worst["id"], worst["unaligned"], worst["seen"])
        table.add_row(*(str(cell) for cell in row))
    return table


def _read(path: Path, field: str | None) -> list[str]:
    """A text file taken whole, or one field of every line of a JSONL file."""
    advice = "Mend or remove the line, or leave --field out where the file is plain text."
    try:
        if field is None:
            texts = [path.read_bytes().decode()]
        else:
            records = read_jsonl(path, advice=advice)
            texts = [template_fields(field, record, where) for where, record in records]
    except FileNotFoundError:
        raise DataError(
            f"There is no text file {path}. Give --text a plain text file, or a .jsonl "
            "with --field."
        ) from None
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is not a text file in UTF-8: {error}. Convert it: iconv -t UTF-8."
        ) from None
    if field is None and path.suffix == ".jsonl":
        raise DataError(f"{path} is JSONL: name the field that holds the text with --field.")
    if not any(texts):
        raise DataError(f"{path} holds no text. Give --text a file with some responses.")
    return texts


def flat_starts(
    table: TokenTable, ids: list[list[int]], texts: list[str], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Start bytes of all texts end to end, and which text each belongs to."""
    starts = []
    for number, (one, text) in enumerate(zip(ids, texts, strict=True), start=1):
        try:
            starts.append(byte_starts(table, one, text)[:-1])
        except TokenizerError as error:
            raise TokenizerError(f"{name}, text {number}: {error}") from None
    lengths = [len(one) for one in starts]
    return np.concatenate(starts), np.concatenate([[0], np.cumsum(lengths)])
