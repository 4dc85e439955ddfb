#!/usr/bin/env bash
# Guess: a task whose target is the template "{{answer}}" compares the output with the text of the answer.
# What happens: where the rendered text begins with [ and ends with ], lm-eval reads it as a Python list.
#   The gold [1, 5] then matches nothing, not even the output "[1, 5]". Targets that Python cannot read,
#   such as [2, 5), are left alone, so a closed interval is lost and a half-open one is not.
#   doc_to_target: answer, the field's name without braces, compares the text.
# Versions: lm-eval 0.4.13, datasets 5.2.0.
# Cause: ConfigurableTask.doc_to_target() calls ast.literal_eval, meant for several right answers; the
#   members are numbers then, which equal no text.
# Who meets it: closed intervals and vectors of MATH, list results of code tasks, in a user's own YAML. All
#   models lose the same items, so a fused model looks nearer to its sources than it is.
# Documented: lists are, as a way to give several right answers; that a text becomes one was not found.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --no-compile --disable-pip-version-check "lm-eval==0.4.13" \
  "datasets==5.2.0" "pyarrow==26.0.1"
cd "$work"
mkdir tasks
for target in '{{answer}}' answer; do
  name=$([ "$target" = answer ] && echo by_name || echo by_template)
  cat >"tasks/$name.yaml" <<YAML
task: $name
dataset_path: json
dataset_name: null
dataset_kwargs: {data_files: {test: $work/items.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "$target"
num_fewshot: 0
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
generation_kwargs: {until: ["END"], do_sample: false}
YAML
done
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/venv/bin/python" -W ignore - 2>errors.txt <<'PY' || { cat errors.txt; exit 1; }
import json

import lm_eval
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager


class Says(LM):
    """Answers each question by what the mapping says."""

    def __init__(self, answers: dict[str, str]) -> None:
        super().__init__()
        self.answers = answers

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood

    def generate_until(self, requests):
        return [self.answers[request.args[0]] for request in requests]


manager = TaskManager(include_path="tasks", include_defaults=False)


def scores(gold: dict[str, str], said: dict[str, str], task: str) -> list[float]:
    with open("items.jsonl", "w") as file:
        file.writelines(json.dumps({"question": q, "answer": a}) + "\n" for q, a in gold.items())
    done = lm_eval.simple_evaluate(
        Says(said), tasks=[task], task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    found = [sample["exact_match"] for sample in done["samples"][task]]
    print(f"{task:12} gold {list(gold.values())}, output {list(said.values())}: {found}")
    return found


gold = {"closed": "[1, 5]", "vector": "[2, 3]"}
assert scores(gold, gold, "by_template") == [0.0, 0.0]
assert scores(gold, gold, "by_name") == [1.0, 1.0]
half = {"half open": "[2, 5)", "number": "7"}
assert scores(half, half, "by_template") == [1.0, 1.0]
PY
