#!/usr/bin/env bash
# Guess: saving model B into the folder of model A and loading that folder gives B.
# What happens: not where A was saved as one file and B in shards. save_pretrained writes B's shards and
#   index and leaves A's model.safetensors beside them; from_pretrained prefers the single file and gives
#   A. accelerate, which looks at the index first, gives B from the same folder.
#   The other way round (one file over shards) the shards go but their index stays, naming files that are
#   no longer there: transformers gives B, accelerate fails.
# Versions: transformers 5.23.0, accelerate 1.15.0, safetensors 0.8.0, torch 2.13.0.
# Cause: the clean-up after writing looks only for names like model-00001-of-00002.safetensors.
# Who meets it: pivot and fused model differ in max_shard_size, or the larger pivot goes over 50 GB, or a
#   merge writes shards into a folder that was made as a copy of the pivot. Evaluation then scores the
#   pivot under the new name, while a merge that reads the index takes the new weights.
# Documented: no.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check "transformers==5.23.0" \
  "tokenizers==0.23.3" "accelerate==1.15.0" "safetensors==0.8.0" "torch==2.13.0"
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" -W ignore - <<'PY'
from pathlib import Path

import torch
from accelerate import load_checkpoint_in_model
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()
torch.set_num_threads(1)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4
)


def filled(value: float) -> LlamaForCausalLM:
    model = LlamaForCausalLM(config)
    torch.nn.init.constant_(model.lm_head.weight, value)
    return model


def read(folder: str) -> tuple[str, str]:
    name = {1.0: "A", 2.0: "B"}
    with_transformers = LlamaForCausalLM.from_pretrained(folder)
    with_accelerate = filled(0.0)
    try:
        load_checkpoint_in_model(with_accelerate, folder)
        other = name[with_accelerate.lm_head.weight[0, 0].item()]
    except FileNotFoundError:
        other = "an error"
    return name[with_transformers.lm_head.weight[0, 0].item()], other


filled(1.0).save_pretrained("one")
filled(2.0).save_pretrained("one", max_shard_size="10KB")
filled(1.0).save_pretrained("many", max_shard_size="10KB")
filled(2.0).save_pretrained("many")
for folder, story in (("one", "B in shards over A in one file"), ("many", "B in one file over shards")):
    print(f"{story}: transformers reads {read(folder)[0]}, accelerate {read(folder)[1]}")
    print("   ", sorted(p.name for p in Path(folder).glob("*safetensors*"))[-3:])
assert read("one") == ("A", "B") and read("many") == ("B", "an error")
PY
