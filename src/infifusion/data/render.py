"""Conversations as text: each model's own chat template, and where the response stands in it.

What is trained is what will be asked and answered: the text that the template writes when it asks
for an answer (`add_generation_prompt=True`), then what the model writes itself before the response
(the lead: a blank, the name of a channel, the end of an empty reasoning block), the response, and
what the template writes behind it. Where the template writes an answered conversation differently
(as those do that leave reasoning out of the history) its prompt is still the one that is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from infifusion.errors import DataError, TokenizerError
from infifusion.types import Example, Message

PROBES = ("yes", "Certainly 7.")
"""Responses that every template leaves as they are."""
NEXT_TURN = Message(role="user", content="Please go on.")
"""What follows an answer, for templates that write the end of a turn with the next one."""
OPEN_REASONING = re.compile(r"<think>(?!.*</think>)\s*\Z", re.DOTALL)
"""A prompt that ends inside a block of reasoning."""
CLOSE_REASONING = "</think>\n\n"


@dataclass(frozen=True)
class Conversation:
    """One example as one model's text.

    text:   the whole conversation, with what the template writes behind the response.
    prompt, asked: bytes and characters of `text` that are asked; what follows is the model's own.
    start, end: bytes of `text` between which the response stands.
    lead:   bytes of the response that the template stripped from its front.
    length: bytes of the whole response.
    next_turn: what would follow the response where the conversation went on.
    """

    text: str
    start: int
    end: int
    lead: int
    length: int
    prompt: int
    asked: int
    next_turn: str = ""


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


@dataclass
class Chat:
    """One model's way to write conversations: its tokenizer's chat template, or the plain one."""

    tokenizer: PreTrainedTokenizerBase
    plain_template: str = "{prompt}{response}"

    @property
    def templated(self) -> bool:
        """Whether there is a chat template."""
        return bool(self.tokenizer.chat_template)

    @cached_property
    def _frames(self) -> dict[tuple[str, ...], Frame]:
        return {}

    def prompt(self, messages: Sequence[Message], *, name: str) -> str:
        """The text that is asked; `name` is the example's, for errors.

        Raises TokenizerError where the template cannot render the conversation, DataError where
        the plain template leaves nothing.
        """
        if self.templated:
            return self._apply(messages, ask=True)
        prompt = "\n\n".join(message["content"] for message in messages)
        prefix = self.plain_template.removesuffix("{response}").replace("{prompt}", prompt)
        if not prefix:
            raise DataError(
                f"{name} has an empty prompt: nothing predicts its first token. Remove it, or "
                "let data.plain_template put something before {response}."
            )
        return prefix

    def frame(self, messages: Sequence[Message]) -> Frame:
        """What stands around a response to such a conversation. The same for all conversations
        of the same roles, so that it is found once for each."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._frames:
            self._frames[roles] = self._find_frame(messages)
        return self._frames[roles]

    def conversation(self, example: Example) -> Conversation:
        """The example as this model's text.

        Raises TokenizerError where the template changes the response.
        """
        prompt = self.prompt(example.prompt, name=example.id)
        length = len(example.response.encode())
        if not self.templated:
            start = len(prompt.encode())
            return Conversation(
                text=prompt + example.response,
                start=start,
                end=start + length,
                lead=0,
                length=length,
                prompt=start,
                asked=len(prompt),
            )
        answer = Message(role="assistant", content=example.response)
        whole = self._apply([*example.prompt, answer], ask=False)
        for frame in self._frames_of(example):
            response = self._kept_response(whole, prompt, example.response, frame)
            if response is not None:
                break
        else:
            shown = whole[len(prompt) :] if whole.startswith(prompt) else whole[-80:]
            raise TokenizerError(
                f"{example.id}: the chat template changes the response: expected "
                f"{example.response[:40]!r}, found {shown[:40]!r}. Give the model a chat_template "
                "in the recipe that writes the response as it is."
            )
        start = len((prompt + frame.before).encode())
        stripped = len(example.response) - len(example.response.lstrip())
        return Conversation(
            text=prompt + frame.before + response + frame.behind,
            start=start,
            end=start + len(response.encode()),
            lead=0 if response == example.response else len(example.response[:stripped].encode()),
            length=length,
            prompt=len(prompt.encode()),
            asked=len(prompt),
            next_turn=frame.next_turn,
        )

    def _frames_of(self, example: Example) -> Iterator[Frame]:
        """The frame of its roles; its own, should its text be written otherwise; and that without
        what stands before, where a response brings its reasoning along in place of an empty one."""
        try:
            yield self.frame(example.prompt)
            own = self._find_frame(example.prompt)
        except TokenizerError as error:
            raise TokenizerError(f"{example.id}: {error}") from error
        yield own
        yield replace(own, before="")

    def _kept_response(self, whole: str, prompt: str, response: str, frame: Frame) -> str | None:
        """The response as the template writes it: as it is, or without blanks around it."""
        if not whole.endswith(frame.behind):
            return None
        body = whole[: len(whole) - len(frame.behind)]
        for kept in (response, response.rstrip(), response.lstrip(), response.strip()):
            expected = prompt + frame.before + kept
            if body == expected or (frame.rewritten and body.endswith(kept)):
                return kept
        return None

    def _find_frame(self, messages: Sequence[Message]) -> Frame:
        """Render with two responses that are known, and see what is the same around them."""
        prompt = self._apply(messages, ask=True)
        found = []
        for probe in PROBES:
            answered = [*messages, Message(role="assistant", content=probe)]
            whole = self._apply(answered, ask=False)
            place = whole.rfind(probe)
            if place < 0:
                raise TokenizerError(
                    f"The chat template of {self.tokenizer.name_or_path!r} changes the response, "
                    f"or leaves it out: {probe!r} is not in {whole[-80:]!r}. Give the model a "
                    "chat_template in the recipe that writes it as it is."
                )
            behind = whole[place + len(probe) :]
            if whole.startswith(prompt):
                found.append(Frame(whole[len(prompt) : place], behind, "", rewritten=False))
            else:
                found.append(Frame(_closing(prompt), behind, "", rewritten=True))
        first, second = found
        if first != second:
            raise TokenizerError(
                f"The chat template of {self.tokenizer.name_or_path!r} writes other text around "
                f"each answer ({first.before + first.behind!r}, {second.before + second.behind!r})"
                ", so that no end of a turn can be learnt. Give the model a chat_template in the "
                "recipe."
            )
        return Frame(first.before, first.behind, self._next_turn(messages), first.rewritten)

    def _next_turn(self, messages: Sequence[Message]) -> str:
        """What the template writes between an answer and the text of a user's next turn; nothing
        where it refuses that."""
        answered = [*messages, Message(role="assistant", content=PROBES[1]), NEXT_TURN]
        try:
            whole = self._apply(answered, ask=False)
        except TokenizerError:
            return ""
        after = whole.rpartition(PROBES[1])[2] if PROBES[1] in whole else ""
        return after.partition(NEXT_TURN["content"])[0]

    @cached_property
    def _in_parts(self) -> bool:
        """Whether the template reads content as a list of parts, as those of models that see
        pictures do: it drops a plain text, or fails on it."""
        probe = [Message(role="user", content=PROBES[1])]
        for in_parts in (False, True):
            try:
                if PROBES[1] in self._render(probe, ask=True, in_parts=in_parts):
                    return in_parts
            except Exception:  # said where a conversation of the data fails in the same way
                continue
        return False

    def _apply(self, messages: Sequence[Message], *, ask: bool) -> str:
        try:
            text = self._render(messages, ask=ask, in_parts=self._in_parts)
        except Exception as error:  # jinja2 errors and the template's own raise_exception
            raise TokenizerError(
                f"The chat template of {self.tokenizer.name_or_path!r} cannot render a "
                f"conversation with the roles {[m['role'] for m in messages]}: {error}. Give the "
                "model a chat_template in the recipe."
            ) from error
        if not isinstance(text, str):
            raise TokenizerError(
                f"{self.tokenizer.name_or_path!r}: the chat template gives no text."
            )
        return text

    def _render(self, messages: Sequence[Message], *, ask: bool, in_parts: bool) -> Any:
        def content(message: Message) -> Any:
            text = message["content"]
            return [{"type": "text", "text": text}] if in_parts else text

        return self.tokenizer.apply_chat_template(
            [{"role": m["role"], "content": content(m)} for m in messages],
            tokenize=False,
            add_generation_prompt=ask,
        )


def _closing(prompt: str) -> str:
    """What ends the block of reasoning that a prompt leaves open: an answer without reasoning
    closes it at once."""
    if not OPEN_REASONING.search(prompt):
        return ""
    return CLOSE_REASONING if prompt.endswith("\n") else f"\n{CLOSE_REASONING}"
