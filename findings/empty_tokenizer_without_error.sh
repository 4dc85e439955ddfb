#!/usr/bin/env bash
# Guess: a model folder without any tokenizer file makes AutoTokenizer.from_pretrained fail.
# What happens: for llama or mistral it does. For qwen2, qwen3, gpt2, gpt_neox and gemma it returns a
#   tokenizer that holds the family's special tokens and nothing else. Any text becomes no token at all
#   (gemma: one <unk>), and no warning is given.
# Versions: transformers 5.23.0, tokenizers 0.23.3.
# Cause: the merged slow and fast classes build their Rust tokenizer themselves, and vocabulary and merges
#   default to empty. Only classes that still need a file to convert complain.
# Who meets it: Trainer saves a model without its tokenizer unless processing_class is given, and copying
#   only *.safetensors and config.json is common. mergekit 0.1.5 beside transformers 5.23.0 then even
#   writes such an empty tokenizer into the merged folder. Training on it or scoring it runs on empty
#   prompts.
# Documented: not found.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check "transformers==5.23.0" "tokenizers==0.23.3"
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import json
from pathlib import Path

from transformers import AutoTokenizer

question = "What is 2 + 2?"
seen = {}
for kind in ("llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "gemma"):
    folder = Path(kind)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except ValueError as error:
        seen[kind] = None
        print(f"{kind:9} error: {str(error)[:50]!r}")
    else:
        seen[kind] = tokenizer(question).input_ids
        print(f"{kind:9} {type(tokenizer).__name__}, {len(tokenizer)} tokens, ids {seen[kind]}")
assert seen["llama"] is None
assert all(seen[kind] == [] for kind in ("qwen2", "qwen3", "gpt2", "gpt_neox"))
assert seen["gemma"] is not None and len(seen["gemma"]) == 1
PY
