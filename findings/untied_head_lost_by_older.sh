#!/usr/bin/env bash
# Guess: a folder that transformers 5 saved and reads back to the bit is the same model in transformers 4.
# What happens: where a model with tie_word_embeddings=true got a head of its own, transformers 5 writes
#   both matrices, leaves tie_word_embeddings true in config.json, and on loading finds them different and
#   does not tie. transformers 4.57 obeys the config: it puts the input embedding in the place of the
#   saved head, with no missing or unexpected key, and every logit is another one.
# Versions: transformers 5.23.0 and 4.57.6, torch 2.13.0.
# Cause: version 5 compares the two stored matrices; version 4 ties after loading, whatever was stored.
# Who meets it: a head of its own comes about when a tied pivot is merged with an untied copy, when LoRA on
#   lm_head is merged, or when rows of the head are fitted to new tokens. Servers and converters built on
#   version 4 or on the config then run another model than was evaluated.
# Documented: version 5 prints a hint that the config should say false; that older readers lose the head
#   was not found.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check "transformers==5.23.0" \
  "tokenizers==0.23.3" "safetensors==0.8.0" "torch==2.13.0"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check --no-deps \
  --target "$work/older" "transformers==4.57.6" "tokenizers==0.22.2" "huggingface-hub==0.36.2"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check "requests==2.32.5"
cd "$work"
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
cat >load.py <<'PY'
import sys

import torch
from transformers import AutoModelForCausalLM, __version__
from transformers.utils import logging

logging.disable_progress_bar()
model, told = AutoModelForCausalLM.from_pretrained("fused", output_loading_info=True)
with torch.no_grad():
    off = (model(torch.tensor([[1, 2, 3]])).logits - torch.load("logits.pt")).abs().max().item()
tied = model.lm_head.weight is model.model.embed_tokens.weight
print(f"{__version__}: logits off by {off:.3f}, head tied: {tied}, told: {[k for k, v in told.items() if v]}")
assert __version__.startswith(sys.argv[1]) and not any(told.values())
assert tied == (sys.argv[1] == "4") and (off > 0.1) == tied
PY
"$work/venv/bin/python" -W ignore - <<'PY'
import json

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
    num_attention_heads=4, tie_word_embeddings=True,
)  # fmt: skip
model = LlamaForCausalLM(config).eval()
model.lm_head.weight = torch.nn.Parameter(torch.randn(64, 32))
model.save_pretrained("fused")
with torch.no_grad():
    torch.save(model(torch.tensor([[1, 2, 3]])).logits, "logits.pt")
with open("fused/config.json") as file:
    assert json.load(file)["tie_word_embeddings"] is True
PY
"$work/venv/bin/python" -W ignore load.py 5
PYTHONPATH="$work/older" "$work/venv/bin/python" -W ignore load.py 4
