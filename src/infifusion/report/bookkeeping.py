"""Alignment coverage, data, what was left out, timings and settings."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from infifusion.artifacts import Json
from infifusion.redact import redact_text
from infifusion.report.run_folder import Run
from infifusion.report.words import duration

LEFT_OUT = {
    "duplicate": "training examples that repeat another",
    "contaminated": "training examples that overlap with an evaluation set",
    "empty_response": "examples with an empty response",
    "too_long": "examples longer than max_length",
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


def coverage_view(run: Run) -> list[dict[str, Any]]:
    """One row per fused target and source."""
    rows = []
    for stage, counts in run.counts.items():
        if not stage.startswith("fuse/"):
            continue
        for source, of in counts.get("sources", {}).items():
            vocabulary = of.get("vocabulary", {})
            total = sum(vocabulary.values())
            rows.append(
                {
                    "target": stage.removeprefix("fuse/"),
                    "source": source,
                    "aligned_share": of.get("aligned_share"),
                    "vocabulary": {
                        kind: (count, count / total if total else 0.0)
                        for kind, count in vocabulary.items()
                    },
                    "gold_paths": of.get("gold_paths"),
                    "unmapped_mass": of.get("unmapped_mass"),
                    "gated_examples": of.get("gated_examples"),
                    "positions": counts.get("positions"),
                    "taught": counts.get("taught"),
                    "tail_mass": counts.get("tail_mass"),
                }
            )
    return rows


def teachers_view(run: Run) -> list[dict[str, Any]]:
    """How each source saw the training data: mean entropy and bits per byte by domain."""
    return [
        {
            "source": stage.removeprefix("teach/"),
            "examples": counts.get("examples"),
            "positions": counts.get("positions"),
            "mean_entropy": counts.get("mean_entropy", {}),
            "bits_per_byte": counts.get("bits_per_byte", {}),
        }
        for stage, counts in run.counts.items()
        if stage.startswith("teach/")
    ]


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
    for stage, counts in run.counts.items():
        if stage.startswith("fuse/"):
            untaught = counts.get("positions", 0) - counts.get("taught", 0)
            rows.append(("positions that no source taught", stage, untaught))
            rows += [
                (f"examples on which the gate silenced {source}", stage, of["gated_examples"])
                for source, of in counts.get("sources", {}).items()
                if of.get("gated_examples")
            ]
    for model, result in run.scores.items():
        for task, score in result["scores"].items():
            for reason in ANSWERS:
                if score.get(reason):
                    rows.append((ANSWERS[reason].format(task=task), model, score[reason]))
    return rows


def timings_view(run: Run) -> dict[str, Any]:
    """Seconds and counts of every stage, and the share of the longest for a bar."""
    seconds = {stage: m.get("seconds") or 0.0 for stage, m in run.manifests.items()}
    longest = max(seconds.values(), default=0.0) or 1.0
    return {
        "total": duration(sum(seconds.values())),
        "rows": [
            {
                "stage": stage,
                "time": duration(manifest.get("seconds")),
                "bar": round(100 * seconds[stage] / longest),
                "counts": in_words(manifest.get("counts", {})),
            }
            for stage, manifest in run.manifests.items()
        ],
    }


def settings_view(run: Run) -> dict[str, Any]:
    """The resolved recipe, the plan, the versions and the commands that make this run again."""
    given = run.folder / "recipe.yaml"
    folder = shlex.quote(redact_text(str(run.folder)))
    return {
        "recipe": _as_yaml(run.resolved.get("recipe")),
        "plan": _as_yaml(run.resolved.get("plan")),
        "given": given.read_text(encoding="utf-8", errors="replace") if given.exists() else None,
        "versions": run.resolved.get("versions", {}),
        "commands": [
            *([run.resolved["command"]] if run.resolved.get("command") else []),
            f"infifusion report {folder}",
        ],
    }


def in_words(counts: Json) -> str:
    """Counts on one line: names without underscores, nested ones in brackets."""
    parts = []
    for key, value in counts.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            parts.append(f"{name} ({in_words(value)})")
        elif isinstance(value, list):
            parts.append(f"{name} {', '.join(map(str, value)) or 'none'}")
        elif isinstance(value, float):
            parts.append(f"{name} {value:.4g}")
        else:
            parts.append(f"{name} {value}")
    return ", ".join(parts)


def _as_yaml(value: object) -> str | None:
    if not value:
        return None
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
