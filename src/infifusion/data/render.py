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

from transformers import PreTrainedTokenizerBase

from infifusion.data.conversation import Conversation, Frame
from infifusion.data.template import NEXT_TURN, Template, Tools
from infifusion.data.turns import (
    in_bytes,
    left_out,
    parts_of,
    shared_runs,
    split_reasoning,
    written,
)
from infifusion.errors import DataError, TokenizerError
from infifusion.recipe import SystemPlace
from infifusion.types import Example, Message

PROBES = ("yes", "Certainly 7.")
"""Responses that every template leaves as they are."""
OPEN_REASONING = re.compile(r"<think>(?!.*</think>)\s*\Z", re.DOTALL)
"""A prompt that ends inside a block of reasoning."""
CLOSE_REASONING = "</think>\n\n"


@dataclass
class Chat:
    """One model's way to write conversations: its tokenizer's chat template, or the plain one.

    system: where system messages go (recipe.Model.system).
    """

    tokenizer: PreTrainedTokenizerBase
    plain_template: str = "{prompt}{response}"
    system: SystemPlace = "keep"

    @property
    def templated(self) -> bool:
        """Whether there is a chat template."""
        return bool(self.tokenizer.chat_template)

    @cached_property
    def template(self) -> Template:
        """The chat template, ready for use."""
        return Template(self.tokenizer, self.system)

    @cached_property
    def _frames(self) -> dict[tuple[str, ...], Frame]:
        return {}

    def prompt(self, messages: Sequence[Message], *, name: str, tools: Tools = ()) -> str:
        """The text that is asked; `name` is the example's, for errors.

        Raises TokenizerError where the template cannot render the conversation, DataError where
        the plain template leaves nothing.
        """
        if self.templated:
            return self.template.text(messages, ask=True, tools=tools)
        if tools:
            raise TokenizerError(
                f"{name} has functions that may be called (tools), and "
                f"{self.tokenizer.name_or_path!r} has no chat template to write them. Give the "
                "model a chat_template in the recipe, or leave such examples out of the data."
            )
        shown = [m for m in messages if m["role"] != "system" or self.system != "drop"]
        prompt = "\n\n".join(written(message) for message in shown)
        prefix = self.plain_template.removesuffix("{response}").replace("{prompt}", prompt)
        if not prefix:
            raise DataError(
                f"{name} has an empty prompt: nothing predicts its first token. Remove it, or "
                "let data.plain_template put something before {response}."
            )
        return prefix

    def frame(self, messages: Sequence[Message], tools: Tools = ()) -> Frame:
        """What stands around a response to such a conversation. The same for all conversations
        of the same roles, so that it is found once for each."""
        roles = (*(message["role"] for message in messages), "with tools" if tools else "")
        if roles not in self._frames:
            self._frames[roles] = self._find_frame(messages, tools)
        return self._frames[roles]

    def conversation(self, example: Example) -> Conversation:
        """The example as this model's text.

        Raises TokenizerError where the template changes the response, or leaves a part of it out.
        """
        prompt = self.prompt(example.prompt, name=example.id, tools=example.tools)
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
        if example.answer is not None:
            return self._own_writing(example, prompt, example.answer)
        answer = Message(role="assistant", content=example.response)
        whole = self.template.answered([*example.prompt, answer], tools=example.tools)
        for frame in self._frames_of(example):
            response = self._kept_response(whole, prompt, example.response, frame)
            if response is not None:
                break
        else:
            reasoned = split_reasoning(example.response)
            if reasoned is not None:
                return self._own_writing(example, prompt, reasoned)
            shown = whole[len(prompt) :] if whole.startswith(prompt) else whole[-80:]
            raise TokenizerError(
                f"the chat template changes the response: expected "
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

    def _own_writing(self, example: Example, prompt: str, answer: Message) -> Conversation:
        """An answer that each template writes in its own way: everything behind the prompt."""
        frame = self.frame(example.prompt, example.tools)
        body, behind = self._behind_prompt(example, prompt, answer, frame)
        before = frame.before if body.startswith(frame.before) else ""
        reasoning = answer.get("reasoning_content", "")
        unreasoned = bool(reasoning) and reasoning not in body
        if unreasoned and OPEN_REASONING.search(prompt):
            # The prompt opens the block: what goes on from there is the reasoning, whatever the
            # template makes of it in a history.
            rest = body.removeprefix(before)
            before, unreasoned = "", False
            body = f"{reasoning.rstrip()}\n{CLOSE_REASONING}{rest}"
        lacks = left_out(answer, body)
        if lacks is not None:
            raise TokenizerError(
                f"the chat template of {self.template.name!r} leaves out {lacks}. "
                "Give the model a chat_template in the recipe that writes it, or leave such "
                "examples out of the data."
            )
        text, start = prompt + body + behind, len((prompt + before).encode())
        own = body[len(before) :]
        runs = in_bytes(shared_runs(example.response, own, parts_of(answer)), example.response, own)
        return Conversation(
            text=text,
            start=start,
            end=start + len(own.encode()),
            lead=0,
            length=len(example.response.encode()),
            prompt=len(prompt.encode()),
            asked=len(prompt),
            next_turn=frame.next_turn,
            shared=tuple(run._replace(own=run.own + start) for run in runs),
            own_end=behind != frame.behind,
            unreasoned=unreasoned,
        )

    def _behind_prompt(
        self, example: Example, prompt: str, answer: Message, frame: Frame
    ) -> tuple[str, str]:
        """(what the template writes behind the prompt for this answer, what ends the turn)."""
        whole = self.template.answered([*example.prompt, answer], tools=example.tools)
        if whole.startswith(prompt):
            rest = whole[len(prompt) :]
        else:  # what differs from the conversation with an answer that is known
            known = [*example.prompt, Message(role="assistant", content=PROBES[0])]
            other = self.template.answered(known, tools=example.tools)
            pairs = enumerate(zip(whole, other, strict=False))
            differs = next((place for place, (one, two) in pairs if one != two), len(other))
            rest = frame.before + whole[min(differs, other.rfind(PROBES[0])) :]
        if frame.behind and rest.endswith(frame.behind):
            return rest.removesuffix(frame.behind), frame.behind
        marks = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
        for mark in sorted(marks, key=len, reverse=True):
            if mark.strip() and rest.rstrip().endswith(mark):
                place = rest.rindex(mark)
                return rest[:place], rest[place:]
        if not frame.behind:
            return rest, ""
        raise TokenizerError(
            f"the chat template of {self.template.name!r} writes nothing behind "
            f"{rest[-40:]!r} that ends a turn. Give the model a chat_template in the recipe."
        )

    def _frames_of(self, example: Example) -> Iterator[Frame]:
        """The frame of its roles; its own, should its text be written otherwise; and that without
        what stands before, where a response brings its reasoning along in place of an empty one."""
        yield self.frame(example.prompt, example.tools)
        own = self._find_frame(example.prompt, example.tools)
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

    def _find_frame(self, messages: Sequence[Message], tools: Tools) -> Frame:
        """Render with two responses that are known, and see what is the same around them."""
        prompt = self.template.text(messages, ask=True, tools=tools)
        found = []
        for probe in PROBES:
            answered = [*messages, Message(role="assistant", content=probe)]
            whole = self.template.answered(answered, tools=tools)
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
        return Frame(first.before, first.behind, self._next_turn(messages, tools), first.rewritten)

    def _next_turn(self, messages: Sequence[Message], tools: Tools) -> str:
        """What the template writes between an answer and the text of a user's next turn; nothing
        where it refuses that."""
        answered = [*messages, Message(role="assistant", content=PROBES[1]), NEXT_TURN]
        try:
            whole = self.template.text(answered, ask=False, tools=tools)
        except TokenizerError:
            return ""
        after = whole.rpartition(PROBES[1])[2] if PROBES[1] in whole else ""
        return after.partition(NEXT_TURN["content"])[0]


def _closing(prompt: str) -> str:
    """What ends the block of reasoning that a prompt leaves open: an answer without reasoning
    closes it at once."""
    if not OPEN_REASONING.search(prompt):
        return ""
    return CLOSE_REASONING if prompt.endswith("\n") else f"\n{CLOSE_REASONING}"
