"""Whether models belong together and whether their merge will load, asked before anything is
written: `python -m infifusion.merge.checkpoints.result_check` reads a question as JSON and answers.

It runs in a process of its own, so that a merge does without torch and its memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from infifusion.errors import CheckpointError, RunError
from infifusion.merge.checkpoints.configs import same_calculation
from infifusion.merge.checkpoints.kinds import config_of_stack
from infifusion.merge.checkpoints.subject import Subject

Json = dict[str, Any]


def ask(question: Json) -> Json:
    """The answer to a question: `models` (the donor first, then every other; each name, folder,
    config, specs, and as `text` whether its language model is merged), `config` and `specs` of the
    result, `layers` ([model, layer] of each stacked layer). It has the result's `config` and
    `notes` for the user.

    Raises CheckpointError for what would be wrong, RunError where the check itself fails.
    """
    if "torch" in sys.modules:
        return answer(question)
    command = [sys.executable, "-m", "infifusion.merge.checkpoints.result_check"]
    done = subprocess.run(command, input=json.dumps(question), capture_output=True, text=True)
    try:
        found = json.loads(done.stdout.rpartition("\n")[2])
    except ValueError:
        last = done.stderr.strip().rpartition("\n")[2]
        raise RunError(
            f"The check of what would be merged stopped (status {done.returncode}): {last:.300}"
        ) from None
    if "error" in found:
        raise CheckpointError(found["error"])
    return found


def answer(question: Json) -> Json:
    """The same in this process."""
    models = [
        Subject(one["name"], one["folder"], one["config"], _specs(one["specs"]), one["text"])
        for one in question["models"]
    ]
    config, layers = question["config"], question["layers"]
    notes = same_calculation(models[0], models[1:])
    if layers:
        config = config_of_stack(config, [(models[n], layer) for n, layer in layers])
    result = Subject("the result", "", config, _specs(question["specs"]))
    return {"config": config, "notes": [*notes, *_loads(result, models)]}


def _specs(values: dict[str, list[Any]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (dtype, tuple(shape)) for name, (dtype, shape) in values.items()}


def _loads(result: Subject, models: list[Subject]) -> list[str]:
    """Notes on what transformers leaves aside. CheckpointError for what would be wrong."""
    found = result.loading
    if found is None:
        return [f"That the result loads was not checked: {result.architecture}."]
    notes = []
    if models[0].config.get("auto_map"):
        notes.append(
            "The model brings its own code, which is not run; that the result loads was checked "
            "with transformers' own class."
        )
    for what, names in (("lack", found.missing), ("have in another shape", found.mismatched)):
        if names:
            raise CheckpointError(_would_be_wrong(models, what, names))
    known = {name for model in models if model.loading for name in model.loading.unexpected}
    odd = [name for name in found.unexpected if name not in known]
    if odd:
        raise CheckpointError(_would_be_wrong(models, "have to spare", odd))
    if unused := list(found.unexpected):
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        notes.append(
            f"transformers makes nothing of {unused[0]}{more}, which the models have; "
            "they are in the result all the same."
        )
    return notes


def _would_be_wrong(models: list[Subject], what: str, names: Sequence[str]) -> str:
    attribute = {"lack": "missing", "have in another shape": "mismatched"}.get(what, "unexpected")
    first = names[0]
    same = [one for one in models if one.loading and first in getattr(one.loading, attribute)]
    cause = (
        f"so does {same[0].folder} ({same[0].name}) itself: its weights do not fit its "
        "config.json. Download or save that model again"
        if same
        else "none of the models does: this merge cannot be said in a config of their architecture"
    )
    more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return (
        f"Nothing was merged: loaded by transformers, the result would {what} {first}{more}; "
        f"{cause}."
    )


def main() -> None:
    """One question from standard input; the answer is the last line of standard output."""
    try:
        found = answer(json.load(sys.stdin))
    except CheckpointError as error:
        found = {"error": str(error)}
    print(f"\n{json.dumps(found)}", end="")


if __name__ == "__main__":
    main()
