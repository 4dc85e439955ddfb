#!/usr/bin/env bash
# Guess: tokenizer.json says how text is split, and tokenizer_class "PreTrainedTokenizerFast" asks for
#   just that file. config.json describes the network and does not touch the text.
# What happens: for some model types (qwen2 here) AutoTokenizer ignores the class that is named, takes
#   the family's own class, keeps vocabulary and merges of the file, and replaces its pre-tokenizer. A
#   tokenizer that groups digits by three (12345 -> 123 45) gets one token per digit as soon as it lies
#   beside a qwen2 config.json, and the file by itself still says otherwise.
# Versions: transformers 5.23.0, tokenizers 0.23.3.
# Cause: a set of model types whose tokenizer_class on the hub is held to be wrong
#   (MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS) is mapped to the family's class before the file is read.
# Who meets it: whoever puts one model's tokenizer on another's body, the step that comes before fusing
#   by weights. The numbers in GSM8K are what changes; words mostly stay, so a glance does not show it.
# Documented: AutoTokenizer's page says that model_type picks the class. That the class then takes only
#   vocabulary and merges from tokenizer.json, and which types are treated so, was not found.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check "transformers==5.23.0" "tokenizers==0.23.3"
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" - <<'PY'
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

tokenizer = Tokenizer(models.BPE())
by_three = pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+|\s+|[^\s\p{L}\p{N}]+"), "isolated")
bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([by_three, bytes_only])
tokenizer.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
tokenizer.train_from_iterator(["123 456 100 300 12 45"] * 9, trainer)

folder = Path("transplanted")
folder.mkdir()
tokenizer.save(str(folder / "tokenizer.json"))
settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
(folder / "tokenizer_config.json").write_text(json.dumps(settings))

got = {}
for kind in ("llama", "qwen2"):
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    loaded = AutoTokenizer.from_pretrained(folder)
    got[kind] = loaded.tokenize("12345 + 300")
    print(f"beside a {kind} config:", type(loaded).__name__, got[kind])
file = tokenizer.encode("12345 + 300").tokens
print("the file by itself:   ", file)
assert got["llama"] == file and got["qwen2"] != file
assert got["qwen2"][:5] == list("12345")
PY
