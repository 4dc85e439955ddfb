#!/usr/bin/env bash
# Guess: saving model B into the folder of model A and loading that folder gives B.
# What happens: not where A was saved as one file and B in shards. save_pretrained writes B's shards and
#   index and leaves A's model.safetensors beside them; from_pretrained (and accelerate) prefer the single
#   file and give A. mergekit looks for the index first and takes B from the same folder.
#   The other way round (one file over shards) the shards go but their index stays, naming files that are
#   no longer there: transformers and accelerate give B, mergekit fails.
# Versions: transformers 5.23.0, accelerate 1.15.0, mergekit 0.1.5, safetensors 0.8.0, torch 2.13.0.
# Cause: the clean-up in save_pretrained looks only for names like model-00001-of-00002.safetensors, and
#   each reader has an order of its own.
# Who meets it: pivot and fused model differ in max_shard_size, or one of them is over 50 GB, or a merge
#   writes shards into a folder that was made as a copy of the pivot. Evaluation then scores the pivot under
#   the new name, while a merge that reads the index takes the new weights.
# Documented: not found.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check "transformers==5.23.0" \
  "tokenizers==0.23.3" "accelerate==1.15.0" "safetensors==0.8.0" "torch==2.13.0" \
  "pydantic==2.14.3"
# The part of mergekit that reads weights needs none of its other dependencies but pydantic.
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check --no-deps "mergekit==0.1.5"
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" -W ignore - <<'PY'
from pathlib import Path

import torch
from accelerate import load_checkpoint_in_model
from mergekit.io.lazy_tensor_loader import LazyTensorLoader
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


def read(folder: str) -> tuple[str, str, str]:
    with_transformers = LlamaForCausalLM.from_pretrained(folder).lm_head.weight
    model = filled(0.0)
    load_checkpoint_in_model(model, folder)
    try:
        with_mergekit = LazyTensorLoader.from_disk(folder).get_tensor("lm_head.weight")
    except FileNotFoundError:
        with_mergekit = torch.zeros(1, 1)
    found = with_transformers, model.lm_head.weight, with_mergekit
    return tuple({0: "an error", 1: "A", 2: "B"}[int(weight[0, 0])] for weight in found)


filled(1.0).save_pretrained("one")
filled(2.0).save_pretrained("one", max_shard_size="10KB")
filled(1.0).save_pretrained("many", max_shard_size="10KB")
filled(2.0).save_pretrained("many")
for folder, story in (("one", "B in shards over A in one file"), ("many", "B in one file over A in shards")):
    print(f"{story}: transformers {read(folder)[0]}, accelerate {read(folder)[1]}, mergekit {read(folder)[2]}")
    print("   ", sorted(p.name for p in Path(folder).glob("*safetensors*"))[-3:])
assert read("one") == ("A", "A", "B") and read("many") == ("B", "B", "an error")
PY
