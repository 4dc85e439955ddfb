#!/usr/bin/env bash
# Guess: gsm8k's flexible-extract takes the last number of the output.
# What happens: it takes the last run of two or more of the characters $ 0-9 . and comma, digits or not.
#   After "The answer is 42. Let me know if you need more..." the last "number" is "...", and the answer is
#   wrong. So it is after "42.." and after "42 $.", whose last "number" is "$.".
# Versions: lm-eval 0.4.13 (the packaged gsm8k.yaml, version 3.0 of the task), datasets 5.2.0.
# Cause: the pattern (-?[$0-9.,]{2,})|(-?[0-9]+) asks for no digit in its first half.
# Who meets it: chat models close with an offer to help and trail off in dots; base models do not. Fusing a
#   base pivot with chat sources moves this score without any change in arithmetic. strict-match is not
#   touched, so the two columns part.
# Documented: not found; the README of the task does not tell what the two filters take.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check "lm-eval==0.4.13" \
  "datasets==5.2.0" "pyarrow==26.0.1"
cd "$work"
packaged=$("$work/venv/bin/python" -c "import importlib.resources as r; print(r.files('lm_eval'))")
mkdir tasks
echo '{"question": "6 * 7", "answer": "#### 42"}' >items.jsonl
cat >tasks/own.yaml <<YAML
include: $packaged/tasks/gsm8k/gsm8k.yaml
task: own
dataset_path: json
dataset_name: null
dataset_kwargs: {data_files: {test: $work/items.jsonl}}
training_split: null
fewshot_split: null
num_fewshot: 0
YAML
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/venv/bin/python" -W ignore - 2>errors.txt <<'PY' || { cat errors.txt; exit 1; }
import lm_eval
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager


class Says(LM):
    """Answers everything with one text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood

    def generate_until(self, requests):
        return [self.text for _ in requests]


manager = TaskManager(include_path="tasks", include_defaults=False)


def score(text: str) -> tuple[float, float]:
    done = lm_eval.simple_evaluate(
        Says(text), tasks=["own"], task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    result = done["results"]["own"]
    found = result["exact_match,strict-match"], result["exact_match,flexible-extract"]
    print(f"strict {found[0]:.0f}, flexible {found[1]:.0f}: {text!r}")
    return found


assert score("#### 42") == (1.0, 1.0)
assert score("#### 42\nLet me know if you need more help.") == (1.0, 1.0)
assert score("#### 42\nLet me know if you need more help...") == (1.0, 0.0)
assert score("So the answer is 42..") == (0.0, 0.0)
assert score("She pays 42 $.") == (0.0, 0.0)
assert score("She pays 42 dollars.") == (0.0, 1.0)
PY
