#!/usr/bin/env bash
# Guess: adding a token that the vocabulary already has changes nothing: same ids, same size, and
#   add_tokens() returns 0, since it created nothing.
# What happens: the size stays, but add_tokens() returns 1, and from now on the piece is cut out of the
#   middle of every word before BPE runs: "other" no longer is one token but o + the + r.
# Versions: tokenizers 0.23.3.
# Cause: the piece keeps its id but enters the list of added tokens, and these are matched in the raw
#   text, anywhere, unless the token says single_word. The count that is returned counts tokens that
#   were taken into that list, not new rows.
# Who meets it: whoever joins two vocabularies by add_tokens(source's pieces): each piece that both have
#   silently becomes a knife. The embedding needs no new row, so no size gives it away, and the model
#   then sees token sequences that it was never trained on.
# Documented: against it. The docstring says that tokens are added only if they do not exist yet, and
#   that the number returned is that of the tokens created.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check "tokenizers==0.23.3"
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
tokenizer.train_from_iterator(["the other mother gathers the weather"] * 9, trainer)

size, piece = tokenizer.get_vocab_size(), tokenizer.token_to_id("the")
before = tokenizer.encode("the other").tokens
returned = tokenizer.add_tokens(["the"])
after = tokenizer.encode("the other").tokens
print("before:", before)
print("add_tokens(['the']) returned", returned, "with size", size, "->", tokenizer.get_vocab_size())
print("after: ", after)
assert piece is not None and tokenizer.token_to_id("the") == piece
assert tokenizer.get_vocab_size() == size and returned == 1
assert len(after) > len(before) and after.count("the") == 2
PY
