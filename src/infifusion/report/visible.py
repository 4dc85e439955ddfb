"""Text of data and models made fit to be shown: nothing hidden in it, and not too long."""

from __future__ import annotations

import re

HIDDEN = re.compile(
    "["
    "\u0000-\u0008\u000b-\u001f\u007f-\u009f"  # controls, but for tab and line break
    "\u00ad\u061c\u180e"  # soft hyphen, Arabic letter mark, Mongolian vowel separator
    "\u200b\u200e\u200f\u2028-\u202e"  # zero width space, marks and embeddings of direction
    "\u2060-\u206f\ufeff\ufff9-\ufffb"  # isolates, byte order mark, interlinear annotation
    "\ud800-\udfff"  # half of a pair, which no file in UTF-8 can hold
    "\U000e0000-\U000e007f"  # tags
    "]"
)
"""What a reader would not see, or what would make the rest of a line read otherwise. Joiners
(U+200C, U+200D) stay: scripts and emoji need them."""


LONGEST_TEXT = 1500


def visible(text: str) -> str:
    """The text with every such character written as ⟨U+202E⟩."""
    return HIDDEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def cut(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text, without its middle where it is long; how much is left out stands there."""
    if len(text) <= longest:
        return text
    half = longest // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[… {left_out} characters left out …]\n{text[-half:]}"
