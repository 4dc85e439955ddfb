#!/usr/bin/env bash
# Guess: apply_chat_template(messages, name=value) makes `value` the template's variable, whatever it is: its
#   documentation says that further arguments are accessible by the template. So a template that asks for
#   today's date by strftime_now can be given a function that returns a fixed day, for runs that repeat.
# What happens: a function arrives as a text. The template then fails with "'str' object is not callable".
#   A Jinja macro of that name, written in front of the template, does what was wanted.
# Versions: transformers 5.23.0, jinja2 3.1.6.
# Cause: everything a template sees is rebuilt out of plain JSON types, and what is none of them is replaced
#   by a placeholder, so that templates from the hub cannot reach methods of rich objects. The library's own
#   strftime_now is set as a global and stays a function.
# Who meets it: whoever pins the day of Llama 3.2's or gpt-oss's template in training or tests, as one does
#   with date_string where a template has that variable.
# Documented: in a comment of the source; the docstring of apply_chat_template does not say so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check "transformers==5.23.0" "tokenizers==0.23.3" "jinja2==3.1.6"
cd "$work"
"$work/venv/bin/python" - <<'PY'
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

template = "Today: {{ strftime_now('%d %b %Y') }}{% for m in messages %}\n{{ m.content }}{% endfor %}"
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
tokenizer.chat_template = template
turns = [{"role": "user", "content": "Hi"}]


def render(**more):
    return tokenizer.apply_chat_template(turns, tokenize=False, **more)


print("its own:   ", repr(render()))
try:
    print("a function:", repr(render(strftime_now=lambda form: "31 Jan 2026")))
    failed = ""
except TypeError as error:
    failed = str(error)
    print("a function: TypeError:", failed)
macro = "{% macro strftime_now(form) %}31 Jan 2026{% endmacro %}"
pinned = render(chat_template=macro + template)
print("a macro:   ", repr(pinned))
assert failed == "'str' object is not callable"
assert pinned == "Today: 31 Jan 2026Hi"
PY
