"""Which bytes of a text each token stands for.

A tokenizer's vocabulary is turned into a table id -> bytes (ByteLevel: the inverse of its
byte-to-character map; SentencePiece: the marker U+2581 is a space and `<0xNN>` one byte), and the
spans of a text are the running lengths of its tokens. The spans must tile the text byte for byte;
a tokenizer that normalises its text (lower case, NFKC) is found out here and refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infifusion.errors import TokenizerError

SPACE_MARKER = "\u2581"
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class TokenTable:
    """Bytes of every token id of one tokenizer.

    bytes_V:    list of bytes; b"" for ids that name no token.
    special_V:  bool, tokens with a role (end of turn, padding, ...), which stand for no text of
                their own.
    added_V:    bool, tokens matched before the model sees the text, special or not.
    fallback_V: bool, `<0xNN>` tokens.
    kind:       "byte_level", "sentencepiece" or "plain".
    """

    bytes_V: list[bytes]
    special_V: NDArray[np.bool_]
    added_V: NDArray[np.bool_]
    fallback_V: NDArray[np.bool_]
    kind: str

    def __len__(self) -> int:
        return len(self.bytes_V)


def byte_level_alphabet() -> dict[str, int]:
    """Character -> byte of ByteLevel tokenizers (GPT-2): printable bytes stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + n): byte for n, byte in enumerate(others)})
    return alphabet


def token_table(tokenizer_json: dict[str, Any]) -> TokenTable:
    """The table of a `tokenizer.json` (Hugging Face tokenizers), already parsed.

    Raises TokenizerError for kinds whose tokens do not say which bytes they stand for (WordPiece,
    whose pieces drop the blanks between words).
    """
    kind = _kind(tokenizer_json)
    vocabulary = _vocabulary(tokenizer_json["model"])
    added = tokenizer_json.get("added_tokens", [])
    size = 1 + max([*vocabulary.values(), *(token["id"] for token in added)], default=-1)
    bytes_V: list[bytes] = [b""] * size
    fallback_V = np.zeros(size, dtype=bool)
    alphabet = byte_level_alphabet()
    for piece, index in vocabulary.items():
        byte_piece = BYTE_TOKEN.fullmatch(piece) if kind == "sentencepiece" else None
        if byte_piece:
            bytes_V[index] = bytes([int(byte_piece[1], 16)])
            fallback_V[index] = True
        elif kind == "byte_level":
            bytes_V[index] = _from_alphabet(piece, alphabet)
        elif kind == "sentencepiece":
            bytes_V[index] = piece.replace(SPACE_MARKER, " ").encode()
        else:
            bytes_V[index] = piece.encode()
    special_V, added_V = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    for token in added:
        bytes_V[token["id"]] = token["content"].encode()
        added_V[token["id"]] = True
        special_V[token["id"]] = bool(token.get("special"))
    return TokenTable(bytes_V, special_V, added_V, fallback_V, kind)


def byte_starts(table: TokenTable, ids: list[int], text: str) -> NDArray[np.int64]:
    """Byte at which each of n tokens starts in `text`, and the length of the text: [n + 1].

    `ids` must come from encoding `text` without added special tokens. SentencePiece's dummy
    prefix (a blank before the first word of a text, or after an added token, that is not in the
    text) has zero width. Raises TokenizerError where the tokens do not tile the text, saying at
    which byte.
    """
    data = text.encode()
    pieces = [table.bytes_V[i] for i in ids]
    starts = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in pieces], out=starts[1:])
    if b"".join(pieces) == data:
        return starts
    return _starts_with_dummy_prefixes(table, ids, pieces, data)


def _starts_with_dummy_prefixes(
    table: TokenTable, ids: list[int], pieces: list[bytes], data: bytes
) -> NDArray[np.int64]:
    """The slow road: one segment between added tokens at a time, each may have a dummy prefix."""
    starts = np.zeros(len(ids) + 1, dtype=np.int64)
    here, token = 0, 0
    while token < len(ids):
        last = token
        while last < len(ids) and not table.added_V[ids[last]]:
            last += 1
        segment = pieces[token:last]
        if last == token:
            segment, last = [pieces[token]], token + 1
        joined = b"".join(segment)
        dummy = 0
        if not _fits(data, here, joined, ends=last == len(ids)):
            if joined.startswith(b" ") and data.startswith(joined[1:], here):
                dummy = 1
            else:
                _refuse(segment, data, here)
        position = here
        for offset, piece in enumerate(segment):
            starts[token + offset] = position
            position += len(piece) - (dummy if offset == 0 else 0)
        here, token = position, last
    starts[len(ids)] = here
    if here != len(data):
        _refuse([], data, here)
    return starts


def _fits(data: bytes, here: int, joined: bytes, *, ends: bool) -> bool:
    return data.startswith(joined, here) and (not ends or here + len(joined) == len(data))


def _refuse(segment: list[bytes], data: bytes, here: int) -> None:
    position = here
    for piece in segment:
        if not data.startswith(piece, position):
            break
        position += len(piece)
    found = data[position : position + 20].decode(errors="replace")
    raise TokenizerError(
        f"The tokens do not tile the text: at byte {position} the text goes on with {found!r}, the "
        "tokens with something else. The tokenizer normalises its text (lower case, NFKC, dropped "
        "blanks) and cannot be aligned by bytes; use a model whose tokenizer keeps every byte, or "
        "normalise the data beforehand."
    )


def _kind(tokenizer_json: dict[str, Any]) -> str:
    """Which family the tokenizer belongs to, by its decoder and pre-tokenizer."""
    model_kind = tokenizer_json["model"].get("type")
    steps = str(tokenizer_json.get("decoder")) + str(tokenizer_json.get("pre_tokenizer"))
    if "'ByteLevel'" in steps:
        return "byte_level"
    if model_kind == "WordPiece" or "'WordPiece'" in steps:
        raise TokenizerError(
            "WordPiece tokenizers drop the blanks between words, so their tokens do not tile the "
            "text. Use a model with a ByteLevel or SentencePiece tokenizer."
        )
    normalizer = str(tokenizer_json.get("normalizer"))
    if "'Metaspace'" in steps or SPACE_MARKER in steps or SPACE_MARKER in normalizer:
        return "sentencepiece"
    return "plain"


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    """Piece -> id of a BPE, WordLevel or Unigram model."""
    vocabulary = model.get("vocab", {})
    if isinstance(vocabulary, list):  # Unigram: [[piece, score], ...]
        return {piece: index for index, (piece, _) in enumerate(vocabulary)}
    return vocabulary


def _from_alphabet(piece: str, alphabet: dict[str, int]) -> bytes:
    """Bytes of a ByteLevel piece; pieces outside the alphabet (added words) are plain text."""
    try:
        return bytes(alphabet[character] for character in piece)
    except KeyError:
        return piece.encode()
