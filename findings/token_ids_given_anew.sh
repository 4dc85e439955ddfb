#!/usr/bin/env bash
# Guess: every added token in tokenizer.json carries an "id", so that is the id it gets. Taking an
#   unused reserved token out of the file leaves the ids of the others alone.
# What happens: the ids in "added_tokens" are not obeyed where the token is not in the model's own
#   vocabulary. They are handed out anew, in a row, after the largest id of the model. With one entry
#   taken out, each token behind it moves down by one; nothing is raised and nothing is printed.
# Versions: tokenizers 0.23.3 (the library that reads tokenizer.json for transformers too).
# Cause: on reading, added tokens go through the same call as add_tokens(), which numbers by count;
#   the id in the file is only compared afterwards, and a mismatch goes to Rust's log, which Python
#   never shows.
# Who meets it: whoever fits one model's tokenizer to another (drops reserved tokens, leaves room for
#   the pivot's padding rows, moves a chat token to a free row of the embedding): the end-of-turn token
#   then points at its neighbour's row.
# Documented: not found; nothing says that "id" in the file is only a wish.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check "tokenizers==0.23.3"
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import json

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
tokenizer.train_from_iterator(["one two three four five"] * 9, trainer)
tokenizer.add_special_tokens(["<begin>", "<reserved>", "<end_of_turn>"])

whole = json.loads(tokenizer.to_str())
said = {token["content"]: token["id"] for token in whole["added_tokens"]}
whole["added_tokens"] = [t for t in whole["added_tokens"] if t["content"] != "<reserved>"]
got = Tokenizer.from_str(json.dumps(whole))

print("id of <end_of_turn> in the file:", said["<end_of_turn>"])
print("id of <end_of_turn> when read:  ", got.token_to_id("<end_of_turn>"))
print("ids of 'one<end_of_turn>':      ", got.encode("one<end_of_turn>").ids)
assert got.token_to_id("<begin>") == said["<begin>"]
assert got.token_to_id("<end_of_turn>") == said["<reserved>"] != said["<end_of_turn>"]
assert got.encode("one<end_of_turn>").ids[-1] == said["<reserved>"]
PY
