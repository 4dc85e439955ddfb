#!/usr/bin/env bash
# Guess: a folder has one chat template. Where it stands in two places, all tools agree on which counts.
# What happens: transformers reads chat_template.jinja and lets it win over "chat_template" in
#   tokenizer_config.json. The gguf package, which llama.cpp's converter uses, lets tokenizer_config.json
#   win. The same folder is one chat model in Python and another one as GGUF.
# Versions: transformers 5.23.0, gguf 0.19.0.
# Cause: gguf.SpecialVocab looks the key up in tokenizer_config.json with the content of
#   chat_template.jinja as the fallback; transformers overwrites the key with the content of the file.
# Who meets it: sources saved before and after the jinja file became the rule get mixed: a new
#   chat_template.jinja is put beside an old tokenizer_config.json, as one does to give the fused model
#   the template it was distilled with. What was evaluated is then not what is served.
# Documented: transformers tells its own order; for gguf none was found.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check \
  "transformers==5.23.0" "tokenizers==0.23.3" "gguf==0.19.0"
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" - <<'PY'
import json
from pathlib import Path

from gguf import SpecialVocab
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

folder = Path("fused")
folder.mkdir()
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.save(str(folder / "tokenizer.json"))
old = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
new = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": old}
(folder / "tokenizer_config.json").write_text(json.dumps(settings))
(folder / "chat_template.jinja").write_text(new)

python = AutoTokenizer.from_pretrained(folder).chat_template
converter = SpecialVocab(folder, load_merges=False).chat_template
print("transformers:", python)
print("gguf:        ", converter)
assert python == new and converter == old
PY
