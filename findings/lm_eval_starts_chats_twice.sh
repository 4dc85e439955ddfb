#!/usr/bin/env bash
# Guess: with --apply_chat_template lm_eval feeds a model the tokens of transformers' apply_chat_template.
# What happens: where the tokenizer puts a start token before plain text and the template writes none (Vicuna's,
#   Zephyr's and Phi-3's manners with a Llama tokenizer), the harness puts one in front of the prompt, which
#   neither training by apply_chat_template nor a chat server does. add_bos_token=False takes it away.
# Versions: lm-eval 0.4.13, transformers 5.23.0, torch 2.13.0.
# Cause: the rendered prompt is tokenized as any text, with special tokens unless it begins with the start token
#   already; apply_chat_template tokenizes its own text without.
# Who meets it: whoever compares a chat model's scores with those of its training code: every prompt differs.
# Documented: the option is; that it is on for chats is not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check \
  "torch==2.13.0" "transformers==5.23.0" "tokenizers==0.23.3" "lm_eval[hf]==0.4.13"
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

letters = {letter: number for number, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
inner = Tokenizer(models.BPE(vocab=letters, merges=[]))
inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
inner.decoder = decoders.ByteLevel()
inner.add_special_tokens(["<s>", "</s>"])
start = inner.token_to_id("<s>")
inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
tokenizer.chat_template = (
    "{% for m in messages %}{{ m.role | upper }}: {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes))
turns = [{"role": "user", "content": "What is 6 times 7?"}]
own = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]


def fed(**more):
    harness = HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", **more)
    return harness.tok_batch_encode([harness.apply_chat_template(turns)])[0][0].tolist()


print("apply_chat_template:        ", own[:4], "...", len(own), "tokens")
print("lm_eval:                    ", fed()[:4], "...", len(fed()), "tokens")
print("lm_eval, add_bos_token=False", fed(add_bos_token=False)[:4], "...")
assert fed() == [start, *own]
assert fed(add_bos_token=False) == own
PY
