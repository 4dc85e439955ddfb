"""A model to and from llama.cpp's format, and to Ollama's Modelfile."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from infifusion.data.tokenizers import leading_ids, load_tokenizer
from infifusion.errors import ArtifactError, CheckpointError, RecipeError, RunError, TokenizerError
from infifusion.store.durable import atomic_write
from infifusion.store.identity import stops_of
from infifusion.teacher.gguf import convert_gguf

CONVERTER, QUANTIZE = "convert_hf_to_gguf.py", "llama-quantize"
BY_CONVERTER = ("bf16", "f16", "f32", "q8_0")
PLACE = "LLAMA_CPP"
"""The variable that names llama.cpp's folder."""
TARGETS = ("gguf", "ollama")
SYSTEM, USER, ANSWER, AGAIN = "\x01SYSTEM\x01", "\x01USER\x01", "\x01ANSWER\x01", "\x01AGAIN\x01"
"""Stand for texts in a rendered conversation; no template writes such characters."""


def convert_file(file: Path, out: Path) -> str:
    """Make the folder; what to print."""
    if not file.is_file():
        raise CheckpointError(f"There is no file {file}. Give the path of a GGUF file.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ArtifactError(f"{out} exists already. Give another folder, or delete this one.")
    said = convert_gguf(file, out)
    return "\n".join([*said, f"Next: name {out} as pivot or source, or load it with transformers."])


def export_model(model: Path, *, to: str, quant: str, out: Path | None) -> str:
    """Write the file or files; what to print.

    Raises RecipeError for another target, CheckpointError for what is no model folder, RunError
    where llama.cpp is not found or its converter fails.
    """
    if to not in TARGETS:
        raise RecipeError(
            f"--to {to}: there is no such format. Known: {', '.join(TARGETS)}. For Apple's MLX: "
            f"pip install mlx-lm, then mlx_lm.convert --hf-path {model} -q (not tried here)."
        )
    if not (model / "config.json").is_file():
        raise CheckpointError(
            f"{model} is no model folder (it holds no config.json). Give the folder of a run's "
            "model, such as runs/NAME/distill/RUN/model."
        )
    quant = quant.lower()
    file = out or Path(f"{model.resolve().parent.name}-{quant}.gguf")
    place = file.with_name(f"{file.stem}.Modelfile")
    for made in (file, *([place] if to == "ollama" else [])):
        if made.exists():
            raise ArtifactError(f"{made} exists already. Give another --out, or delete it.")
    _write_gguf(model, file, quant)
    size = file.stat().st_size / 1e9
    lines = [f"Wrote {file} ({size:.2f} GB, {quant})."]
    if to == "gguf":
        return "\n".join([*lines, f"Next: llama-cli -m {file}"])
    text, note = modelfile(model, file)
    with atomic_write(place) as temporary:
        temporary.write_text(text, encoding="utf-8")
    lines += [f"Wrote {place}.{note}", f"Next: ollama create {file.stem} -f {place}"]
    return "\n".join(lines)


def _write_gguf(model: Path, file: Path, quant: str) -> None:
    converter = _find(CONVERTER)
    if converter is None:
        raise RunError(
            f"llama.cpp's converter, {CONVERTER}, was not found on the PATH, in ./llama.cpp or in "
            f"the folder that ${PLACE} names. Get it: git clone --depth 1 "
            f"https://github.com/ggml-org/llama.cpp; export {PLACE}=$PWD/llama.cpp."
        )
    beside = (converter.parent / "gguf-py" / "gguf").is_dir()  # which the converter prefers
    if not beside and importlib.util.find_spec("gguf") is None:
        raise RunError(
            f"{converter} needs the package gguf, and there is no folder gguf-py beside it: pip "
            "install 'infifusion[gguf]'."
        )
    by_converter = quant in BY_CONVERTER
    quantize = None if by_converter else _find(QUANTIZE)
    if not by_converter and quantize is None:
        raise RunError(
            f"--quant {quant} is made by llama.cpp's program {QUANTIZE}, which was not found on "
            f"the PATH or in ${PLACE}/build/bin. Build llama.cpp, or take one of "
            f"{', '.join(BY_CONVERTER)}."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as place:
        whole = Path(place) / "whole.gguf"
        kind = quant if by_converter else "bf16"
        options = ["--outfile", str(whole), "--outtype", kind]
        _call([sys.executable, str(converter), str(model), *options])
        if quantize is not None:
            made = Path(place) / "quantised.gguf"
            _call([str(quantize), str(whole), str(made), quant.upper()])
            whole = made
        if not whole.is_file():
            raise RunError(f"{CONVERTER} ended without an error, but wrote no {whole.name}.")
        whole.replace(file)


def _find(name: str) -> Path | None:
    """A program or script of llama.cpp's."""
    folders = [Path(os.environ[PLACE])] if os.environ.get(PLACE) else []
    folders += [Path("llama.cpp"), Path.home() / "llama.cpp"]
    for folder in folders:
        for place in (folder / name, folder / "build" / "bin" / name):
            if place.is_file():
                return place.resolve()
    found = shutil.which(name)
    return None if found is None else Path(found)


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise RunError(
            f"llama.cpp's {Path(command[1] if command[0] == sys.executable else command[0]).name} "
            f"failed (exit status {done.returncode}): {' '.join(last) or 'it said nothing'}"
        )


def modelfile(model: Path, file: Path) -> tuple[str, str]:
    """Ollama's Modelfile of a GGUF file: where it is, how a conversation is written, what ends a
    turn. And what there is to say where the chat template cannot be put into Ollama's language."""
    tokenizer = load_tokenizer(str(model))
    lines = [f"FROM ./{file.name}"]
    note = ""
    try:
        lines.append(f'TEMPLATE """{ollama_template(tokenizer)}"""')
    except TokenizerError as error:
        note = f" It has no TEMPLATE: {error} Ollama then takes the one in the file, if it can."
    known = stops_of(model)
    ids = known if isinstance(known, list) else [known] if known is not None else []
    end: Any = tokenizer.eos_token_id
    ids = ids or ([end] if end is not None else [])
    for text in dict.fromkeys(str(tokenizer.convert_ids_to_tokens(int(one))) for one in ids):
        lines.append(f"PARAMETER stop {_quoted(text)}")
    return "\n".join(lines) + "\n", note


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _without_start(text: str, tokenizer: Any) -> str:
    """Without the token that begins a text, where llama.cpp puts it there itself: where the
    tokenizer does. SmolLM2's is <|im_start|>, which its template alone writes."""
    if tokenizer.bos_token_id is None or tokenizer.bos_token_id not in leading_ids(tokenizer):
        return text
    return text.removeprefix(tokenizer.bos_token)


def ollama_template(tokenizer: Any) -> str:
    """The chat template in Go's template language, as Ollama writes a list of messages.

    Found by rendering: what stands around a system message, a user's turn, an answer, and before
    an answer to come. TokenizerError where conversations are not such pieces put together.
    """
    if not isinstance(tokenizer.chat_template, str):
        raise TokenizerError("the tokenizer has no chat template.")

    def written(*turns: tuple[str, str], ask: bool = True) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)

    try:
        asked = written(("user", USER))
        bare = written(("user", USER), ask=False)
        twice = written(("user", USER), ("assistant", ANSWER), ("user", AGAIN))
    except Exception as error:  # jinja and the template itself raise many kinds
        raise TokenizerError(f"its chat template cannot be rendered: {error}.") from None
    start = _without_start(asked.partition(USER)[0], tokenizer)
    after_user = bare.partition(USER)[2]
    prompt = asked.removeprefix(bare) if asked.startswith(bare) else None
    middle = twice.partition(USER)[2].partition(ANSWER)
    between, _, end = middle[2].partition(AGAIN)
    try:
        system = written(("system", SYSTEM), ("user", USER))
    except Exception:  # a template without a place for them
        system = ""
    system_start, _, behind = system.partition(SYSTEM)
    if prompt is None or middle[0] != after_user + prompt or end != after_user + prompt:
        raise TokenizerError("its chat template is more than pieces around the turns.")
    # Of the start of a conversation, what each user's turn begins with is its end.
    user = next((start[n:] for n in range(len(start) + 1) if between.endswith(start[n:])), "")
    answer_end = between.removesuffix(user)
    first = start.removesuffix(user)
    system_start = _without_start(system_start, tokenizer)
    with_system = behind.partition(USER)[0].removesuffix(user)
    if system and not behind.partition(USER)[0].endswith(user):
        system = ""
    pieces = [start, system_start, with_system, user, after_user, prompt, answer_end]
    if any("{{" in piece or '"""' in piece for piece in pieces):
        raise TokenizerError("its chat template writes what Go's templates take for their own.")
    opening = first
    if system:
        opening = (
            f"{{{{ if .System }}}}{system_start}{{{{ .System }}}}{with_system}"
            f"{{{{ else }}}}{first}{{{{ end }}}}"
        )
    return (
        f"{opening}{{{{ range $i, $m := .Messages }}}}"
        f'{{{{ if eq $m.Role "user" }}}}{user}{{{{ $m.Content }}}}{after_user}'
        f'{{{{ else if eq $m.Role "assistant" }}}}{prompt}{{{{ $m.Content }}}}{answer_end}'
        f"{{{{ end }}}}{{{{ end }}}}{prompt}"
    )
