"""Conversations as one model's tokens, with the byte at which each token starts, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from transformers import PreTrainedTokenizerBase

from infifusion.align.byte_spans import TokenTable, byte_starts, token_table
from infifusion.data.conversation import Conversation
from infifusion.data.render import Chat
from infifusion.data.template import Template
from infifusion.data.tokenize import Ends, Tokenized, ends_of, tokenize
from infifusion.data.tokenizers import encode, leading_ids, tokenizer_json, tokenizer_of
from infifusion.errors import DataError, TokenizerError
from infifusion.process.bar import track
from infifusion.process.runtime import tokenizing_on_all_processors
from infifusion.recipe import Model
from infifusion.teacher.load import stops_in_config
from infifusion.types import Example, Prompt

TOGETHER = 256
"""Examples tokenized at once."""
MOST_UNREADABLE = 0.01
"""Share of examples that may be left out because a model cannot be given them."""
SHOWN = 5
PROBE = "yes"
"""A response that every template leaves as it is."""


@dataclass(frozen=True)
class Renderer:
    """One model's tokenizer and its way to write conversations, ready for use.

    ends: where its turns end, by its generation config and its tokenizer.
    """

    chat: Chat
    table: TokenTable
    ends: Ends

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self.chat.tokenizer

    def tokenize_each(self, examples: list[Example]) -> list[Tokenized | str]:
        """Every example's tokens, or why this model cannot be given it."""
        done: list[Tokenized | str] = []
        for start in range(0, len(examples), TOGETHER):
            some = examples[start : start + TOGETHER]
            done += self._tokenize([(one, self._conversation(one)) for one in some])
        return done

    def tokenize_fitting(self, examples: list[Example]) -> list[Tokenized | None]:
        """As `tokenize_each`; None in the place of an example that does not fit."""
        return [None if isinstance(one, str) else one for one in self.tokenize_each(examples)]

    def _conversation(self, example: Example) -> Conversation | str:
        try:
            return self.chat.conversation(example)
        except (TokenizerError, DataError) as error:
            return f"{example.called}: {error}"

    def _tokenize(self, some: list[tuple[Example, Conversation | str]]) -> list[Tokenized | str]:
        """All at once; one by one where a text among them has no tokens that fit."""
        able = {n: (e, one) for n, (e, one) in enumerate(some) if isinstance(one, Conversation)}
        done: list[Tokenized | str] = [one if isinstance(one, str) else "" for _, one in some]
        try:
            with tokenizing_on_all_processors():  # nine tenths of what `prepare` does
                found = tokenize(
                    self.tokenizer,
                    [conversation for _, conversation in able.values()],
                    partial(byte_starts, self.table),
                    templated=self.chat.templated,
                    names=[example.called for example, _ in able.values()],
                    ends=self.ends,
                )
        except TokenizerError as error:
            if len(able) == 1:
                (place,) = able
                done[place] = str(error)
                return done
            return [self._tokenize([one])[0] for one in some]
        for place, one in zip(able, found, strict=True):
            done[place] = one
        return done

    def prompt_ids(self, prompts: list[Prompt]) -> list[list[int]]:
        """The tokens that the model goes on from, which are those of training. Blanks at the end of
        a plain prompt that the tokenizer melts into the first word of an answer are left for the
        model to write."""
        texts = [self.chat.prompt(prompt.messages, name=prompt.id) for prompt in prompts]
        if self.chat.templated:
            return encode(self.tokenizer, texts)
        before = leading_ids(self.tokenizer)
        return [[*before, *self._unmelted(text)] for text in texts]

    def _unmelted(self, text: str) -> list[int]:
        (whole,) = encode(self.tokenizer, [text + PROBE])
        ends = byte_starts(self.table, whole, text + PROBE)[1:]
        return whole[: int(np.searchsorted(ends, len(text.encode()), side="right"))]

    def asks(self, example: Example, done: Tokenized) -> bool:
        """Whether the prompt that is trained has the tokens that `apply_chat_template` gives."""
        if not self.chat.templated:
            return True
        asked = self.tokenizer.apply_chat_template(
            self.chat.template.turns(example.prompt),
            tools=list(example.tools) or None,  # type: ignore[arg-type]
            add_generation_prompt=True,
            return_dict=False,
        )
        return done.ids[: done.first].tolist() == asked

    def way_of(self, done: Tokenized) -> str:
        """What ends the turn of an example, as text."""
        return str(self.tokenizer.decode(done.ids[done.first :][done.starts == done.starts[-1]]))

    def around(self, like: Prompt) -> tuple[str, str, list[int]]:
        """(the text that the model writes before an answer to such a prompt: a blank, the name of a
        channel; the text behind it: a line break; the token at which it ends, by the model's
        template). Special tokens are no text."""
        example = Example(like.id, like.domain, like.messages, PROBE)
        (done,) = self.tokenize_fitting([example])
        if done is None:
            return "", "", []
        own, turn = done.ids[done.first :], done.starts == done.starts[-1]
        before = self.text_of(own[~turn].tolist()).removesuffix(PROBE)
        return before, self.text_of(own[turn].tolist()), [int(own[-1])]

    def text_of(self, ids: list[int]) -> str:
        """The text that generated tokens stand for, byte for byte; special tokens are no text.

        Bytes that are not UTF-8 become U+FFFD.
        """
        pieces = (
            self.table.bytes_V[i]
            for i in ids
            if i < len(self.table) and not self.table.special_V[i]
        )
        return b"".join(pieces).decode(errors="replace")


def open_renderer(model: Model, *, plain_template: str) -> Renderer:
    """Load the model's tokenizer. TokenizerError where its tokens do not say their bytes."""
    tokenizer = tokenizer_of(model)
    try:
        table = token_table(tokenizer_json(tokenizer))
    except TokenizerError as error:
        raise TokenizerError(f"{tokenizer.name_or_path}: {error}") from None
    ends = ends_of(tokenizer, stops_in_config(model))
    return Renderer(Chat(tokenizer, plain_template, model.system), table, ends)


def tokenize_examples(
    model: Model, examples: list[Example], *, plain_template: str, title: str
) -> list[Tokenized]:
    """Render with the model's chat template (or the plain one) and tokenize.

    Raises TokenizerError naming the tokenizer and the example that does not fit.
    """
    done = tokenize_each(model, examples, plain_template=plain_template, title=title)
    for one in done:
        if isinstance(one, str):
            raise TokenizerError(one)
    return [one for one in done if isinstance(one, Tokenized)]


def tokenize_each(
    model: Model, examples: list[Example], *, plain_template: str, title: str
) -> list[Tokenized | str]:
    """The same; in the place of an example that the model cannot be given the reason."""
    renderer = open_renderer(model, plain_template=plain_template)
    done: list[Tokenized | str] = []
    starts = range(0, len(examples), TOGETHER)
    for start in track(starts, title, len(starts)):
        done += renderer.tokenize_each(examples[start : start + TOGETHER])
    return done


def require_readable(done: Sequence[Tokenized | str], *, name: str, where: str) -> None:
    """TokenizerError where a model cannot be given more than a hundredth of some examples, with the
    reasons of five of them. name: pivot or a source; where: which examples."""
    reasons = [one for one in done if isinstance(one, str)]
    if len(reasons) <= MOST_UNREADABLE * len(done):
        return
    listed = "\n".join(f"  {reason}" for reason in reasons[:SHOWN])
    more = f"\n  and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    raise TokenizerError(
        f"{len(reasons)} of {len(done)} {where} cannot be given to {name}:\n{listed}{more}\n"
        f"Up to {MOST_UNREADABLE:.0%} would be left out and counted."
    )


def look_at_chat(renderer: Renderer, examples: Sequence[Example], *, where: str) -> list[str]:
    """How a model writes conversations, found out with these examples: its template, what ends a
    turn and what stops it, what its template can write, and what will be done about the rest.
    TokenizerError where it cannot be given more than a hundredth of them, or would be trained on
    other prompts than those that are asked."""
    done = renderer.tokenize_each(list(examples))
    require_readable(done, name=where, where="of the first examples")
    readable = [one for one in done if isinstance(one, Tokenized)]
    unequal = [
        example.called
        for example, one in zip(examples, done, strict=True)
        if isinstance(one, Tokenized) and not renderer.asks(example, one)
    ]
    if unequal:
        raise TokenizerError(
            f"the prompts of {len(unequal)} examples, first of {unequal[0]}, are not those of "
            "apply_chat_template. Give the model a chat_template in the recipe."
        )
    chat, template = renderer.chat, renderer.chat.template
    lines = []
    if chat.templated:
        lines.append(f"  chat      {where}: its chat template")
    else:
        lines.append(
            f"  chat      {where} has no chat template: data.plain_template, "
            f"{chat.plain_template!r}, unless {where}.chat_template is given"
        )
    ends = sorted({renderer.way_of(one) for one in readable})
    stops = [str(renderer.tokenizer.decode([token])) for token in sorted(renderer.ends.stops)]
    if ends:
        lines.append(f"            a turn ends with {_quoted(ends)}")
        lasts = {int(one.ids[-1]) for one in readable} - renderer.ends.stops
        also = ", and once trained there, too" if lasts else ""
        lines[-1] += f"; generation stops at {_quoted(stops) or 'nothing'}{also}"
    if chat.templated:
        lines += [f"            {line}" for line in _abilities(template)]
    left_out = len(done) - len(readable)
    unreasoned = sum(one.unreasoned for one in readable)
    lines.append(
        f"            {len(readable)} of the first {len(done)} examples render"
        + (", their prompts as apply_chat_template writes them" if chat.templated else "")
        + (f"; {left_out} would be left out" if left_out else "")
        + (f"; {unreasoned} would be learnt without their reasoning" if unreasoned else "")
    )
    return lines


def _abilities(template: Template) -> list[str]:
    """What a template can write, in words."""
    can = template.abilities
    placed = {"merge_into_user": "put before the user's text", "drop": "dropped"}
    system = placed.get(template.system, can.system)
    functions = {"tools": can.tools, "calls": can.calls is not None, "results": can.results}
    able = [name for name, is_able in functions.items() if is_able]
    lines = [
        f"system messages: {system}; functions: "
        + (", ".join(able) if able else "none")
        + ("" if all(functions.values()) or not able else " alone")
    ]
    if template.dated:
        lines.append("what is asked holds today's date; chat_template_date pins it to a day")
    return lines


def _quoted(texts: Sequence[str]) -> str:
    return ", ".join(map(repr, texts))
