"""Conversations as one model's tokens, with the byte at which each token starts, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from transformers import PreTrainedTokenizerBase

from infifusion.align.byte_spans import TokenTable, byte_starts, token_table
from infifusion.data.render import Chat
from infifusion.data.tokenize import Ends, Tokenized, ends_of, tokenize
from infifusion.data.tokenizers import encode, leading_ids, tokenizer_json, tokenizer_of
from infifusion.errors import TokenizerError
from infifusion.process.bar import track
from infifusion.process.runtime import tokenizing_on_all_processors
from infifusion.recipe import Model
from infifusion.teacher.load import stops_in_config
from infifusion.types import Example, Prompt

TOGETHER = 256
"""Examples tokenized at once."""
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

    def tokenize(self, examples: list[Example]) -> list[Tokenized]:
        """TokenizerError names the tokenizer and the example that does not fit."""
        conversations = [self.chat.conversation(example) for example in examples]
        with tokenizing_on_all_processors():  # nine tenths of what `prepare` does
            return tokenize(
                self.tokenizer,
                conversations,
                partial(byte_starts, self.table),
                templated=self.chat.templated,
                names=[example.id for example in examples],
                ends=self.ends,
            )

    def tokenize_fitting(self, examples: list[Example]) -> list[Tokenized | None]:
        """As `tokenize`; None in the place of an example that does not fit."""
        done: list[Tokenized | None] = []
        for start in range(0, len(examples), TOGETHER):
            some = examples[start : start + TOGETHER]
            try:
                done += self.tokenize(some)
            except TokenizerError:
                done += [self._tokenize_one(example) for example in some]
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

    def end_ids(self, like: Prompt) -> list[int]:
        """The token at which an answer to a prompt such as `like` ends, by the model's template."""
        example = Example(like.id, like.domain, like.messages, PROBE)
        (done,) = self.tokenize_fitting([example])
        return [] if done is None else [int(done.ids[-1])]

    def around(self, like: Prompt) -> tuple[str, str]:
        """The text that the model writes before and behind an answer to such a prompt: a blank, the
        name of a channel, a line break before the end of the turn. Special tokens are no text."""
        example = Example(like.id, like.domain, like.messages, PROBE)
        (done,) = self.tokenize_fitting([example])
        if done is None:
            return "", ""
        own, turn = done.ids[done.first :], done.starts == done.starts[-1]
        before = self.text_of(own[~turn].tolist()).removesuffix(PROBE)
        return before, self.text_of(own[turn].tolist())

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

    def _tokenize_one(self, example: Example) -> Tokenized | None:
        try:
            return self.tokenize([example])[0]
        except TokenizerError:
            return None


def open_renderer(model: Model, *, plain_template: str) -> Renderer:
    """Load the model's tokenizer. TokenizerError where its tokens do not say their bytes."""
    tokenizer = tokenizer_of(model)
    try:
        table = token_table(tokenizer_json(tokenizer))
    except TokenizerError as error:
        raise TokenizerError(f"{tokenizer.name_or_path}: {error}") from None
    ends = ends_of(tokenizer, stops_in_config(model))
    return Renderer(Chat(tokenizer, plain_template), table, ends)


def tokenize_examples(
    model: Model, examples: list[Example], *, plain_template: str, title: str
) -> list[Tokenized]:
    """Render with the model's chat template (or the plain one) and tokenize.

    Raises TokenizerError naming the tokenizer and the example that does not fit.
    """
    renderer = open_renderer(model, plain_template=plain_template)
    done: list[Tokenized] = []
    starts = range(0, len(examples), TOGETHER)
    for start in track(starts, title, len(starts)):
        done += renderer.tokenize(examples[start : start + TOGETHER])
    return done
