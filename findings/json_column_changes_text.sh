#!/usr/bin/env bash
# Guess: load_dataset("json") keeps a JSON string a string and a JSON integer an integer.
# What happens: where all strings of a column look like ISO dates, the column becomes timestamps, and
#   rows come back as datetime objects: the answer "2024-02-29" is written into a prompt as
#   "2024-02-29 00:00:00". One row with a decimal point turns all integers of the column into floats: the
#   answer 18 becomes "18.0", and 9007199254740993 becomes another number. One row of ordinary text, or
#   one string, in the same column undoes both, so it depends on the neighbours in the file.
# Versions: datasets 5.2.0, pyarrow 26.0.1.
# Cause: pyarrow's JSON reader guesses one type for a whole column, timestamps included; the Json type
#   that datasets 5 has for mixed columns is used only where pyarrow refuses.
# Who meets it: lm-eval reads a user's own items by this loader, and its templates ({{answer}}) print what
#   they get; exact match then fails for a model that is right. A filter of the items (all dates, one
#   decimal) changes the prompt of the items that stay.
# Documented: not on the loading page of datasets; pyarrow's page on JSON tells of timestamps. A features=
#   argument switches the guess off.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check \
  "datasets==5.2.0" "pyarrow==26.0.1"
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/venv/bin/python" - <<'PY'
import json

import datasets

datasets.disable_progress_bars()


def printed(name: str, *answers: object) -> list[str]:
    file = f"{name}.jsonl"
    with open(file, "w") as out:
        out.writelines(json.dumps({"answer": answer}) + "\n" for answer in answers)
    rows = datasets.load_dataset("json", data_files=file, split="train")
    texts = [str(row["answer"]) for row in rows]
    print(f"{list(answers)}  ->  {texts}")
    return texts


assert printed("dates", "2024-02-29", "1999-12-31") == ["2024-02-29 00:00:00", "1999-12-31 00:00:00"]
assert printed("text", "2024-02-29", "no date") == ["2024-02-29", "no date"]
assert printed("whole", 18, 9007199254740993) == ["18", "9007199254740993"]
assert printed("decimal", 18, 9007199254740993, 2.5) == ["18.0", "9007199254740992.0", "2.5"]
assert printed("mixed", 18, "x") == ["18", "x"]
PY
