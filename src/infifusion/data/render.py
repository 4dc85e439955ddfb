"""Conversations as text: each model's own chat template, and where the response stands in it.

The response is found by rendering the conversation twice, up to the response and whole, never by
searching for separators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from infifusion.errors import DataError, TokenizerError
from infifusion.types import Example, Message


@dataclass(frozen=True)
class Conversation:
    """One example as one model's text.

    text:   the whole conversation.
    start, end: bytes of `text` between which the response stands.
    lead:   bytes of the response that the template stripped from its front.
    length: bytes of the whole response.
    """

    text: str
    start: int
    end: int
    lead: int
    length: int


def render(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    *,
    plain_template: str,
) -> Conversation:
    """Render with the tokenizer's chat template, else `plain_template`.

    Raises TokenizerError when the template changes the response, or writes the conversation
    before it differently once the response is known.
    """
    prefix = render_prompt(
        tokenizer, example.prompt, name=example.id, plain_template=plain_template
    )
    if not tokenizer.chat_template:
        start = len(prefix.encode())
        length = len(example.response.encode())
        text = prefix + example.response
        return Conversation(text, start, start + length, lead=0, length=length)
    answer = Message(role="assistant", content=example.response)
    whole = _apply(tokenizer, [*example.prompt, answer], prompt_only=False)
    if not whole.startswith(prefix):
        raise TokenizerError(
            f"{example.id}: the chat template writes the conversation before the response "
            f"differently once the response is there ({prefix[-40:]!r} is not how "
            f"{whole[: len(prefix)][-40:]!r} begins). Give the model a chat_template in the recipe "
            "that does not (for instance one without an empty reasoning block)."
        )
    for response in (example.response, example.response.strip()):
        if whole.startswith(response, len(prefix)):
            start = len(prefix.encode())
            lead = len(example.response) - len(example.response.lstrip())
            lead_bytes = len(example.response[:lead].encode())
            return Conversation(
                text=whole,
                start=start,
                end=start + len(response.encode()),
                lead=0 if response == example.response else lead_bytes,
                length=len(example.response.encode()),
            )
    raise TokenizerError(
        f"{example.id}: the chat template changes the response: expected "
        f"{example.response[:40]!r}, found {whole[len(prefix) :][:40]!r}. Give the model a "
        "chat_template in the recipe that writes the response as it is."
    )


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    name: str,
    plain_template: str,
) -> str:
    """The text up to where the response starts; `name` is the example's, for errors."""
    if tokenizer.chat_template:
        return _apply(tokenizer, messages, prompt_only=True)
    prompt = "\n\n".join(message["content"] for message in messages)
    prefix = plain_template.removesuffix("{response}").replace("{prompt}", prompt)
    if not prefix:
        raise DataError(
            f"{name} has an empty prompt: nothing predicts its first token. Remove it, or "
            "let data.plain_template put something before {response}."
        )
    return prefix


def _apply(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, prompt_only: bool
) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [{"role": m["role"], "content": m["content"]} for m in messages],
            tokenize=False,
            add_generation_prompt=prompt_only,
        )
    except Exception as error:  # jinja2 errors and the template's own raise_exception
        raise TokenizerError(
            f"The chat template of {tokenizer.name_or_path!r} cannot render a conversation with "
            f"the roles {[m['role'] for m in messages]}: {error}. Give the model a chat_template "
            "in the recipe."
        ) from error
    if not isinstance(text, str):
        raise TokenizerError(f"{tokenizer.name_or_path!r}: the chat template gives no text.")
    return text
