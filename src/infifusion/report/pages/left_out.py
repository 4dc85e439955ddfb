"""The data, and everything that was left out on the way, counted."""

from __future__ import annotations

from typing import Any

from infifusion.report.run_folder import Run

LEFT_OUT = {
    "duplicate": "training examples that repeat another",
    "contaminated": "training examples that overlap with an evaluation set",
    "empty_response": "examples with an empty response",
    "too_long": "examples longer than max_length or than a model's window",
    "control_tokens": "examples with special tokens in the response",
    "unreadable": "examples that a model's tokenizer or template cannot be given",
}
WRITTEN = {
    "unfinished": "answers of {source} that ran out of room before they ended",
    "empty": "answers of {source} with nothing in them",
    "no_room": "answers of {source} that do not fit its window",
    "unreadable": "answers of {source} that its own tokenizer cannot give back",
    "too_uncertain": "answers of {source} above max_entropy",
}
ANSWERS = {
    "truncated": "answers to {task} cut off at the length limit, judged as they are",
    "invalid": "answers to {task} without a readable result, counted as wrong",
    "too_long": "prompts of {task} that leave no room to answer, counted as wrong",
}


def data_view(run: Run) -> dict[str, Any] | None:
    """Examples per split and domain; None where nothing was prepared."""
    counts = run.counts.get("prepare")
    if counts is None:
        return None
    splits = [split for split in ("train", "validation", "held_out") if split in counts]
    domains = list(dict.fromkeys(d for split in splits for d in counts[split]))
    return {
        "splits": splits,
        "rows": [(d, [counts[split].get(d, 0) for split in splits]) for d in domains],
        "tokens": counts.get("tokens", {}),
    }


def left_out_view(run: Run) -> list[tuple[str, str, int]]:
    """(what, where, how many) of everything ignored on the way, zeros included."""
    rows = []
    chosen = run.counts.get("choose", {})
    for source, reasons in chosen.get("no_part", {}).items():
        for why, count in reasons.items():
            what = WRITTEN[why].format(source=source) if why in WRITTEN else f"{source}: {why}"
            rows.append((what, "choose", count))
    for why, count in chosen.get("left_out", {}).items():
        rows.append((f"{why.replace('_', ' ')}s", "choose", count))
    for why, by in chosen.get("dropped", {}).items():
        rows.append((f"prompts dropped: {why.replace('_', ' ')}", "choose", sum(by.values())))
    for reason, count in run.counts.get("prepare", {}).get("left_out", {}).items():
        what = LEFT_OUT.get(reason, reason.replace("_", " "))
        if isinstance(count, dict):
            rows += [(what, f"prepare, tokens of {model}", n) for model, n in count.items()]
        else:
            rows.append((what, "prepare", count))
    for target, counts in run.counts_of("fuse").items():
        untaught = counts.get("positions", 0) - counts.get("taught", 0)
        rows.append(("positions that no source taught", f"fuse/{target}", untaught))
        for source, of in counts.get("sources", {}).items():
            if silenced := of.get("gated_examples"):
                what = f"examples on which the gate silenced {source}"
                rows.append((what, f"fuse/{target}", silenced))
    for model, result in run.scores.items():
        for task, score in result["scores"].items():
            for reason, what in ANSWERS.items():
                if score.get(reason):
                    rows.append((what.format(task=task), model, score[reason]))
    return rows
