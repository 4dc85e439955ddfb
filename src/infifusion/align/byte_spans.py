"""Which bytes of a text each token stands for.

A tokenizer's vocabulary is turned into a table id -> bytes (ByteLevel: the inverse of its
byte-to-character map; SentencePiece: the marker U+2581 is a space and `<0xNN>` one byte), and the
spans of a text are the running lengths of its tokens. The spans must tile the text byte for byte;
a tokenizer that normalises its text (lower case, NFKC) is refused.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infifusion.errors import TokenizerError
from infifusion.rows import compiled

SPACE_MARKER = "\u2581"
BLANK = ord(" ")
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

    @cached_property
    def flat(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """All bytes end to end, and where those of each id begin: [V + 1]."""
        begin_V1 = np.zeros(len(self) + 1, np.int64)
        np.cumsum([len(piece) for piece in self.bytes_V], out=begin_V1[1:])
        return np.frombuffer(b"".join(self.bytes_V) or b"\0", np.uint8), begin_V1


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
    id_T = np.asarray(ids, np.int64)
    starts = np.zeros(len(id_T) + 1, np.int64)
    flat, begin_V1 = table.flat
    text_bytes = np.frombuffer(data or b"\0", np.uint8)
    done = _tile(id_T, flat, begin_V1, table.added_V, text_bytes, len(data), starts)
    if done < len(id_T) or starts[-1] != len(data):
        last = done
        while last < len(ids) and not table.added_V[ids[last]]:
            last += 1
        segment = [table.bytes_V[i] for i in ids[done : max(last, done + 1)]]
        _refuse(segment, data, int(starts[done]))
    return starts


@compiled
def _tile(id_T, flat, begin_V1, added_V, data, size, starts):
    """Lay the tokens over the text, one segment between added tokens at a time; each may have a
    dummy prefix. Returns the first token of the segment that does not fit, or the number of
    tokens; starts[that] is where it would begin."""
    here, token = 0, 0
    while token < len(id_T):
        last = token
        while last < len(id_T) and not added_V[id_T[last]]:
            last += 1
        last = max(last, token + 1)
        end = _lay(id_T, token, last, flat, begin_V1, data, size, starts, here, 0)
        if end < 0 or (last == len(id_T) and end != size):
            end = _lay(id_T, token, last, flat, begin_V1, data, size, starts, here, 1)
            if end < 0:
                starts[token] = here
                return token
        here, token = end, last
    starts[len(id_T)] = here
    return len(id_T)


@compiled
def _lay(id_T, first, last, flat, begin_V1, data, size, starts, here, dummy):
    """The byte after tokens [first, last) laid from byte `here` on, or -1 where they do not fit.
    dummy 1: the first of them begins with a blank that is not in the text."""
    for t in range(first, last):
        begin, end = begin_V1[id_T[t]], begin_V1[id_T[t] + 1]
        starts[t] = here
        if t == first and dummy:
            if end == begin or flat[begin] != BLANK:
                return -1
            begin += 1
        if here + end - begin > size:
            return -1
        for place in range(begin, end):
            if flat[place] != data[here]:
                return -1
            here += 1
    return here


def _refuse(segment: list[bytes], data: bytes, here: int) -> None:
    position = here
    for number, piece in enumerate(segment):
        if number == 0 and not data.startswith(piece, position):
            piece = piece.removeprefix(b" ")  # a dummy prefix
        if not data.startswith(piece, position):
            break
        position += len(piece)
    goes_on = data[position : position + 20].decode(errors="replace")
    around = data[max(position - 12, here) : position + 24].decode(errors="ignore")
    raise TokenizerError(
        f"The tokens do not tile the text: at byte {position} the text goes on with {goes_on!r}, "
        f"the tokens with something else. {_why(around)}"
    )


def _why(around: str) -> str:
    """What a tokenizer has made of a text that its tokens do not spell, and what to do."""
    if "\u2581" in around:
        return (
            "The text holds '\u2581' (U+2581), by which SentencePiece tokenizers write a blank. "
            "Replace it in the data."
        )
    forms = {form: unicodedata.normalize(form, around) for form in ("NFC", "NFKC")}
    for form, written in forms.items():
        if written != around:
            kinds = "combining marks" if form == "NFC" else "forms of characters"
            return (
                f"The text holds {kinds} that the tokenizer's normalizer ({form}) rewrites. Write "
                f"the data in that form: unicodedata.normalize({form!r}, text)."
            )
    return (
        "The tokenizer normalises its text (lower case, dropped blanks or characters) and cannot "
        "be aligned by bytes; use a model whose tokenizer keeps every byte, or normalise the data "
        "beforehand."
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
