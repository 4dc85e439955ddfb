"""One example as one model's text, and what stands around a response."""

from __future__ import annotations

from dataclasses import dataclass

from infifusion.data.turns import Run


@dataclass(frozen=True)
class Conversation:
    """One example as one model's text.

    text:   the whole conversation, with what the template writes behind the response.
    prompt, asked: bytes and characters of `text` that are asked; what follows is the model's own.
    start, end: bytes of `text` between which the response stands.
    lead:   bytes of the response that the template stripped from its front.
    length: bytes of the whole response.
    next_turn: what would follow the response where the conversation went on.
    shared: where the model writes the response in its own way, the runs of bytes that its text has
        in common with the response; None where the response stands in the text as it is.
    own_end: the turn ends otherwise than a plain answer does.
    unreasoned: the template leaves out the reasoning that the response begins with.
    """

    text: str
    start: int
    end: int
    lead: int
    length: int
    prompt: int
    asked: int
    next_turn: str = ""
    shared: tuple[Run, ...] | None = None
    own_end: bool = False
    unreasoned: bool = False


@dataclass(frozen=True)
class Frame:
    """What a template writes around a response.

    before: between the prompt and the response; the model has to write it by itself.
    behind: after the response, to the end of the conversation.
    next_turn: between the response and the text of a user's turn that follows.
    rewritten: the answered conversation does not begin with the prompt that was asked.
    """

    before: str
    behind: str
    next_turn: str
    rewritten: bool
