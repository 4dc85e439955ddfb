"""A tokenizer's chat template: conversations as text, and what it cannot write refused by name."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from infifusion.data.abilities import USER, WORD, Abilities, abilities_of
from infifusion.errors import TokenizerError
from infifusion.recipe import SystemPlace
from infifusion.types import Message

Tools = Sequence[dict[str, Any]]


NEXT_TURN = Message(role="user", content="Please go on.")
"""What follows an answer, for templates that write the end of a turn with the next one."""


@dataclass
class Template:
    """One model's chat template.

    system: where system messages go: keep, merge_into_user or drop (recipe.Model.system).
    """

    tokenizer: PreTrainedTokenizerBase
    system: SystemPlace = "keep"

    @property
    def name(self) -> str:
        """The tokenizer's, for messages."""
        return str(self.tokenizer.name_or_path)

    @cached_property
    def abilities(self) -> Abilities:
        """What it can write; found once."""

        def render(turns: Sequence[dict[str, Any]], tools: Tools) -> str | None:
            try:
                text = self._apply([self._content(turn) for turn in turns], tools, ask=False)
            except Exception:  # jinja2 errors, the template's own, and what Python says of them
                return None
            return text if isinstance(text, str) else None

        return abilities_of(render)

    @cached_property
    def dated(self) -> bool:
        """Whether what is asked depends on the day it is asked."""

        def on(day: str) -> Any:
            today = f"{{% macro strftime_now(form) %}}{day}{{% endmacro %}}"
            with contextlib.suppress(Exception):
                template = today + self.tokenizer.get_chat_template()
                turns = [self._content(USER)]
                return self._apply(turns, (), ask=True, chat_template=template)
            return None

        return on("1 January") != on("2 February")

    def text(self, messages: Sequence[Message], *, ask: bool, tools: Tools = ()) -> str:
        """The conversation; ask: up to where the model is to answer.

        Raises TokenizerError, with what to do, where the template refuses it or would leave a part
        of it out: a system message, functions, their calls or results.
        """
        self._require(messages, tools)
        turns = self.turns(messages)
        try:
            text = self._apply(turns, tools, ask=ask)
        except Exception as error:  # jinja2 errors and the template's own raise_exception
            raise TokenizerError(
                f"The chat template of {self.name!r} cannot render a conversation with the roles "
                f"{[message['role'] for message in messages]}: {error}. Give the model a "
                "chat_template in the recipe."
            ) from error
        if not isinstance(text, str):
            raise TokenizerError(f"{self.name!r}: the chat template gives no text.")
        return text

    def answered(self, messages: Sequence[Message], *, tools: Tools = ()) -> str:
        """A conversation that ends with an answer, and at least what ends its turn. Some templates
        refuse that; it is then what they write up to the text of a user's next turn."""
        try:
            return self.text(messages, ask=False, tools=tools)
        except TokenizerError:
            with contextlib.suppress(TokenizerError):
                whole = self.text([*messages, NEXT_TURN], ask=False, tools=tools)
                return whole.rpartition(NEXT_TURN["content"])[0]
            raise

    def turns(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The messages as this template reads them, what `apply_chat_template` is to be given:
        system messages in their place, calls and contents in its form."""
        turns: list[dict[str, Any]] = [{**message} for message in self._placed(messages)]
        form = self.abilities.calls if any("tool_calls" in turn for turn in turns) else None
        if form is not None:
            turns = [form.turn(turn) if "tool_calls" in turn else turn for turn in turns]
            turns = _with_own_ids(turns) if form.own_ids else turns
        return [self._content(turn) for turn in turns]

    def _content(self, turn: dict[str, Any]) -> dict[str, Any]:
        text = turn.get("content")
        if not self._in_parts or not isinstance(text, str):
            return turn
        return {**turn, "content": [{"type": "text", "text": text}]}

    def _placed(self, messages: Sequence[Message]) -> list[Message]:
        """System messages kept, left out, or put before the text of the user's turn after them."""
        if self.system == "keep" or all(message["role"] != "system" for message in messages):
            return list(messages)
        if self.system == "drop":
            return [message for message in messages if message["role"] != "system"]
        placed: list[Message] = []
        said: list[str] = []
        for message in messages:
            if message["role"] == "system":
                said.append(message["content"])
                continue
            if said and message["role"] == "user":
                content = "\n\n".join([*said, message["content"]])
                message, said = Message(role="user", content=content), []
            placed.append(message)
        if said:
            raise TokenizerError(
                "system: merge_into_user finds no user's turn behind a system message. Say "
                "`system: drop` for this model, or leave the message out of the data."
            )
        return placed

    @cached_property
    def _in_parts(self) -> bool:
        """Whether the template reads content as a list of parts, as those of models that see
        pictures do: it drops a plain text, or fails on it."""
        for content in (WORD, [{"type": "text", "text": WORD}]):
            try:
                if WORD in self._apply([{"role": "user", "content": content}], (), ask=True):
                    return content != WORD
            except Exception:  # said where a conversation of the data fails in the same way
                continue
        return False

    def _apply(
        self, turns: Sequence[dict[str, Any]], tools: Tools, *, ask: bool, **variables: Any
    ) -> Any:
        return self.tokenizer.apply_chat_template(
            list(turns),
            tools=list(tools) or None,  # type: ignore[arg-type]
            tokenize=False,
            add_generation_prompt=ask,
            **variables,
        )

    def _require(self, messages: Sequence[Message], tools: Tools) -> None:
        """TokenizerError for what the template would leave out without a word."""
        roles = {message["role"] for message in messages}
        advice = "Give the model a chat_template in the recipe that does"
        if "system" in roles and self.system == "keep" and self.abilities.system != "written":
            does = "leaves out" if self.abilities.system == "left out" else "refuses"
            raise TokenizerError(
                f"The chat template of {self.name!r} {does} system messages. Say `system: "
                "merge_into_user` (before the text of the user's turn) or `system: drop` for this "
                "model in the recipe."
            )
        lacking = {
            "the functions that may be called (tools)": bool(tools) and not self.abilities.tools,
            "calls of functions (tool_calls)": any("tool_calls" in m for m in messages)
            and self.abilities.calls is None,
            "results of functions (role tool)": "tool" in roles and not self.abilities.results,
        }
        for what, lacks in lacking.items():
            if lacks:
                raise TokenizerError(
                    f"The chat template of {self.name!r} does not write {what}. {advice}, or leave "
                    "such examples out of the data."
                )


def _with_own_ids(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls numbered by ids of nine letters and digits, which Mistral's templates want, and the
    results with the ids of their calls."""
    known: dict[str, str] = {}
    waiting: list[str] = []
    done = []
    for turn in turns:
        if "tool_calls" in turn:
            waiting = []
            calls = []
            for call in turn["tool_calls"]:
                waiting.append(f"call{len(known):05d}")
                known[str(call.get("id", waiting[-1]))] = waiting[-1]
                calls.append({**call, "id": waiting[-1]})
            turn = {**turn, "tool_calls": calls}
        elif turn["role"] == "tool":
            own = known.get(str(turn.get("tool_call_id")))
            turn = {**turn, "tool_call_id": own or (waiting.pop(0) if waiting else "call00000")}
        done.append(turn)
    return done
