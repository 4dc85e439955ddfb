"""Loading tokenizers, and what we need to know of them."""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from infifusion.errors import TokenizerError
from infifusion.merge.checkpoints.reader import require_inside
from infifusion.process.runtime import log
from infifusion.recipe import Model
from infifusion.store.hashes import sha256_of_text

# Texts on which readers of one tokenizer.json have been seen to differ: blanks, digits, accents.
PROBES = (
    "Hello  world\n\n x",
    "  two  blanks\tand a tab\r\n",
    "12345 + 67 = ?",
    "naïve café 日本語 🙂",
)


def load_tokenizer(
    model: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """A fast tokenizer from a folder or the hub, that does what its tokenizer.json says.

    transformers picks a class for some folders that tokenizes differently from their
    tokenizer.json; then the file is read as it is. Raises TokenizerError when there is no such
    folder or model, no fast tokenizer in it, or one without a vocabulary; CheckpointError where a
    file of the folder is a link that leads out of it.
    """
    require_inside(Path(model))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model, revision=revision, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # transformers raises many kinds here, all about the input
        raise TokenizerError(
            f"No tokenizer could be loaded from {model!r}: {_first_line(error)}. Expected a folder "
            "with tokenizer.json and tokenizer_config.json, or the name of a model on the hub."
        ) from error
    if not tokenizer.is_fast:
        raise TokenizerError(
            f"The tokenizer of {model!r} is a {type(tokenizer).__name__}, which has no fast "
            "version (tokenizer.json): its bytes cannot be known. Convert it with "
            "transformers.convert_slow_tokenizer, save it beside the model and try again."
        )
    _require_vocabulary(tokenizer, model)
    return _as_its_file_says(tokenizer, model)


def _require_vocabulary(tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """TokenizerError where there are only added tokens. For a folder without a tokenizer file
    transformers makes such a tokenizer of some families (qwen2, gpt2, gemma) without a word."""
    backend = _backend(tokenizer)
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    if backend.get_vocab().keys() - added:
        return
    folder = Path(model)
    files = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    more = f" and {len(files) - 10} more" if len(files) > 10 else ""
    found = f" The folder holds {', '.join(files[:10])}{more}." if files else ""
    raise TokenizerError(
        f"The tokenizer of {model!r} has no vocabulary, only {len(tokenizer)} added tokens: any "
        f"text becomes nothing.{found} Expected tokenizer.json, or the files that it is made of "
        "(tokenizer.model, or vocab.json and merges.txt): save the tokenizer beside the model "
        "(tokenizer.save_pretrained)."
    )


def tokenizer_of(model: Model) -> PreTrainedTokenizerBase:
    """`load_tokenizer` for a model of a recipe, with the recipe's chat template if it names one,
    and the template's variables and its date written into it.

    Raises TokenizerError where there are variables and no template, or a date and no place for it.
    """
    tokenizer = load_tokenizer(
        model.tokenizer or model.model,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
    )
    if model.chat_template is not None:
        tokenizer.chat_template = model.chat_template
    said = [
        *(["chat_template_date"] if model.chat_template_date is not None else []),
        *(["chat_template_kwargs"] if model.chat_template_kwargs else []),
    ]
    if not said:
        return tokenizer
    template = tokenizer.chat_template
    if not isinstance(template, str):
        raise TokenizerError(
            f"{said[0]}: the tokenizer of {model.model!r} has "
            f"{'several chat templates' if template else 'no chat template'}. Give the model one "
            f"chat_template, or remove {said[0]}."
        )
    if model.chat_template_date is not None:
        template = with_date(template, model.chat_template_date)
    tokenizer.chat_template = with_variables(template, model.chat_template_kwargs)
    return tokenizer


def with_date(template: str, day: datetime.date) -> str:
    """A Jinja template for which it is always this day (at midnight): `strftime_now`, by which
    transformers' templates learn today's date, is replaced for every form that the template asks
    for. TokenizerError where it asks for none, or for one that is not written out in it."""
    asked = re.findall(r"\bstrftime_now\s*\(\s*([^)]*?)\s*\)", template)
    forms = {ask[1:-1] for ask in asked if len(ask) > 1 and ask[0] == ask[-1] and ask[0] in "\"'"}
    if not asked or len(forms) != len(set(asked)):
        said = "does not ask for the date. Remove chat_template_date"
        if asked:
            said = (
                f"asks for the date by {asked}, which are not all written out. Give the model a "
                "chat_template that does"
            )
        raise TokenizerError(
            f"chat_template_date: the chat template {said}, or give the date by "
            "chat_template_kwargs where the template has a variable for it."
        )
    midnight = datetime.datetime.combine(day, datetime.time())
    cases = "".join(
        f"{{% if form == {json.dumps(form)} %}}{midnight.strftime(form)}{{% endif %}}"
        for form in sorted(forms)
    )
    return _before(f"{{% macro strftime_now(form) %}}{cases}{{% endmacro %}}", template)


def _before(blocks: str, template: str) -> str:
    """Jinja blocks that write nothing, and then a template; a line break behind a block would be
    taken for the end of its line."""
    return blocks + ('{{ "" }}' if blocks and template.startswith("\n") else "") + template


def with_variables(template: str, variables: Mapping[str, Any]) -> str:
    """A Jinja template in which these variables have values, unless whoever renders it gives
    others. So they hold wherever the tokenizer goes, whatever calls its template."""
    written = "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = "
        f"{'none' if value is None else json.dumps(value)} %}}{{% endif %}}"
        for name, value in variables.items()
    )
    return _before(written, template)


def _as_its_file_says(tokenizer: PreTrainedTokenizerBase, model: str) -> PreTrainedTokenizerBase:
    """Compare with tokenizer.json read by the tokenizers library alone; prefer the file."""
    file = Path(model) / "tokenizer.json"
    if not file.exists():
        return tokenizer
    reference = tokenizers.Tokenizer.from_file(str(file))
    # save_pretrained writes what a batch was last cut and filled to; transformers does not obey it.
    reference.no_truncation()
    reference.no_padding()

    def agrees(candidate: PreTrainedTokenizerBase) -> bool:
        return all(
            candidate(text, add_special_tokens=False)["input_ids"]
            == reference.encode(text, add_special_tokens=False).ids
            for text in PROBES
        )

    if agrees(tokenizer):
        return tokenizer
    plain = PreTrainedTokenizerFast.from_pretrained(model)
    if not agrees(plain):
        raise TokenizerError(
            f"The tokenizer of {model!r} tokenizes differently from its tokenizer.json, whichever "
            "way transformers loads it. Save it again with the transformers version it was made "
            "with, or remove custom settings from its tokenizer_config.json."
        )
    _say_that_it_differs(model, type(tokenizer).__name__)
    return plain


@functools.cache
def _say_that_it_differs(model: str, kind: str) -> None:
    """Once per process, however often the tokenizer is loaded."""
    log.info(
        "%s: %s does not tokenize as tokenizer.json says; the file is used as it is.",
        model,
        kind,
    )


def tokenizer_json(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The parsed tokenizer.json, without its momentary truncation and padding settings."""
    values = json.loads(_backend(tokenizer).to_str())
    return {**values, "truncation": None, "padding": None}


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what decides its tokens: two tokenizers with one identity are the same."""
    values = tokenizer_json(tokenizer)
    return sha256_of_text(json.dumps(values, sort_keys=True), str(tokenizer.eos_token_id))


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of texts, nothing added, nothing cut."""
    backend = _backend(tokenizer)
    backend.no_truncation()
    backend.no_padding()
    return [one.ids for one in backend.encode_batch_fast(texts, add_special_tokens=False)]


def leading_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the tokenizer itself puts before a plain text (a beginning of text)."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for place in range(len(full) - len(bare) + 1):
        if full[place : place + len(bare)] == bare:
            return full[:place]
    return []


def end_of_text(tokenizer: PreTrainedTokenizerBase, model: str) -> int:
    """The id that ends a plain text; TokenizerError where there is none."""
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise TokenizerError(
            f"The tokenizer of {model!r} has neither a chat template nor an end-of-text token, so "
            "a response has no end. Set eos_token in its tokenizer_config.json."
        )
    return end


def _backend(tokenizer: PreTrainedTokenizerBase) -> tokenizers.Tokenizer:
    backend = tokenizer.backend_tokenizer
    if not isinstance(backend, tokenizers.Tokenizer):
        raise TokenizerError(f"The tokenizer of {tokenizer.name_or_path!r} is no fast one.")
    return backend


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
