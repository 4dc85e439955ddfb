"""Models in GGUF files, as llama.cpp, Ollama and LM Studio keep them: made plain folders, once."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import torch

from infifusion.errors import CheckpointError, RunError
from infifusion.merge.checkpoints.gguf import contents, model_of, tokenizer_of
from infifusion.process.runtime import log, rank
from infifusion.recipe import Model, Recipe
from infifusion.store.artifacts import LOOK_EVERY, cache_folder
from infifusion.store.durable import atomic_folder
from infifusion.store.hashes import sampled_sha256

MAGIC = b"GGUF"
PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
OLLAMA = re.compile(r"(ollama(://|/))?[\w.-]+(/[\w.-]+)?:[\w.-]+")
LONGEST_WAIT = 3600.0
"""Seconds that other processes wait for the first one's conversion."""


def in_folders(recipe: Recipe) -> Recipe:
    """The recipe with every model that is a GGUF file as a plain folder, converted where it is not
    yet."""

    def placed(where: str, model: Model) -> Model:
        try:
            return as_folder(model)
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from error

    models = {name: placed(f"sources.{name}", one) for name, one in recipe.sources.items()}
    return recipe.model_copy(update={"pivot": placed("pivot", recipe.pivot), "sources": models})


def as_folder(model: Model) -> Model:
    """The model itself, or where it is a GGUF file, the folder of it in the cache.

    Raises CheckpointError for a file that is none, a part of one, or a name of Ollama's.
    """
    file = gguf_of(model)
    if file is None:
        return model
    name = re.sub(r"[^\w.-]+", "-", file.stem)[:80]
    folder = cache_folder() / "gguf" / f"{name}-{sampled_sha256(file)[:12]}"
    if not (folder / "config.json").is_file():
        if rank() == 0:
            convert_gguf(file, folder)
        _wait_for(folder)
    return model.model_copy(update={"model": str(folder), "gguf_file": None, "revision": None})


def gguf_of(model: Model) -> Path | None:
    """The GGUF file that a recipe's model stands for; None for any other model."""
    place = Path(model.model).expanduser()
    if model.gguf_file is not None:
        if not place.is_dir():
            return _from_hub(model)
        file = place / model.gguf_file
        if not file.is_file():
            there = ", ".join(path.name for path in sorted(place.glob("*.gguf"))[:5]) or "none"
            raise CheckpointError(
                f"There is no {file}. GGUF files in the folder: {there}. Name one of them as "
                "gguf_file."
            )
        return _checked(file)
    if place.is_file():
        return _checked(place)
    if place.is_dir() and not (place / "config.json").exists():
        files = sorted(place.glob("*.gguf"))
        if len(files) == 1:
            return _checked(files[0])
        if files:
            raise CheckpointError(
                f"{place} holds {len(files)} GGUF files: {', '.join(f.name for f in files[:5])}. "
                "Say which: gguf_file: NAME beside model."
            )
    if not place.exists() and OLLAMA.fullmatch(model.model):
        raise CheckpointError(
            f"{model.model!r} is how Ollama calls a model; neither a folder nor the hub knows it. "
            f"Give its file: `ollama show --modelfile {model.model.rpartition('/')[2]}` prints it "
            "after FROM; or the model's name on the hub, such as Qwen/Qwen2.5-0.5B-Instruct."
        )
    return None


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF files do; those of Ollama have no ending."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def convert_gguf(file: Path, out: Path) -> list[str]:
    """Write the model of a GGUF file as a plain folder, with its tokenizer and chat template; what
    there is to say of it.

    Weights are float32 or float16 where the file holds nothing else, otherwise bfloat16. Raises
    RecipeError without the package gguf, CheckpointError with the reason where transformers cannot
    read the file, ArtifactError where the disk has no room.
    """
    _checked(file)
    dtype, parameters = contents(file)
    needed = parameters * torch.empty(0, dtype=dtype).element_size()
    out.parent.mkdir(parents=True, exist_ok=True)
    if needed > (free := shutil.disk_usage(out.parent).free):
        raise RunError(
            f"{file} takes {needed / 1e9:.1f} GB as a folder, and the disk of {out.parent} has "
            f"{free / 1e9:.1f} GB free. Make room, or set INFIFUSION_CACHE to another disk."
        )
    started = time.monotonic()
    model = model_of(file, dtype)
    tokenizer = tokenizer_of(file, int(model.config.get_text_config().vocab_size))
    with atomic_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    template = "the one in the file" if tokenizer.chat_template else "none in the file"
    own_head = not model.config.get_text_config().tie_word_embeddings
    said = [
        f"{file.name}: {parameters / 1e6:,.0f} M parameters to {out} as {str(dtype)[6:]} "
        f"({needed / 1e9:.1f} GB, {time.monotonic() - started:.0f} s)",
        "the head has weights of its own" if own_head else "the head is the embedding",
        f"chat template: {template}",
    ]
    log.info("%s; %s; %s.", *said)
    return said


def _checked(file: Path) -> Path:
    if PART.search(file.name):
        raise CheckpointError(
            f"{file} is one of several parts of a GGUF file. Put them together: llama-gguf-split "
            "--merge FIRST_PART WHOLE.gguf."
        )
    if not is_gguf(file):
        raise CheckpointError(
            f"there is no model folder at {file}, which is a file, and no GGUF file. Give the "
            "model's folder (config.json, safetensors), a GGUF file or a hub name."
        )
    return file


def _from_hub(model: Model) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(model.model, str(model.gguf_file), revision=model.revision)
    except Exception as error:  # the hub client raises many kinds, all about the input
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"There is no folder {model.model}, and the hub gives no {model.gguf_file} of that "
            f"name: {reason}"
        ) from error
    return _checked(Path(path))


def _wait_for(folder: Path) -> None:
    began = time.monotonic()
    while not (folder / "config.json").is_file():
        if time.monotonic() - began > LONGEST_WAIT:
            raise RunError(f"The first process has not made {folder} within an hour. Run again.")
        time.sleep(LOOK_EVERY)
