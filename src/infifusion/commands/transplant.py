"""`infifusion transplant-tokenizer`: which tokens two vocabularies share, by their bytes, and a
model with the other's."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from infifusion.align.byte_spans import TokenTable, byte_starts, token_table
from infifusion.align.first_token import ANCHORS
from infifusion.align.vocabulary import ids_by_bytes
from infifusion.data.tokenizers import PROBES, encode, load_tokenizer, tokenizer_json
from infifusion.errors import RecipeError, TokenizerError
from infifusion.merge.engine.models import find_model, open_model
from infifusion.merge.engine.transplant import METHODS, Vocabularies, transplant
from infifusion.merge.engine.walker import require_free
from infifusion.registry import nearest

ROLES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
CONFIG = "tokenizer_config.json"
SHARED = 64  # tokens that a new one is a sum of, as in mergekit
PLAIN = "PreTrainedTokenizerFast"  # the class that does what tokenizer.json says


def transplant_command(
    name: str,
    donor_name: str,
    out: Path,
    *,
    method: str,
    count: int | None,
    threads: int | None,
    shard_bytes: int,
    allow_pickle: bool,
) -> tuple[str, dict[str, Any]]:
    """What to print of the model with the donor's vocabulary, and it as values."""
    if method not in METHODS:
        raise RecipeError(
            f"--method {method!r:.40}:{nearest(method, METHODS)} It is {' or '.join(METHODS)}."
        )
    if count is not None and method != "omp":
        raise RecipeError(f"--count is of --method omp; --method {method} does without it.")
    count = count or SHARED
    require_free(out)
    model = open_model(name, Path(), allow_pickle=allow_pickle)
    donor = open_model(donor_name, Path(), allow_pickle=allow_pickle) if method == "omp" else None
    donor_folder = donor.home if donor else find_model(donor_name, Path(), pickles=allow_pickle)
    words = vocabularies(model.home, donor_folder, model.rows or 0, donor.rows if donor else None)
    said: list[str] = []
    details, notes = transplant(
        model,
        donor,
        donor_folder,
        words,
        out,
        method=method,
        count=count,
        threads=threads,
        shard_bytes=shard_bytes,
        beside=lambda folder: said.extend(_reads_alike(folder, words.new)),
    )
    made_of = f"{count} shared ones each" if donor else "the tokens that its own tokenizer makes"
    lines = [
        f"{out}: {name} with the {details['tokens']} tokens of {donor_name}: "
        f"{details['copied']} it had, {details['new']} are made of {made_of}.",
        *(
            f"  {one['name']}: the sums lack {100 * one['lacks']:.0f} % of the donor's rows."
            for one in details["tensors"]
            if one["lacks"] is not None
        ),
        *(f"Note: {note}" for note in [*notes, *said]),
        f"Next: infifusion evaluate {out} --tasks bits_per_byte, or train it for a while.",
    ]
    return "\n".join(lines), {"out": str(out), **details, "notes": [*notes, *said]}


def vocabularies(model: Path, donor: Path, rows: int, donor_rows: int | None) -> Vocabularies:
    """What the tokenizers of two folders have in common. rows, donor_rows: of the embeddings."""
    old, new = (load_tokenizer(str(folder)) for folder in (model, donor))
    ours, theirs = (token_table(tokenizer_json(one)) for one in (old, new))
    size = max(len(theirs), donor_rows or 0)
    own_V = np.full(size, -1, np.int64)
    named_V = np.zeros(size, bool)
    of_bytes = {piece: one for piece, one in ids_by_bytes(ours).items() if one < rows}
    by_text = {token: one for token, one in old.get_vocab().items() if one < rows}
    special = {number: added.content for number, added in new.added_tokens_decoder.items()}
    for number, piece in enumerate(theirs.bytes_V):
        named_V[number] = bool(piece)
        if theirs.special_V[number]:
            own_V[number] = by_text.get(special.get(number, ""), -1)
        elif piece:
            own_V[number] = of_bytes.get(piece, -1)
    shared_N = np.flatnonzero((own_V >= 0) & (np.arange(size) < (donor_rows or size)))
    shared_N = shared_N[~theirs.special_V[shared_N]]
    for role in ROLES:
        number, other = (getattr(one, f"{role}_token_id", None) for one in (new, old))
        if number is not None and other is not None and own_V[number] < 0 and other < rows:
            own_V[number] = other
    others = np.flatnonzero(named_V & (own_V < 0))
    pieces = pieces_of(ours, old, [theirs.bytes_V[number] for number in others], rows)
    return Vocabularies(
        own_V=own_V,
        named_V=named_V,
        model_N=own_V[shared_N],
        donor_N=shared_N,
        pieces=dict(zip(others.tolist(), pieces, strict=True)),
        old=old,
        new=new,
    )


def pieces_of(table: TokenTable, tokenizer: Any, data: list[bytes], rows: int) -> list[list[int]]:
    """The tokens that a tokenizer makes of some bytes in the middle of a text, without special
    ones. Bytes that are no valid UTF-8 (a part of a character) are cut into the longest tokens that
    they begin with."""
    found: list[list[int]] = [[] for _ in data]
    of_bytes = ids_by_bytes(table)
    texts: dict[int, str] = {}
    for place, piece in enumerate(data):
        try:
            texts[place] = piece.decode()
        except UnicodeDecodeError:
            found[place] = _longest(piece, of_bytes)
    for anchor in ANCHORS:
        places = list(texts)
        anchored = [anchor + texts[place] for place in places]
        for place, text, ids in zip(places, anchored, encode(tokenizer, anchored), strict=True):
            if (made := _behind(table, ids, text, len(anchor.encode()))) is not None:
                found[place] = made
                del texts[place]
    for place, text in texts.items():
        found[place] = _longest(text.encode(), of_bytes)
    return [[one for one in listed if one < rows] for listed in found]


def _behind(table: TokenTable, ids: list[int], text: str, byte: int) -> list[int] | None:
    """The tokens from a byte on; None where none begins there."""
    try:
        starts = byte_starts(table, ids, text)
    except TokenizerError:
        return None
    spans = zip(ids, pairwise(starts), strict=True)
    behind = [(one, start) for one, (start, stop) in spans if start >= byte and stop > start]
    if not behind or behind[0][1] != byte:
        return None
    return [one for one, _ in behind if not table.special_V[one]]


def _longest(piece: bytes, of_bytes: dict[bytes, int]) -> list[int]:
    found = []
    while piece:
        length = next((n for n in range(len(piece), 0, -1) if piece[:n] in of_bytes), 0)
        if length:
            found.append(of_bytes[piece[:length]])
        piece = piece[max(length, 1) :]
    return found


def _reads_alike(folder: Path, donor: Any) -> list[str]:
    """A note where transformers takes another tokenizer from the new folder than from the donor's:
    for some kinds of models it goes by config.json. Naming the plain class helps with most."""
    from transformers import AutoTokenizer

    expected = encode(donor, list(PROBES))
    plain = partial(AutoTokenizer.from_pretrained, folder, trust_remote_code=False)

    def agrees() -> bool:
        try:
            tokenizer = plain()
        except Exception:  # many kinds, for a class that cannot read these files
            return False
        return [tokenizer(one, add_special_tokens=False)["input_ids"] for one in PROBES] == expected

    if agrees():
        return []
    path = folder / CONFIG
    before = path.read_text(encoding="utf-8") if path.is_file() else "{}"
    values = {**json.loads(before), "tokenizer_class": PLAIN}
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")
    if agrees():
        return [f"tokenizer_class is {PLAIN}: transformers would take another tokenizer."]
    path.write_text(before, encoding="utf-8")
    return [
        "beside this config.json AutoTokenizer makes other tokens than tokenizer.json says "
        f"(transformers goes by model_type). Load it with {PLAIN}.from_pretrained; infifusion does."
    ]
