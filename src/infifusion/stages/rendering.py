"""Conversations as one model's tokens, with the byte at which each token starts, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedTokenizerBase

from infifusion.align.byte_spans import TokenTable, byte_starts, token_table
from infifusion.data.render import render, render_prompt
from infifusion.data.tokenize import Tokenized, tokenize
from infifusion.data.tokenizers import encode, leading_ids, tokenizer_json, tokenizer_of
from infifusion.errors import TokenizerError
from infifusion.process.bar import track
from infifusion.process.runtime import tokenizing_on_all_processors
from infifusion.recipe import Model
from infifusion.types import Example, Prompt

TOGETHER = 256
"""Examples tokenized at once."""
PROBE = "yes"
"""A response that every template leaves as it is."""


@dataclass(frozen=True)
class Renderer:
    """One model's tokenizer and chat template (or the plain one), ready for use."""

    tokenizer: PreTrainedTokenizerBase
    table: TokenTable
    plain_template: str

    @property
    def templated(self) -> bool:
        """Whether a chat template writes its conversations."""
        return bool(self.tokenizer.chat_template)

    def tokenize(self, examples: list[Example]) -> list[Tokenized]:
        """TokenizerError names the tokenizer and the example that does not fit."""
        conversations = [
            render(self.tokenizer, example, plain_template=self.plain_template)
            for example in examples
        ]
        with tokenizing_on_all_processors():  # nine tenths of what `prepare` does
            return tokenize(
                self.tokenizer,
                conversations,
                partial(byte_starts, self.table),
                templated=self.templated,
                names=[example.id for example in examples],
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
        """The tokens up to where each answer starts: what the model goes on from."""
        texts = [
            render_prompt(
                self.tokenizer, prompt.messages, name=prompt.id, plain_template=self.plain_template
            )
            for prompt in prompts
        ]
        before = [] if self.templated else leading_ids(self.tokenizer)
        return [[*before, *ids] for ids in encode(self.tokenizer, texts)]

    def end_ids(self, like: Prompt) -> list[int]:
        """The token that ends a turn after a prompt such as `like`, where it has no other use.

        A template may write a plain line break after an answer; that one ends nothing.
        """
        example = Example(like.id, like.domain, like.messages, PROBE)
        (done,) = self.tokenize_fitting([example])
        if done is None or done.ids[-1] >= len(self.table):
            return []
        return [int(done.ids[-1])] if self.table.added_V[done.ids[-1]] else []

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
    return Renderer(tokenizer, table, plain_template)


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
