#!/usr/bin/env bash
# Guess: lm_eval --model hf --apply_chat_template asks a model by its chat template, as transformers'
#   apply_chat_template does, or fails.
# What happens: it hands every template a plain text as content. Templates that read content as a list of parts
#   (Idefics 3, LLaVA-NeXT, SmolVLM and their kin) write nothing of it: the model is asked an empty question, the
#   same one for every item, without a warning, and scores what guessing scores.
# Versions: lm-eval 0.4.13, transformers 5.23.0, trl 1.16.0 (for the template), torch 2.13.0.
# Cause: the harness builds {"role": ..., "content": text} itself; a loop over the parts of a text finds no part
#   whose type is "text".
# Who meets it: whoever scores the language model of a vision model on GSM8K or the like.
# Documented: not found.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check \
  "torch==2.13.0" "transformers==5.23.0" "tokenizers==0.23.3" "lm_eval[hf]==0.4.13"
"$work/venv/bin/pip" install -qq --disable-pip-version-check --no-deps "trl==1.16.0"
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import importlib.util
from pathlib import Path

from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

letters = {letter: number for number, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
inner = Tokenizer(models.BPE(vocab=letters, merges=[]))
inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
inner.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
folder = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
tokenizer.chat_template = (folder / "smolvlm.jinja").read_text(encoding="utf-8")
sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes))
harness = HFLM(pretrained=model, tokenizer=tokenizer, device="cpu")
question = "What is 6 times 7?"
asked = harness.apply_chat_template([{"role": "user", "content": question}])
parts = [{"role": "user", "content": [{"type": "text", "text": question}]}]
meant = tokenizer.apply_chat_template(parts, tokenize=False, add_generation_prompt=True)
print("lm_eval asks:     ", repr(asked))
print("the template means:", repr(meant))
assert question in meant
assert question not in asked
PY
