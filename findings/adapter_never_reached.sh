#!/usr/bin/env bash
# Guess: LoRA with target_modules="all-linear" trains every linear layer, and merging the adapter gives
#   the model that was trained.
# What happens: Jamba's mixer has a linear layer, dt_proj, whose weight is used in a product of its own
#   (weight @ x). The layer itself is never called, so the adapter on it has no effect and its gradient
#   stays empty; merge_and_unload then adds it all the same. An adapter with numbers in it (from a program
#   that does call the layer, or LoRA's PiSSA start, which takes the main part out of the weight) makes
#   another model by merging.
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Cause: PEFT replaces modules, and only a call of a module sees that. It refuses such layers of Mamba
#   (conv1d, out_proj) by a list of model types; dt_proj and jamba are not in it. transformers calls the
#   layer only where the config says that the model is quantised, so QLoRA trains another model.
# Who meets it: distilling into or from a hybrid pivot by LoRA. Nothing is raised, the adapter has its
#   full size on disk, and a part of it is noise that a merge lets loose.
# Documented: not found; PEFT's error for Mamba does not name dt_proj.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check "transformers==5.23.0" \
  "tokenizers==0.23.3" "peft==0.21.2" "torch==2.13.0"
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" -W ignore - <<'PY'
import copy

import torch
from peft import LoraConfig, get_peft_model
from transformers import JambaConfig, JambaForCausalLM

torch.set_num_threads(1)
torch.manual_seed(0)
config = JambaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, num_experts=1,
    num_experts_per_tok=1, mamba_d_state=8, mamba_dt_rank=4, use_mamba_kernels=False, pad_token_id=0,
)  # fmt: skip
base = JambaForCausalLM(config).eval()
for weight in base.parameters():
    if weight.dim() > 1:
        torch.nn.init.normal_(weight, std=0.3)
ids = torch.arange(3, 27).reshape(2, 12)


def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False).logits


def tried(target: str | list[str], **settings: object) -> tuple[float, float, list[str]]:
    lora = LoraConfig(r=2, target_modules=target, **settings)
    model = get_peft_model(copy.deepcopy(base), lora).eval()
    before = logits(model)
    if before.requires_grad:  # with dt_proj alone nothing of it reaches the output
        before.square().sum().backward()
    dead = [
        name.partition(".lora_")[0].rpartition("layers.")[2]
        for name, weight in model.named_parameters()
        if weight.requires_grad and weight.grad is None
    ]
    with torch.no_grad():
        moved = (before - logits(base)).abs().max().item()
        merged = (before - logits(model.merge_and_unload())).abs().max().item()
    return moved, merged, sorted(set(dead))


moved, merged, dead = tried("all-linear", init_lora_weights=False)
print("layers without any gradient:", dead)
print(f"logits moved by the adapter: {moved:.2f}; by merging it: {merged:.2f}")
assert dead == ["0.mamba.dt_proj"] and merged > 0.1
others = ["in_proj", "x_proj", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj"]
moved, merged, dead = tried(others, init_lora_weights=False)
print(f"the other layers alone: moved by the adapter {moved:.2f}; by merging it {merged:.6f}; {dead}")
assert not dead and merged < 1e-3 < moved
moved, merged, dead = tried(["dt_proj"], init_lora_weights="pissa")
print(f"PiSSA on dt_proj, before any step: logits moved by {moved:.2f}")
assert moved > 0.1
PY
