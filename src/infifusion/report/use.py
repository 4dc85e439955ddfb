"""How to use what a run made: code and command lines, ready to be copied."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from infifusion.report.document import plain_text
from infifusion.report.run_folder import Run
from infifusion.report.summary import mean_accuracies
from infifusion.store.records import Json

EXAMPLE = "What is 17 + 25?"
LONGEST_PROMPT = 160


@dataclass(frozen=True)
class Usable:
    """A model of the run with its folder and what to type; best: the highest mean accuracy."""

    name: str
    kind: str
    path: str
    best: bool
    python: str
    commands: list[tuple[str, str]]


def use_view(run: Run) -> list[Usable]:
    """Every model that the run made and still has, fused ones first, the best of them first.

    Paths start at the run's own folder, so that no other part of this machine's paths is shown.
    """
    folder = run.folder.resolve()
    made = {name: folder / "merge" / name / "model" for name in run.merges}
    made |= {name: folder / "distill" / name / "model" for name in run.histories}
    means = mean_accuracies(run.summary)
    names = [name for name, path in made.items() if path.is_dir()]
    names.sort(key=lambda name: (run.kind_of(name) != "fused", -means.get(name, -1.0)))
    best = names[0] if names and names[0] in means and run.kind_of(names[0]) == "fused" else None
    return [_usable(run, name, made[name], best=name == best) for name in names]


def _usable(run: Run, name: str, model: Path, *, best: bool) -> Usable:
    path = str(Path(run.folder.resolve().name) / model.relative_to(run.folder.resolve()))
    prompt, chat = _prompt(run), has_chat_template(model)
    before_answer = plain_template(run.resolved.get("recipe", {})).partition("{response}")[0]
    asked = prompt if chat else before_answer.replace("{prompt}", prompt)
    python = plain_text("use.py.txt", path=repr(path), prompt=repr(asked), chat=chat)
    commands = _commands(path, name, prompt.strip(), chat=chat)
    return Usable(name, run.kind_of(name), path, best, python, commands)


def has_chat_template(model: Path) -> bool:
    """Whether a model folder's tokenizer can render a conversation."""
    config = model / "tokenizer_config.json"
    return any(model.glob("*.jinja")) or (
        config.is_file() and '"chat_template"' in config.read_text(encoding="utf-8")
    )


def _prompt(run: Run) -> str:
    """A question that the run was trained on where one is short, on one line, without control
    characters; else any question."""
    for weights in run.weights.values():
        for sample in weights["examples"]:
            asked = sample["prompt"]
            if 0 < len(asked) <= LONGEST_PROMPT and asked.strip().isprintable():
                return asked
    return EXAMPLE


def plain_template(recipe: Json) -> str:
    """How prompt and response were written for a model without a chat template."""
    return recipe.get("data", {}).get("plain_template", "{prompt}{response}")


def _commands(path: str, name: str, prompt: str, *, chat: bool) -> list[tuple[str, str]]:
    """(tool, command lines). None of these tools is part of this installation."""
    quoted, word = shlex.quote(path), shlex.quote(name)
    file = shlex.quote(f"{name}.gguf")
    return [
        (
            "vLLM, a server with OpenAI's interface",
            f"vllm serve {quoted} --served-model-name {word}",
        ),
        (
            "llama.cpp, for the architectures that its converter knows",
            f"python llama.cpp/convert_hf_to_gguf.py {quoted} --outfile {file} --outtype bf16\n"
            f"llama-cli -m {file} -p {shlex.quote(prompt)}",
        ),
        (
            "lm-evaluation-harness",
            f"lm_eval --model hf --model_args {shlex.quote(f'pretrained={path}')} --tasks gsm8k"
            + (" --apply_chat_template" if chat else ""),
        ),
    ]
