#!/usr/bin/env bash
# Guess: max_length and padding are arguments of one call. They end with the call, and save_pretrained
#   writes the tokenizer, not what was last asked of it.
# What happens: the call leaves its limits inside the Rust tokenizer, and save_pretrained writes them
#   into tokenizer.json. transformers does not show it, since it sets both anew in each call; everything
#   else that reads tokenizer.json (the tokenizers library, servers and counters built on it) then cuts
#   every text at that length and fills short ones up with pad tokens.
# Versions: transformers 5.23.0, tokenizers 0.23.3.
# Who meets it: training calls the tokenizer with max_length and saves it beside the student as the last
#   step. Counting tokens, serving or aligning the student by tokenizer.json alone then sees at most
#   max_length tokens of any text, without a word.
# Documented: not found at save_pretrained or at the arguments of the call.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check "transformers==5.23.0" "tokenizers==0.23.3"
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" - <<'PY'
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

bare = Tokenizer(models.BPE())
bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bare.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(
    vocab_size=300, initial_alphabet=alphabet, special_tokens=["<pad>"], show_progress=False
)
bare.train_from_iterator(["one two three four five"] * 9, trainer)
text = "one two three four five"
length = len(bare.encode(text).ids)

tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>")
tokenizer([text], truncation=True, padding="max_length", max_length=4)  # one batch of training
tokenizer.save_pretrained("student")

again = AutoTokenizer.from_pretrained("student")
alone = Tokenizer.from_file("student/tokenizer.json")
print("tokens of the text:                 ", length)
print("through transformers, after saving: ", len(again(text).input_ids))
print("through tokenizers, after saving:   ", len(alone.encode(text).ids))
print("and of 'one':                        ", alone.encode("one").tokens)
assert length > 4 == len(alone.encode(text).ids)
assert len(again(text).input_ids) == length
assert alone.encode("one").tokens[-1] == "<pad>"
PY
