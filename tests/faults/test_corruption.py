"""A byte that changed, a file cut short, gone or of another run: noticed, named, mended."""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import write_jsonl

from infifusion.errors import ArtifactError
from infifusion.recipe import Recipe, load_recipe
from infifusion.report.run_folder import read_run
from infifusion.stages import evaluate as evaluating
from infifusion.stages import fuse as fusing
from infifusion.stages.distill import distill
from infifusion.stages.evaluate import compare_models, evaluate
from infifusion.stages.fuse import fuse
from infifusion.stages.merge import merge
from infifusion.stages.run import run_recipe
from infifusion.stages.teach import teach
from infifusion.store import stage as running
from infifusion.store.arrays import open_array
from infifusion.store.artifacts import EXACT, MANIFEST, STARTED, open_stage, read_manifest
from infifusion.store.folders import RunFolder
from infifusion.store.hashes import sha256_of
from infifusion.store.records import read_record, write_json, write_record
from infifusion.train.trainer import FusionTrainer

SEED = random.Random(0)


class Killed(BaseException):
    """What ends a process between two of its lines."""


def flip(path: Path, place: int | None = None) -> None:
    """Change one bit of one byte, by default of any."""
    data = bytearray(path.read_bytes())
    data[SEED.randrange(len(data)) if place is None else place] ^= 1 << SEED.randrange(8)
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture(scope="module")
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recipe.yaml and a finished run in out/, which no test changes."""
    suite = request.getfixturevalue("suite")
    make = request.getfixturevalue("make_recipe")
    folder = tmp_path_factory.mktemp("run")
    (folder / "tasks").mkdir()
    write_jsonl(
        folder / "tasks" / "demo_word.jsonl",
        [{"id": f"i{n}", "prompt": "Ben", "response": "1 #### 1", "answer": "1"} for n in range(6)],
    )
    evaluate = {
        "tasks": ["demo_word"],
        "tasks_from": "infifusion.demo.tasks:TASKS",
        "data": str(folder / "tasks"),
        "max_new_tokens": 4,
    }
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(make(suite, evaluate=evaluate)), encoding="utf-8"
    )
    run(folder, folder / "out", until="report")
    return folder


def run(folder: Path, out: Path, *, until: str, redo: bool = False) -> None:
    path = folder / "recipe.yaml"
    run_recipe(load_recipe(path), out, until=until, recipe_file=path, command="", redo=redo)


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> tuple[Recipe, RunFolder]:
    """The recipe and a copy of the run that may be damaged."""
    shutil.copytree(finished / "out", tmp_path / "out")
    return load_recipe(finished / "recipe.yaml"), RunFolder(tmp_path / "out")


def records(out: Path) -> list[Path]:
    """Every manifest of a run."""
    return sorted(out.rglob(MANIFEST))


def signed_files(out: Path) -> dict[str, str]:
    """Hashes of every file that a manifest vouches for, as they are now, but for those that hold
    seconds."""
    paths = [m.parent / name for m in records(out) for name in read_record(m)["files"]]
    return {
        str(path.relative_to(out)): sha256_of(path)
        for path in sorted(paths)
        if path.name not in ("scores.json", "history.json", "merge_details.json")
    }


def test_every_byte_of_a_manifest_of_every_stage_is_guarded(finished: Path, tmp_path: Path) -> None:
    found = records(finished / "out")
    assert len(found) == 25
    one_each = {path.relative_to(finished / "out").parts[0]: path for path in found}
    assert len(one_each) == 6
    path, flips = tmp_path / MANIFEST, 0
    for manifest in one_each.values():
        whole = manifest.read_bytes()
        fingerprint = read_record(manifest)["fingerprint"]
        path.write_bytes(whole)
        with path.open("r+b", buffering=0) as file:
            for place, byte in enumerate(whole):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << place % 8]), place)
                with pytest.raises(ArtifactError, match="is damaged") as caught:
                    open_stage(tmp_path, fingerprint)
                os.pwrite(file.fileno(), bytes([byte]), place)
                assert str(path) in str(caught.value)
                flips += 1
    assert flips > 10_000


def test_every_bit_of_what_a_stage_began_with_is_guarded(tmp_path: Path) -> None:
    print_of = {"top_k": 10, "model": {"ä": 0.1, "files": ["x"]}}
    open_stage(tmp_path, print_of)
    path = tmp_path / STARTED
    whole = path.read_bytes()
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"started\.json is damaged"):
            open_stage(tmp_path, print_of)


@pytest.mark.parametrize("harm", [cut, Path.unlink])
def test_a_file_that_is_short_or_gone_is_noticed_at_every_start(
    copied: tuple[Recipe, RunFolder], harm: Callable[[Path], object]
) -> None:
    _, folder = copied
    names = []
    for path in records(folder.root):
        manifest = read_record(path)
        for name in manifest["files"]:
            victim = path.parent / name
            kept = victim.read_bytes()
            harm(victim)
            with pytest.raises(ArtifactError, match="--redo") as caught:
                open_stage(path.parent, manifest["fingerprint"])
            assert str(victim) in str(caught.value)
            victim.write_bytes(kept)
            names.append(victim.name)
    assert len(names) > 100 and {"shard-00001.safetensors", "prob_TK.npy"} <= set(names)


def target(recipe: Recipe, name: str):
    return next(one for one in recipe.resolve().targets if one.name == name)


def training_run(recipe: Recipe, name: str):
    return next(one for one in recipe.resolve().runs if one.name == name)


# What reads a finished folder; the folder it writes; a file that it reads; one to swap it with.
READERS = {
    "teach": (
        lambda recipe, folder: teach(recipe, folder, "b"),
        "teach/b",
        ["prepare/train.jsonl", "prepare/rendered/b-train.safetensors"],
        "prepare/rendered/c-train.safetensors",
    ),
    "fuse": (
        lambda recipe, folder: fuse(recipe, folder, target(recipe, "pair-a")),
        "fuse/pair-a",
        ["teach/a/shard-00001.safetensors", "prepare/rendered/pivot-train.safetensors"],
        "teach/c/shard-00001.safetensors",
    ),
    "distill": (
        lambda recipe, folder: distill(recipe, folder, training_run(recipe, "unified")),
        "distill/unified",
        [*(f"fuse/unified/{name}.npy" for name in fusing.ARRAYS), "prepare/train.jsonl"],
        "fuse/pair-b/prob_TK.npy",
    ),
    "merge": (
        lambda recipe, folder: merge(recipe, folder, recipe.resolve().merges[0]),
        "merge/pairwise",
        ["distill/pair-a/model/model.safetensors", "distill/pair-b/model/config.json"],
        "distill/pair-c/model/model.safetensors",
    ),
    "evaluate": (
        lambda recipe, folder: evaluate(recipe, folder, "pairwise", recipe.resolve()),
        "evaluate/pairwise",
        ["merge/pairwise/model/model.safetensors", "prepare/held_out.jsonl"],
        "distill/sft/model/model.safetensors",
    ),
    "comparisons": (
        lambda recipe, folder: compare_models(folder, recipe.resolve(), ["demo_word"]),
        "evaluate/comparisons.json",
        ["evaluate/pairwise/demo_word.jsonl", "evaluate/sft/scores.json"],
        "evaluate/source__c/demo_word.jsonl",
    ),
    "report": (
        lambda recipe, folder: read_run(folder.root),
        "report",
        [
            "fuse/unified/weights.json",
            "distill/sft/history.json",
            "merge/pairwise/merge_details.json",
            "evaluate/sft/scores.json",
        ],
        "fuse/pair-a/weights.json",
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_changed_file_is_named_before_it_is_used(
    copied: tuple[Recipe, RunFolder], reader: str
) -> None:
    recipe, folder = copied
    read, written, files, other = READERS[reader]
    place = folder.root / written

    def swap(path: Path) -> None:
        shutil.copyfile(folder.root / other, path)

    shutil.rmtree(place) if place.is_dir() else place.unlink()
    for name in files:
        victim = folder.root / name
        kept = victim.read_bytes()
        for harm in (
            flip,
            flip,
            flip,
            cut,
            lambda path: shutil.copyfile(folder.root / other, path),
        ):
            harm(victim)
            with pytest.raises(ArtifactError, match="is not the file that was written") as caught:
                read(recipe, folder)
            assert str(victim) in str(caught.value) and "--redo" in str(caught.value)
            assert not (place / MANIFEST).exists()
            victim.write_bytes(kept)


@pytest.fixture
def damaged(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """The run in its own place, where it may be damaged: scores name the folder of their model."""
    shutil.copytree(finished / "out", tmp_path / "kept")
    yield finished / "out"
    shutil.rmtree(finished / "out")
    shutil.copytree(tmp_path / "kept", finished / "out")


def test_redo_makes_anew_what_is_damaged_and_no_more(finished: Path, damaged: Path) -> None:
    out = damaged
    before = signed_files(out)
    flip(out / "teach/a/shard-00001.safetensors")
    flip(out / "teach/b" / MANIFEST)
    flip(out / "teach/b/shard-00002.safetensors")
    (out / "fuse/unified/zscore_TK.npy").unlink()
    flip(out / "distill/pair-b/model/model.safetensors")
    cut(out / "merge/pairwise/merge_details.json")
    flip(out / "evaluate/sft/demo_word.jsonl")
    kept = {
        out / name: (out / name).stat().st_mtime_ns
        for name in (
            "teach/a/shard-00000.safetensors",
            "teach/b/shard-00001.safetensors",
            "distill/sft/model/model.safetensors",
            "evaluate/unified/demo_word.jsonl",
            "evaluate/source__a/scores.json",
        )
    }
    with pytest.raises(ArtifactError, match="--redo"):
        run(finished, out, until="report")
    run(finished, out, until="report", redo=True)
    assert signed_files(out) == before
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def reopened(stage: Path) -> None:
    """Make a finished teacher pass one that was killed before its manifest."""
    manifest = read_record(stage / MANIFEST)
    write_record(stage / STARTED, {key: manifest[key] for key in ("fingerprint", EXACT)})
    (stage / MANIFEST).unlink()


HARMS: dict[str, Callable[[Path], object]] = {
    "flipped": lambda stage: flip(stage / "shard-00001.safetensors"),
    "cut": lambda stage: cut(stage / "shard-00001.safetensors"),
    "gone": lambda stage: (stage / "shard-00001.safetensors").unlink(),
    "of another place": lambda stage: shutil.copyfile(
        stage / "shard-00000.safetensors", stage / "shard-00001.safetensors"
    ),
    "of another run, with its receipt": lambda stage: [
        shutil.copyfile(stage.parent / "c" / name, stage / name)
        for name in ("shard-00001.safetensors", "receipts/shard-00001.safetensors.json")
    ],
    "receipt flipped": lambda stage: flip(stage / "receipts/shard-00001.safetensors.json"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_an_unfinished_pass_makes_a_damaged_shard_anew(
    copied: tuple[Recipe, RunFolder], caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    recipe, folder = copied
    stage = folder.teach("a")
    whole = {path.name: path.read_bytes() for path in stage.glob("*.safetensors")}
    kept = (stage / "shard-00002.safetensors").stat().st_mtime_ns
    reopened(stage)
    HARMS[harm](stage)
    with caplog.at_level(logging.WARNING, logger="infifusion"):
        logging.getLogger("infifusion").propagate = True
        teach(recipe, folder, "a")
    assert "Made anew: shard-00001.safetensors" in caplog.text
    assert "shard-00000" not in caplog.text
    assert {path.name: path.read_bytes() for path in stage.glob("*.safetensors")} == whole
    assert (stage / "shard-00002.safetensors").stat().st_mtime_ns == kept


@pytest.mark.parametrize("array", fusing.ARRAYS)
def test_an_unfinished_target_makes_a_damaged_chunk_anew(
    copied: tuple[Recipe, RunFolder], monkeypatch: pytest.MonkeyPatch, array: str
) -> None:
    recipe, folder = copied
    out = folder.fuse("unified")
    whole = (out / f"{array}.npy").read_bytes()
    shutil.rmtree(out)
    monkeypatch.setattr(fusing, "CHUNK_EXAMPLES", 10)
    real = running.close_stage

    def killed(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(running, "close_stage", killed)
    with pytest.raises(Killed):
        fuse(recipe, folder, target(recipe, "unified"))
    monkeypatch.setattr(running, "close_stage", real)
    stamps = {p.name: p.stat().st_mtime_ns for p in (out / "done").iterdir()}
    assert len(stamps) == 4
    flip(out / f"{array}.npy", place=200)  # in the first rows, behind the header
    again = []
    combine = fusing.fuse_chunk
    monkeypatch.setattr(fusing, "fuse_chunk", lambda *a: again.append(1) or combine(*a))
    fuse(recipe, folder, target(recipe, "unified"))
    assert (out / f"{array}.npy").read_bytes() == whole and len(again) == 1


def test_a_damaged_head_of_an_unfinished_array_is_refused(finished: Path, tmp_path: Path) -> None:
    whole, path = finished / "out/fuse/unified/prob_TK.npy", tmp_path / "prob_TK.npy"
    shape = np.load(whole).shape
    shutil.copyfile(whole, path)
    assert (open_array(path, shape, np.float32) == np.load(whole)).all()
    for place in range(128):
        shutil.copyfile(whole, path)
        flip(path, place)
        with pytest.raises(ArtifactError, match=r"prob_TK\.npy is not the array"):
            open_array(path, shape, np.float32)


def test_training_goes_on_from_the_last_checkpoint_that_is_whole(
    copied: tuple[Recipe, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = copied
    settings = {**recipe.training, "save_steps": 1, "save_total_limit": 2, "max_steps": 4}
    recipe = recipe.model_copy(update={"training": settings})
    sft = training_run(recipe, "sft")
    shutil.rmtree(folder.distill("sft"))
    distill(recipe, folder, sft)
    whole = (folder.distill("sft") / "model/model.safetensors").read_bytes()
    shutil.rmtree(folder.distill("sft"))
    real, steps = FusionTrainer.training_step, []

    def until_killed(self: FusionTrainer, *given: object, **named: object):
        steps.append(self.state.global_step)
        if len(steps) == 4:
            raise Killed
        return real(self, *given, **named)

    monkeypatch.setattr(FusionTrainer, "training_step", until_killed)
    with pytest.raises(Killed):
        distill(recipe, folder, sft)
    left = folder.distill("sft") / "checkpoints"
    assert sorted(p.name for p in left.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    unharmed = folder.root / "unharmed"
    shutil.copytree(folder.distill("sft"), unharmed)
    names = sorted(p.name for p in (left / "checkpoint-3").iterdir())
    assert {"model.safetensors", "optimizer.pt", "trainer_state.json", "whole.json"} <= set(names)
    for name in names:
        shutil.rmtree(folder.distill("sft"))
        shutil.copytree(unharmed, folder.distill("sft"))
        flip(left / "checkpoint-3" / name)
        steps.clear()
        steps.extend([0] * 4)  # killed no more
        distill(recipe, folder, sft)
        assert steps[4:] == [2, 3], name
        made = folder.distill("sft") / "model/model.safetensors"
        assert made.read_bytes() == whole


def test_an_unfinished_evaluation_asks_again_where_its_answers_are_damaged(
    copied: tuple[Recipe, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = copied
    out = folder.evaluate("sft")
    whole = (out / "demo_word.jsonl").read_bytes()
    shutil.rmtree(out)
    real = evaluating.merge_parts

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(evaluating, "merge_parts", killed)
    with pytest.raises(Killed):
        evaluate(recipe, folder, "sft", recipe.resolve())
    monkeypatch.setattr(evaluating, "merge_parts", real)
    flip(out / "parts/0-of-1/demo_word.jsonl")
    evaluate(recipe, folder, "sft", recipe.resolve())
    assert (out / "demo_word.jsonl").read_bytes() == whole


def test_a_manifest_without_a_signature_is_damaged(tmp_path: Path) -> None:
    manifest = {"fingerprint": {"a": 1}, "counts": {}, "seconds": 0.1, "files": {}, "bytes": {}}
    write_json(tmp_path / MANIFEST, manifest)
    with pytest.raises(ArtifactError, match="not signed"):
        read_record(tmp_path / MANIFEST)


def test_a_signed_manifest_that_lacks_something_is_damaged(tmp_path: Path) -> None:
    write_record(tmp_path / MANIFEST, {"fingerprint": {}, "counts": {}})
    with pytest.raises(ArtifactError, match="it lacks bytes, files, fingerprint_sha256, seconds"):
        read_manifest(tmp_path, made_by="teach")


def test_a_merge_makes_anew_a_shard_that_was_damaged_while_it_was_away(
    copied: tuple[Recipe, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    from infifusion.merge.engine import walker
    from infifusion.merge.engine import weights as merge_weights

    recipe, folder = copied
    model = folder.merge("pairwise") / "model/model.safetensors"
    whole = model.read_bytes()
    shutil.rmtree(folder.merge("pairwise"))
    real = merge_weights.copy_side_files

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(merge_weights, "copy_side_files", killed)
    with pytest.raises(Killed):
        merge(recipe, folder, recipe.resolve().merges[0])
    monkeypatch.setattr(merge_weights, "copy_side_files", real)
    shard = walker.unfinished(model.parent) / "model.safetensors"
    data = np.fromfile(shard, np.uint8)
    flip(shard, place=len(data) - 5)
    merge(recipe, folder, recipe.resolve().merges[0])
    assert model.read_bytes() == whole
