"""Examples as one model's tokens, with the byte at which each token starts."""

from __future__ import annotations

from functools import partial

from infifusion.align.byte_spans import byte_starts, token_table
from infifusion.data.render import render
from infifusion.data.tokenize import Tokenized, tokenize
from infifusion.data.tokenizers import load_tokenizer, tokenizer_json
from infifusion.errors import TokenizerError
from infifusion.recipe import Model
from infifusion.runtime import track
from infifusion.types import Example

TOGETHER = 256
"""Examples tokenized at once."""


def tokenize_examples(
    model: Model, examples: list[Example], *, plain_template: str, title: str
) -> list[Tokenized]:
    """Render with the model's chat template (or the plain one) and tokenize.

    Raises TokenizerError naming the tokenizer and the example that does not fit.
    """
    tokenizer = load_tokenizer(
        model.tokenizer or model.model,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
    )
    try:
        table = token_table(tokenizer_json(tokenizer))
    except TokenizerError as error:
        raise TokenizerError(f"{tokenizer.name_or_path}: {error}") from None
    done: list[Tokenized] = []
    starts = range(0, len(examples), TOGETHER)
    for start in track(starts, title, len(starts)):
        some = examples[start : start + TOGETHER]
        conversations = [
            render(
                tokenizer,
                example,
                chat_template=model.chat_template,
                plain_template=plain_template,
            )
            for example in some
        ]
        done += tokenize(
            tokenizer,
            conversations,
            partial(byte_starts, table),
            templated=bool(model.chat_template or tokenizer.chat_template),
            names=[example.id for example in some],
        )
    return done
