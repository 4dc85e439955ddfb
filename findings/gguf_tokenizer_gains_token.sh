#!/usr/bin/env bash
# Guess: AutoTokenizer.from_pretrained(dir, gguf_file=name) has the tokens that the file lists, one for
#   each row of its embedding.
# What happens: for files of the kind gpt2 (byte-level BPE: Qwen, Llama 3, SmolLM) whose list has no
#   <|endoftext|>, that token is added behind the last one, although the file names its own beginning
#   and end by their numbers and nothing calls for it. The model has no row for it: a text that holds
#   it is an index outside of the embedding.
# Versions: transformers 5.23.0, gguf 0.19.0.
# Cause: the conversion for kinds of gpt2 adds the token by name, whether the file has it or not.
# Who meets it: whoever takes a GGUF file as a source or pivot, or converts one to a folder, where the
#   model's end of text is called otherwise. Nothing is said while loading.
# Documented: not found.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check "transformers==5.23.0" \
  "tokenizers==0.23.3" "gguf==0.19.0" "torch==2.13.0"
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" -W ignore - <<'PY'
import os

import gguf
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

letters = sorted(bytes_to_unicode().values())
tokens = ["<end>", *letters, "ab"]
os.mkdir("model")
writer = gguf.GGUFWriter("model/tiny.gguf", "llama")
writer.add_context_length(64)
writer.add_embedding_length(8)
writer.add_block_count(1)
writer.add_feed_forward_length(8)
writer.add_head_count(1)
writer.add_head_count_kv(1)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_vocab_size(len(tokens))
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("gpt-2")
writer.add_token_list(tokens)
writer.add_token_types([3] + [1] * (len(tokens) - 1))
writer.add_token_merges(["a b"])
writer.add_bos_token_id(0)
writer.add_eos_token_id(0)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

found = AutoTokenizer.from_pretrained("model", gguf_file="tiny.gguf")
said = {
    "tokens in the file": len(tokens),
    "tokens of the tokenizer": len(found),
    "the one that is new": found.convert_ids_to_tokens(len(tokens)),
    "its end": (found.eos_token, found.eos_token_id),
    "the file's end": (tokens[0], 0),
}
for what, value in said.items():
    print(f"{what}: {value}")
assert len(found) == len(tokens) + 1, "the tokenizer has the tokens of the file now"
assert said["the one that is new"] == "<|endoftext|>"
assert found("ab").input_ids == [tokens.index("ab")], "the rest is as in the file"
PY
