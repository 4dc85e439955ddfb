#!/usr/bin/env bash
# Guess: a chat template that knows no functions refuses a message with tool_calls; one that knows them
#   writes the whole message. And OpenAI's own form of a call, arguments as JSON in a text, is the right one.
# What happens, in the 72 text templates that TRL 1.16.0 brings along: 24 write the assistant's turn without
#   its call and without an error. 4 of those that write calls leave out the text beside the call. With
#   arguments as a text 7 write JSON within JSON without an error, 28 raise one.
# Versions: trl 1.16.0, transformers 5.23.0, jinja2 3.1.6.
# Cause: templates read the keys that they know. Those of Llama 3.1 take the branch of a call before they look
#   at content. `tojson` of a text is a text in quotes.
# Who meets it: whoever trains on conversations with functions. The loss falls, on empty turns, on calls whose
#   reasons are gone, or on arguments that no parser of calls takes.
# Documented: transformers' guide on tool use says that arguments are a dict; the rest was not found.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check "transformers==5.23.0" "tokenizers==0.23.3" "jinja2==3.1.6"
"$work/venv/bin/pip" install -qq --disable-pip-version-check --no-deps "trl==1.16.0"
cd "$work"
"$work/venv/bin/python" - <<'PY'
import importlib.util
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

folder = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>"
)
schema = {
    "type": "function",
    "function": {
        "name": "find_place",
        "description": "Finds a place.",
        "parameters": {
            "type": "object",
            "properties": {"near": {"type": "string", "description": "A town."}},
            "required": ["near"],
        },
    },
}


def said(template, arguments, content):
    """What stands behind the user's question; None where the template raises."""
    tokenizer.chat_template = template
    call = {"name": "find_place", "arguments": arguments}
    answer = {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": "Abcde1234", "type": "function", "function": call}],
    }
    turns = [{"role": "user", "content": "Please begin."}, answer]
    try:
        text = tokenizer.apply_chat_template(turns, tools=[schema], tokenize=False)
    except Exception:
        return None
    return text.rpartition("Please begin.")[2]


found = {"templates": 0, "no call": 0, "no text": [], "twice": 0, "refused as text": 0}
for path in sorted(folder.glob("*.jinja")):
    template = path.read_text(encoding="utf-8")
    found["templates"] += 1
    whole = said(template, {"near": "Lisbon"}, "Let me look.")
    found["no call"] += whole is not None and "Lisbon" not in whole
    if whole is not None and "Lisbon" in whole:
        if "Let me look." not in whole:
            found["no text"].append(path.stem)
        as_text = said(template, '{"near": "Lisbon"}', "")
        found["refused as text"] += as_text is None
        found["twice"] += as_text is not None and '\\"near' in as_text
for what, number in found.items():
    print(f"{what}: {number}")
assert found == {
    "templates": 72,
    "no call": 24,
    "no text": ["llama3_1", "llama3_2", "muse_glimmer", "muse_glimmer_training"],
    "twice": 7,
    "refused as text": 28,
}
PY
