"""A source's temperature: as the recipe gives it, or fitted once and kept."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from infifusion.data.store import load_examples, load_rendered
from infifusion.errors import DataError
from infifusion.process.runtime import log, rank
from infifusion.recipe import Model
from infifusion.store.folders import RunFolder
from infifusion.store.identity import prepared_hash
from infifusion.store.records import read_record, write_record
from infifusion.store.spread import wait_for
from infifusion.teacher.forward import Teacher
from infifusion.teacher.temperature import fit_temperature


def calibrated(
    teacher: Teacher, model: Model, folder: RunFolder, *, name: str, kept: Path
) -> Teacher:
    """The teacher of the source `name` at the temperature of the recipe.

    A fitted one is written to the file `kept`, by the first process alone; the others, and a run
    that goes on after an interruption, read it there. So all beliefs have the same temperature.
    Raises DataError where the validation share holds no example.
    """
    if model.temperature == "fit" and not kept.exists():
        if rank() == 0:
            _fit(teacher, folder, name, kept)
        else:
            wait_for([kept], f"temperature of {name}")
    return replace(teacher, temperature=temperature_of(model, kept))


def temperature_of(model: Model, kept: Path) -> float:
    """The number in the recipe, or the one that was fitted and kept."""
    if model.temperature == "fit":
        return float(read_record(kept)["temperature"])
    return model.temperature


def temperature_identity(model: Model, folder: RunFolder, name: str) -> dict[str, object]:
    """What decides the temperature, for fingerprints: the number, or the examples of the fit."""
    if model.temperature != "fit":
        return {"temperature": model.temperature}
    validation = prepared_hash(folder, folder.rendered(name, "validation"))
    return {"temperature": "fit", "validation": validation}


def _fit(teacher: Teacher, folder: RunFolder, name: str, kept: Path) -> None:
    rendered = load_rendered(folder.rendered(name, "validation"))
    if len(rendered) == 0:
        raise DataError(
            f"sources.{name}.temperature: fit needs validation examples, and data.validation_share "
            "keeps none apart: it is rounded per domain, and answers of write_responses are never "
            "among them. Raise it, or give a number as temperature."
        )
    names = [example.id for example in load_examples(folder.examples("validation"))]
    found = fit_temperature(teacher, rendered, names=names)
    write_record(kept, asdict(found))
    log.info(
        "temperature of %s: %.4f%s; %.4f nats per token on %d tokens of the validation share, "
        "%.4f without it",
        name,
        found.temperature,
        ", the end of what is tried" if found.at_the_end else "",
        found.nats,
        found.positions,
        found.nats_at_1,
    )
