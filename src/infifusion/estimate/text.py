"""Tokens of a conversation by tokenizer.json and the chat template alone, without transformers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray
from tokenizers import Tokenizer

from infifusion.errors import TokenizerError
from infifusion.recipe import Model
from infifusion.types import Example

# `{% generation %}` marks assistant turns for transformers and writes nothing.
MARKS = re.compile(r"{%-? (?:end)?generation -?%}")


@dataclass
class Counter:
    """Counts tokens as `prepare` does, to within a token per example.

    template: the chat template; None for the plain one. before: tokens that the tokenizer puts
    before a plain text. template_failed: some conversation could not be rendered with it.
    """

    tokenizer: Tokenizer
    template: str | None
    special: dict[str, str]
    before: int
    template_failed: bool = field(default=False)

    def count(self, examples: list[Example], *, plain_template: str) -> NDArray[np.int64]:
        """[N, 2]: tokens up to and with the end of the turn, and response rows of each example."""
        texts, starts, ends, before = [], [], [], []
        for example in examples:
            text, start = self._render(example, plain_template)
            texts.append(text)
            starts.append(start)
            ends.append(start + len(example.response))
            before.append(0 if self.template and not self.template_failed else self.before)
        found = np.zeros((len(examples), 2), dtype=np.int64)
        encoded = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        for n, one in enumerate(encoded):
            begins = np.fromiter((span[0] for span in one.offsets), dtype=np.int64)
            upto = int((begins < ends[n]).sum())
            rows = max(1, upto - int((begins < starts[n]).sum()))
            found[n] = before[n] + upto + 1, rows + 1
        return found

    def _render(self, example: Example, plain_template: str) -> tuple[str, int]:
        """The conversation up to the response's end and beyond, and where the response starts, in
        characters."""
        if self.template is not None and not self.template_failed:
            try:
                return self._with_template(example)
            except (TemplateError, TypeError, ValueError, KeyError):
                self.template_failed = True
        prompt = "\n\n".join(message["content"] for message in example.prompt)
        prefix = plain_template.removesuffix("{response}").replace("{prompt}", prompt)
        return prefix + example.response, len(prefix)

    def _with_template(self, example: Example) -> tuple[str, int]:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: "26 Jul 2024"
        source = MARKS.sub("", self.template or "")
        prompt = [dict(message) for message in example.prompt]
        said = {"tools": list(example.tools) or None, **self.special}
        answer = example.answer or {"role": "assistant", "content": example.response}
        template = environment.from_string(source)
        text = template.render(messages=[*prompt, answer], add_generation_prompt=False, **said)
        if example.answer is not None:  # written in the template's own way
            return text, len(template.render(messages=prompt, add_generation_prompt=True, **said))
        start = text.rfind(example.response.strip())
        if start < 0:
            raise ValueError("the template changes the response")
        return text, start


def counter_of(name: str, model: Model) -> Counter:
    """The counter of a model; TokenizerError where its tokenizer.json is not on this machine."""
    folder = Path(model.tokenizer or model.model)
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise TokenizerError(
            f"{name}: there is no {file} on this machine, so tokens cannot be counted. Download "
            "the tokenizer and name its folder under `tokenizer:`, or give the sizes: --examples N "
            "--tokens-per-example M."
        )
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    bare = len(tokenizer.encode("a", add_special_tokens=False).ids)
    full = len(tokenizer.encode("a", add_special_tokens=True).ids)
    settings = _settings(folder)
    template = model.chat_template or settings.pop("chat_template", None)
    return Counter(
        tokenizer,
        template if isinstance(template, str) else None,
        {key: _text(value) for key, value in settings.items() if key.endswith("_token")},
        full - bare,
    )


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with the template that may lie beside it."""
    file, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if template.is_file():
        values["chat_template"] = template.read_text(encoding="utf-8")
    return values


def _text(token: Any) -> str:
    """A special token: a text, or a mapping with its content."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _refuse(message: str) -> None:
    raise TemplateError(message)
