#!/usr/bin/env bash
# Guess: LoraConfig(r=8, target_modules="all-linear") puts adapters of rank 8 on every linear layer but the head.
# What happens, on mixtures of experts whose experts lie in one tensor: the router gets an adapter as well, and the
#   experts' joint gate and up projection one of rank 16, twice what was asked for (Mixtral, Qwen3-MoE, OLMoE). On
#   Qwen2-MoE the experts get none at all.
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Cause: in transformers 5 the experts are parameters of three axes, no layers. utils/transformers_weight_conversion.py
#   turns the names of the old layers into these; two old layers in one tensor make r * 2.
# Who meets it: whoever fine-tunes such a model by the usual line: memory and trained parameters are not what was
#   asked for, and a moving router is what many recipes freeze on purpose.
# Documented: the doubling in that file; nothing else was found.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check "transformers==5.23.0" \
  "tokenizers==0.23.3" "peft==0.21.2" "torch==2.13.0"
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

warnings.simplefilter("ignore")
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1)
heads = dict(num_attention_heads=4, num_key_value_heads=4)
kinds = {
    "mixtral": dict(num_local_experts=4),
    "qwen3_moe": dict(num_experts=4, moe_intermediate_size=16, head_dim=8),
    "olmoe": dict(num_experts=4),
    "qwen2_moe": dict(num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16),
}
found = {}
for kind, more in kinds.items():
    config = AutoConfig.for_model(kind, **sizes, **heads, **more)
    model = get_peft_model(
        AutoModelForCausalLM.from_config(config), LoraConfig(r=8, target_modules="all-linear")
    )
    ranks = {}
    for name, weight in model.named_parameters():
        if "lora_A" in name:
            ranks[name.split("layers.0.")[1].split(".lora_A")[0]] = tuple(weight.shape)
    found[kind] = ranks
    print(kind)
    for name, shape in ranks.items():
        print(f"  {name:45} lora_A {shape}")
for kind in ("mixtral", "qwen3_moe", "olmoe"):
    assert found[kind]["mlp.gate"] == (8, 32)  # the router
    assert found[kind]["mlp.experts.base_layer"] == (4 * 16, 32)  # four experts, gate and up
    assert found[kind]["mlp.experts"][0] == 4 * 8  # down
assert not any("mlp.experts" in name for name in found["qwen2_moe"])
PY
