"""Every chat template that the installed TRL brings along, and ten older manners: does a model that
learnt some answers give them back, wherever it is asked?

    .venv/bin/python benchmarks/templates.py [--short | --only NAME ...] [--without-fusion]
        [--work runs/templates] [--json benchmarks/out/templates.json] [--page docs/templates.md]

A pivot of two layers with the template and a base model's tokenizer (its end of text is not what
ends most templates' turns) learns 16 pairs of question and answer by `infifusion run`. Asked are

    history   whether prompt, answer and end as trained are the tokens that a chat server puts into
              the history of the next turn (`apply_chat_template`), or what differs
    generate  `model.generate` with the saved folder's own settings and template
    evaluate  `infifusion evaluate`
    lm_eval   `lm_eval --model hf --apply_chat_template`, a local task with the same items
    fused     `model.generate` of the same pivot when it was taught by two models that have
              other templates and tokenizers (gold_weight: 0.1)

A cell is the answers that came back, of 16, and how many were cut off, if any. What is finished is
not done again, what failed is; a new `--json` begins anew. Needs the extras
`bench` and `test`. About ten seconds a template on one free core.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from templates_ask import by_evaluate, by_generate, by_lm_eval
from templates_suite import PAIRS, SENTENCEPIECE, TEMPLATES, fuse, learn, of_history
from transformers.utils import logging as transformers_logging

STEPS = 200
SHORT = ("chatml", "llama2", "deepseek_coder", "qwen3", "gptoss", "glm4moe", "gemma3")
SOURCES = ("llama2", "deepseek_coder", "zephyr")
"""The first two that do not have the pivot's template teach it."""
ASKED = ("generate", "evaluate", "lm_eval", "fused")


def source(name: str, work: Path) -> Path:
    """The model folder of a source, which must know all pairs."""
    folder = work / "sources" / name
    made = folder / "alone" / "distill" / "sft" / "model"
    if not (made.parent / "manifest.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        learnt = learn(name, folder, STEPS, entries=400, seed=7)
        found = by_generate(learnt)
        if not found.whole:
            sys.exit(f"The source {name} did not learn the pairs: {found}")
    return made


def alone(name: str, folder: Path) -> dict[str, Any]:
    """Everything that is asked of the pivot that learnt from the pairs."""
    learnt = learn(name, folder, STEPS)
    asked, own = learnt.trained[0]
    return {
        "prompt": learnt.tokenizer.decode(asked),
        "learnt": learnt.tokenizer.decode(own),
        "history": of_history(learnt),
        "generate": asdict(by_generate(learnt)),
        "evaluate": asdict(by_evaluate(learnt, folder / "evaluate")),
        "lm_eval": asdict(by_lm_eval(learnt, folder / "lm_eval")),
    }


def taught(name: str, folder: Path, work: Path) -> dict[str, Any]:
    """What is asked of the pivot that two other models taught."""
    others = [source(other, work) for other in SOURCES if other != name][:2]
    return {"fused": asdict(by_generate(fuse(name, folder, STEPS, others)))}


def attempt(made: Callable[[], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """What it gives; or why it fails, in one line."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.perf_counter()
    try:
        found = made()
    except Exception as error:  # one template's fault is a cell of the table
        found = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    shutil.rmtree(folder)
    return {**found, "seconds": round(time.perf_counter() - started, 1)}


def table(rows: dict[str, Any]) -> str:
    """Markdown: a line per template, and what the numbers in it stand for."""
    notes: dict[str, int] = {}

    def noted(text: str) -> str:
        return f"[{notes.setdefault(text, len(notes) + 1)}]"

    def cell(row: dict[str, Any], part: str, asked: str) -> str:
        if "failed" in row.get(part, {}):
            return noted(row[part]["failed"])
        found = row.get(part, {}).get(asked)
        if found is None:
            return ""
        said = [f"{found['right']}"]
        if found["cut_off"]:
            said += [f"({found['cut_off']} cut off)"]
        return " ".join([*said, *map(noted, [*found["notes"], *filter(None, [found["example"]])])])

    lines = ["| template | tokenizer | history | generate | evaluate | lm_eval | fused |"]
    lines.append("|---|---|---|---:|---:|---:|---:|")
    for name, row in rows.items():
        kind = "SentencePiece" if name.startswith(SENTENCEPIECE) else "byte-level"
        history = row.get("alone", {}).get("history")
        history = "" if history is None else noted(history) if history else "equal"
        cells = [cell(row, "taught" if asked == "fused" else "alone", asked) for asked in ASKED]
        lines.append(f"| {name} | {kind} | {history} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. `{text}`" for text, number in notes.items())]
    return "\n".join(lines)


def summary(rows: dict[str, Any]) -> str:
    """How many templates have all answers back, by who asks."""
    said = []
    for asked in ASKED:
        found = [row.get("taught" if asked == "fused" else "alone") for row in rows.values()]
        found = [one for one in found if one]
        whole = sum(
            "failed" not in one and one[asked]["right"] == len(PAIRS) and not one[asked]["cut_off"]
            for one in found
        )
        said.append(f"{asked} {whole} of {len(found)}")
    packages = ("trl", "transformers", "tokenizers", "torch", "lm_eval")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"All {len(PAIRS)} answers back: {', '.join(said)}. {versions}."


def put(text: str, page: Path) -> None:
    """Replace what stands between the markers of a page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition("<!-- table: templates -->\n")
    _, end, after = rest.partition("<!-- end -->")
    page.write_text(f"{before}{begin}\n{text}\n\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=TEMPLATES, metavar="NAME")
    parser.add_argument("--short", action="store_true", help=f"only {', '.join(SHORT)}")
    parser.add_argument("--without-fusion", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("runs/templates"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/out/templates.json"))
    parser.add_argument("--page", type=Path, help="put the table between the page's markers")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    names = options.only or [n for n in TEMPLATES if n in SHORT or not options.short]
    kept: dict[str, Any] = {}
    if options.json.exists():
        kept = json.loads(options.json.read_text(encoding="utf-8"))
    work = options.work.resolve()
    parts: dict[str, Callable[[str, Path], dict[str, Any]]] = {"alone": alone}
    if not options.without_fusion:
        parts["taught"] = lambda name, folder: taught(name, folder, work)
    for part, make in parts.items():
        for name in names:
            row = kept.setdefault(name, {})
            if part in row and "failed" not in row[part]:
                continue
            row[part] = attempt(lambda n=name, m=make, f=work / name: m(n, f), work / name)
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    rows = {name: kept[name] for name in TEMPLATES if name in kept}
    text = f"{summary(rows)}\n\n{table(rows)}"
    print(text)
    if options.page:
        put(text, options.page)


if __name__ == "__main__":
    main()
