"""Commands that take models from and to other programs' formats: convert, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option


def convert(
    file: Annotated[Path, Argument(metavar="FILE.gguf", help="A model in a GGUF file.")],
    out: Annotated[Path, Argument(metavar="OUT_DIR", help="New folder of the model.")],
) -> None:
    """Make a plain model folder of a GGUF file. With its tokenizer and chat template."""
    from infifusion.commands.export_model import convert_file
    from infifusion.process.runtime import quiet_libraries

    quiet_libraries()
    typer.echo(convert_file(file, out))


def export(
    model: Annotated[Path, Argument(metavar="MODEL_DIR", help="A model folder.")],
    to: Annotated[str, Option("--to", help="gguf, or ollama: a GGUF file and a Modelfile.")],
    quant: Annotated[
        str,
        Option(help="bf16, f16, f32, q8_0; or one of llama-quantize's, such as q4_k_m."),
    ] = "bf16",
    out: Annotated[
        Path | None, Option(help="The file to write; MODEL-QUANT.gguf by default.")
    ] = None,
) -> None:
    """Write a model for llama.cpp or Ollama. By llama.cpp's own converter."""
    from infifusion.commands.export_model import export_model

    typer.echo(export_model(model, to=to, quant=quant, out=out))
