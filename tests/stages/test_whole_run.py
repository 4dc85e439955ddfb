"""One small recipe through every stage, and what a second run does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.data.store import load_rendered
from infifusion.errors import ArtifactError, InfiFusionError
from infifusion.recipe import load_recipe
from infifusion.stages.run import run_recipe
from infifusion.store.records import read_json
from infifusion.types import Beliefs


def command(*arguments: object):
    """Run the command line in this process; returns its result, errors as exit codes."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if isinstance(result.exception, InfiFusionError):
        result.exit_code = result.exception.exit_status
    elif result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with every stage done; recipe.yaml lies beside it."""
    suite = request.getfixturevalue("suite")
    make = request.getfixturevalue("make_recipe")
    folder = tmp_path_factory.mktemp("run")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(make(suite)), encoding="utf-8")
    assert command("run", recipe, "--run-dir", folder / "out").exit_code == 0
    return folder


def test_a_run_leaves_models_scores_and_a_report(finished: Path) -> None:
    out = finished / "out"
    summary = read_json(out / "summary.json")
    wanted = ["pivot", "source:a", "source:b", "source:c", "sft", "unified", "pairwise"]
    assert list(summary["models"])[:7] == wanted
    for model in summary["models"].values():
        assert 0 < model["bits_per_byte"]["sums"] < 12
    page = (out / "report" / "index.html").read_text(encoding="utf-8")
    assert "pairwise" in page and (out / "merge/pairwise/model/README.md").exists()
    assert {"prepare", "teach/a", "fuse/unified", "distill/sft"} <= summary["stages"].keys()


@pytest.mark.parametrize("place", ["distill/unified", "distill/sft", "merge/pairwise"])
def test_the_results_load_with_their_tokenizer_and_differ_from_the_pivot(
    finished: Path, suite: Path, place: str
) -> None:
    folder = finished / "out" / place / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pivot = AutoModelForCausalLM.from_pretrained(suite / "pivot")
    changed = [
        not torch.equal(a, b) for a, b in zip(model.parameters(), pivot.parameters(), strict=True)
    ]
    assert all(changed)
    ids = tokenizer("Ben has 2", return_tensors="pt").input_ids
    assert torch.isfinite(model(ids).logits).all()


def test_a_second_run_computes_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished stage was computed again")

    for name in ("teach.teacher_of", "distill.train", "merge.merge_checkpoints"):
        monkeypatch.setattr(f"infifusion.stages.{name}", refuse)
    monkeypatch.setattr("infifusion.teacher.bits.load_model", refuse)
    before = read_json(finished / "out" / "summary.json")
    recipe, out = finished / "recipe.yaml", finished / "out"
    assert command("run", recipe, "--run-dir", out).exit_code == 0
    assert read_json(out / "summary.json") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("teach.top_k=4", "top_k: the folder has 5, the recipe wants 4"),
        ("data.max_length=99", "data.max_length"),
        ("fuse.unified.function=mean", "target.function"),
        ("seed=7", "seed"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_name(
    finished: Path, change: str, message: str
) -> None:
    recipe, out = finished / "recipe.yaml", finished / "out"
    result = CliRunner().invoke(
        cli.app, ["run", str(recipe), "--run-dir", str(out), "--set", change]
    )
    assert isinstance(result.exception, ArtifactError)
    assert message in str(result.exception)


def test_an_interrupted_teacher_pass_goes_on_and_gives_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infifusion.stages import teach

    real, written = teach.write_shard, []

    def stop_after_one(folder: Path, shard: int, beliefs: Beliefs, *, vocabulary: int) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(shard)
        real(folder, shard, beliefs, vocabulary=vocabulary)

    recipe, out = finished / "recipe.yaml", tmp_path / "out"
    monkeypatch.setattr(teach, "write_shard", stop_after_one)
    result = CliRunner().invoke(
        cli.app, ["run", str(recipe), "--run-dir", str(out), "--until", "teach"]
    )
    assert result.exit_code != 0 and not (out / "teach/a/manifest.json").exists()
    first = (out / "teach/a/shard-00000.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(teach, "write_shard", real)
    assert command("run", recipe, "--run-dir", out, "--until", "teach").exit_code == 0
    assert (out / "teach/a/shard-00000.safetensors").stat().st_mtime_ns == first
    names = sorted(p.name for p in (out / "teach/a").glob("*.safetensors"))
    assert len(names) == 3
    for name in names:
        whole = (finished / "out/teach/a" / name).read_bytes()
        assert (out / "teach/a" / name).read_bytes() == whole


def test_a_further_source_leaves_the_others_caches_alone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infifusion.stages import teach

    values = yaml.safe_load((finished / "recipe.yaml").read_text())
    values["fuse"] = {"unified": {"function": "uncertainty", "gate": "none"}}
    values["distill"], values["merge"] = {"sft": {}, "unified": {"target": "unified"}}, {}
    whole, two = tmp_path / "whole.yaml", tmp_path / "two.yaml"
    whole.write_text(yaml.safe_dump(values))
    values["sources"].pop("b")
    two.write_text(yaml.safe_dump(values))
    out = tmp_path / "out"
    assert command("run", two, "--run-dir", out, "--until", "distill").exit_code == 0
    kept = {p: p.stat().st_mtime_ns for n in "ac" for p in (out / "teach" / n).iterdir()}
    sft = (out / "distill/sft/manifest.json").stat().st_mtime_ns
    loaded = []
    real = teach.load_model
    monkeypatch.setattr(teach, "load_model", lambda m: loaded.append(Path(m.model).name) or real(m))
    refused = command("run", whole, "--run-dir", out, "--until", "fuse")
    assert refused.exit_code == 2 and "--redo" in str(refused.exception)
    done = command("run", whole, "--run-dir", out, "--until", "distill", "--redo")
    assert done.exit_code == 0 and loaded == ["b"]
    assert kept == {p: p.stat().st_mtime_ns for p in kept}
    # What the three sources prepare and teach together is what they would have from the start.
    assert command("run", whole, "--run-dir", tmp_path / "new", "--until", "fuse").exit_code == 0
    for stage in ("prepare", "teach", "fuse"):
        for path in sorted((tmp_path / "new" / stage).rglob("*")):
            if path.suffix in (".safetensors", ".npy", ".jsonl"):
                assert (
                    path.read_bytes()
                    == (out / stage / path.relative_to(tmp_path / "new" / stage)).read_bytes()
                )
    assert (
        read_json(out / "prepare/manifest.json")["counts"]
        == (read_json(tmp_path / "new/prepare/manifest.json")["counts"])
    )
    assert (out / "distill/sft/manifest.json").stat().st_mtime_ns == sft  # no source is in it


def test_a_changed_cache_is_noticed(finished: Path, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    shard = out / "teach/b/shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    shutil.rmtree(out / "fuse/unified")
    result = CliRunner().invoke(
        cli.app, ["run", str(finished / "recipe.yaml"), "--run-dir", str(out)]
    )
    assert isinstance(result.exception, ArtifactError) and shard.name in str(result.exception)


def test_targets_hold_distributions_and_the_gate_shuts_sources(finished: Path) -> None:
    import numpy as np

    fused = finished / "out/fuse"
    prob = np.load(fused / "unified/prob_TK.npy")
    weight = np.load(fused / "unified/weight_ST.npy")
    assert (prob.sum(axis=1) <= 1 + 1e-5).all() and (prob >= 0).all()
    total = weight.sum(axis=0)
    assert np.logical_or(np.isclose(total, 1, atol=1e-5), total == 0).all()
    shut = 0
    for name in "abc":
        counts = read_json(fused / f"pair-{name}/manifest.json")["counts"]
        gated = counts["sources"][name]["gated_examples"]
        # A shut source leaves its aligned positions untaught.
        assert (counts["taught"] < counts["sources"][name]["aligned"]) == (gated > 0)
        shut += gated
    assert 0 < shut < 3 * 36


def test_check_says_what_would_happen_and_what_is_wrong(finished: Path) -> None:
    recipe = finished / "recipe.yaml"
    result = command("check", recipe)
    assert result.exit_code == 0 and "fuse      unified: uncertainty of a, b, c" in result.output
    assert f"infifusion run {recipe}" in result.output
    wrong = command(
        "check",
        recipe,
        "--set",
        "fuse.unified.function=uncertainy",
        "--set",
        "training.learning_rte=1",
        "--set",
        "merge.pairwise.params={taus: 1}",
    )
    text = str(wrong.exception)
    assert wrong.exit_code == 2
    for part in ("Did you mean 'uncertainty'", "Did you mean 'learning_rate'", "no such key"):
        assert part in text


def test_a_recipe_may_name_the_processor_as_a_merges_device(finished: Path) -> None:
    recipe, device = finished / "recipe.yaml", "merge.pairwise.device"
    run = ("run", recipe, "--run-dir", finished / "out", "--set")
    assert command(*run, f"{device}=cpu").exit_code == 0, "the fingerprint is another"
    refused = command(*run, f"{device}=cuda")
    assert refused.exit_code == 2 and "merges are calculated on the processor" in str(
        refused.exception
    )


def test_list_names_every_method_with_its_line_and_file() -> None:
    table = json.loads(command("list", "--json").output)
    assert set(table) == {"fusion functions", "losses", "merge methods", "choosers", "tasks"}
    assert {"entropy_per_byte", "agreement", "unit_tests"} == table["choosers"].keys()
    assert {"uncertainty", "bayes", "min_ce"} <= table["fusion functions"].keys()
    assert table["merge methods"]["rsaf"]["file"] == "src/infifusion/merge/methods/rsaf.py"
    root = Path(cli.__file__).parents[3]
    for entries in table.values():
        for entry in entries.values():
            assert len(entry["line"]) > 15 and (root / entry["file"]).is_file()


def test_an_online_target_has_the_rows_of_the_cached_one(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from infifusion.data.store import load_target
    from infifusion.recipe import load_recipe
    from infifusion.stages.online import OnlineTarget
    from infifusion.store.folders import RunFolder

    recipe, folder = load_recipe(finished / "recipe.yaml"), RunFolder(finished / "out")
    targets = {target.name: target for target in recipe.resolve().targets}
    row_N1 = load_rendered(folder.rendered("pivot", "train")).row_N1
    numbers = np.asarray([7, 0, 20, 3])
    row_R = np.concatenate([np.arange(row_N1[n], row_N1[n + 1]) for n in numbers])
    for name in ("unified", "pair-b"):
        made = OnlineTarget(recipe, folder, targets[name], tmp_path)(numbers)
        kept = load_target(folder.fuse(name))
        np.testing.assert_allclose(made.weight_ST, kept.weight_ST[:, row_R], atol=1e-4)
        np.testing.assert_allclose(made.zscore_TK, kept.zscore_TK[row_R], atol=1e-2)
        for t, row in enumerate(row_R):
            found = dict(zip(made.ids_TK[t].tolist(), made.prob_TK[t].tolist(), strict=True))
            expected = dict(zip(kept.ids_TK[row].tolist(), kept.prob_TK[row].tolist(), strict=True))
            found.pop(-1, None), expected.pop(-1, None)
            assert found == pytest.approx(expected, abs=2e-3)


def test_a_run_with_online_teachers_makes_no_cache(finished: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((finished / "recipe.yaml").read_text())
    values["fuse"] = {"unified": {"function": "uncertainty", "gate": "none", "teacher": "online"}}
    values["distill"], values["merge"] = {"unified": values["distill"]["unified"]}, {}
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump(values))
    assert command("run", recipe, "--run-dir", out).exit_code == 0
    assert not (out / "teach").exists() and not (out / "fuse").exists()
    made = read_json(out / "distill/unified/history.json")
    cached = read_json(finished / "out/distill/unified/history.json")
    for one, other in zip(made["log"], cached["log"], strict=True):
        assert one["divergence"] == pytest.approx(other["divergence"], rel=1e-2)
    assert (out / "report/index.html").exists()


def test_a_run_that_the_disk_cannot_hold_stops_before_its_teacher_pass(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InfiFusionError, match=r"needs about [0-9,]+ more bytes.* has 1,000 free"):
        run_recipe(
            load_recipe(finished / "recipe.yaml"),
            tmp_path / "out",
            until="report",
            recipe_file=finished / "recipe.yaml",
            command="",
        )
    assert (tmp_path / "out/prepare/manifest.json").exists()
    assert not (tmp_path / "out/teach").exists()
    # A finished run has nothing left to write.
    assert command("run", finished / "recipe.yaml", "--run-dir", finished / "out").exit_code == 0
