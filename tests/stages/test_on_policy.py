"""On-policy fusion as a stage: sources of any tokenizer correct what the pivot wrote."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import arithmetic, learn, write_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from infifusion.commands import cli
from infifusion.data.store import load_rendered, load_target
from infifusion.data.tokenize import gold_ids
from infifusion.errors import DataError, RecipeError
from infifusion.recipe import FuseTarget, Recipe
from infifusion.stages.on_policy import Corrector
from infifusion.stages.own_answers import open_readers, require_speakers
from infifusion.store.folders import PIVOT, RunFolder
from infifusion.store.records import read_json
from infifusion.teacher.forward import believe, make_teacher
from infifusion.teacher.load import load_model
from infifusion.train.own_text import Corrected, Drawn, OwnRows

TRAINING = {
    "learning_rate": 1e-3,
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "logging_steps": 1,
    "warmup_steps": 0,
}


@pytest.fixture(scope="session")
def taught(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite with models that can answer: a pivot, and sources with other tokenizers."""
    folder = tmp_path_factory.mktemp("taught")
    shutil.copytree(suite, folder, dirs_exist_ok=True)
    pairs = [(one["prompt"], one["response"]) for one in map(arithmetic, range(40))]
    for name, steps in (("pivot", 60), ("a", 90), ("b", 90)):
        model = AutoModelForCausalLM.from_pretrained(folder / name)
        learn(model, AutoTokenizer.from_pretrained(folder / name), pairs, steps=steps)
        model.save_pretrained(folder / name)
    permuted(folder / "pivot", folder / "a_in_pivot")
    return folder


def permuted(pivot: Path, out: Path) -> None:
    """out: a source with the pivot's tokenizer; out-mixed: the same model under a tokenizer that
    cuts alike and numbers its tokens otherwise."""
    tokenizer = AutoTokenizer.from_pretrained(pivot)
    model = AutoModelForCausalLM.from_pretrained(pivot)
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    mixed = out.parent / f"{out.name}-mixed"
    tokenizer.save_pretrained(mixed)
    size, width = len(tokenizer), model.config.vocab_size
    order = torch.randperm(size, generator=torch.Generator().manual_seed(1)).tolist()
    values = json.loads((mixed / "tokenizer.json").read_text())
    vocabulary = values["model"]["vocab"]
    values["model"]["vocab"] = {piece: order[id] for piece, id in vocabulary.items()}
    for token in values["added_tokens"]:
        token["id"] = order[token["id"]]
    (mixed / "tokenizer.json").write_text(json.dumps(values))
    new = torch.arange(width)
    new[torch.tensor(order)] = torch.arange(size)  # row order[i] holds what row i held
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding.copy_(embedding[new].clone())
        head = model.get_output_embeddings().weight
        if head is not embedding:
            head.copy_(head[new].clone())
    model.config.eos_token_id = model.generation_config.eos_token_id = order[0]
    model.save_pretrained(mixed)


def values_of(folder: Path, **changes: object) -> dict:
    values = {
        "name": "own",
        "pivot": {"model": str(folder / "pivot")},
        "sources": {name: {"model": str(folder / name)} for name in "ab"},
        "data": {
            "train": [{"path": str(folder / "train.jsonl"), "domain": "sums"}],
            "held_out": [{"path": str(folder / "held_out.jsonl"), "domain": "sums"}],
            "max_length": 128,
        },
        "teach": {"top_k": 5},
        "fuse": {"unified": {"gate": "none", "teacher": "online"}},
        "training": TRAINING,
        "distill": {"own": run_of()},
    }
    return {**values, **changes}


def run_of(**on_policy: object) -> dict:
    settings = {"share": 1, "max_new_tokens": 24, **on_policy}
    return {"target": "unified", "loss": "reverse_kl", "on_policy": settings}


def command(*words: object):
    result = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=True)
    return result


def made(values: dict, out: Path, *more: object) -> Path:
    """A run of a recipe."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.yaml").write_text(yaml.safe_dump(values))
    result = command("run", out / "recipe.yaml", "--run-dir", out / "run", *more)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return out / "run"


def until_distill(values: dict, out: Path) -> Path:
    return made(values, out, "--until", "distill")


def weights(run: Path, name: str = "own") -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(run / f"distill/{name}/model").state_dict()


def rounds(run: Path, name: str = "own") -> list[OwnRows]:
    paths = sorted((run / f"distill/{name}/rounds").glob("*.safetensors"))
    return [OwnRows.load(path) for path in paths]


@pytest.fixture(scope="module")
def finished(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half own text, half given, two foreign sources, to the report."""
    values = values_of(taught, distill={"own": run_of(share=0.5)})
    values["fuse"] = {"unified": {"gate": "domain"}}
    return made(values, tmp_path_factory.mktemp("finished"))


def test_a_whole_run_learns_from_its_own_text_and_says_so(finished: Path) -> None:
    manifest = read_json(finished / "distill/own/manifest.json")
    sheet = read_json(finished / "distill/own/on_policy.json")
    assert [one["round"] for one in sheet["rounds"]] == [0, 1]
    assert all(one["answers"] == 4 for one in sheet["rounds"])  # half of 8
    assert {"rounds/round-000000.safetensors", "on_policy.json"} <= manifest["files"].keys()
    for rows in rounds(finished):
        assert rows.learnt_T.any() and rows.weight_ST.shape[0] == 2
    tokens = sheet["samples"][0]["tokens"]
    assert {"text", "weights", "own", "target"} <= tokens[0].keys()
    assert "divergence_a" in sheet["rounds"][0]


def test_the_report_shows_a_sample_and_its_corrections(finished: Path) -> None:
    page = (finished / "report/index.html").read_text()
    assert "What the pivot wrote" in page and "own, round 1, sums" in page
    assert "The strongest corrections" in page


def test_the_pivot_as_its_own_source_has_nothing_to_learn(taught: Path, tmp_path: Path) -> None:
    """Zero loss and zero gradient, in every form."""
    values = values_of(taught, sources={"itself": {"model": str(taught / "pivot")}})
    start = AutoModelForCausalLM.from_pretrained(taught / "pivot").state_dict()
    training = {**TRAINING, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0}
    for name, form in (
        ("reverse", run_of()),
        ("forward", {**run_of(), "loss": "kl"}),
        ("jsd", {**run_of(), "loss": "jsd"}),
        ("gradient", run_of(form="policy_gradient")),
    ):
        values |= {"distill": {"own": form}, "training": training}
        run = until_distill(values, tmp_path / name)
        log = read_json(run / "distill/own/history.json")["log"]
        assert all(abs(line["loss"]) < 1e-6 and line["grad_norm"] < 1e-4 for line in log)
        for key, weight in weights(run).items():
            torch.testing.assert_close(weight, start[key], rtol=0, atol=1e-5)
        assert all(rows.learnt_T.sum() > 8 for rows in rounds(run))


@pytest.mark.parametrize("form", ["distribution", "policy_gradient"])
def test_a_tokenizer_that_cuts_alike_corrects_as_the_pivots_own(
    taught: Path, tmp_path: Path, form: str
) -> None:
    found = []
    for name in ("a_in_pivot", "a_in_pivot-mixed"):
        values = values_of(taught, sources={"a": {"model": str(taught / name)}})
        values |= {"distill": {"own": run_of(form=form)}, "training": {**TRAINING, "max_steps": 1}}
        run = until_distill(values, tmp_path / name)
        found.append((rounds(run)[0], weights(run)))
    own, mixed = (
        AutoTokenizer.from_pretrained(taught / name)("coins, 5").input_ids
        for name in ("pivot", "a_in_pivot-mixed")
    )
    assert len(own) == len(mixed) and own != mixed
    (one, first), (other, second) = found
    assert (one.ids_L == other.ids_L).all() and one.learnt_T.sum() > 8
    np.testing.assert_allclose(one.prob_TK, other.prob_TK, atol=1e-6)
    np.testing.assert_allclose(one.advantage_T, other.advantage_T, atol=1e-5)
    for key, weight in first.items():
        torch.testing.assert_close(second[key], weight, rtol=0, atol=1e-5)


def corrected(finished: Path, drawn: list[Drawn], **changes: object) -> Corrected:
    """What the sources of a finished run make of some answers to its training prompts."""
    values = yaml.safe_load((finished / "recipe.yaml").read_text())
    values["distill"]["own"]["on_policy"] |= changes
    recipe, folder = Recipe.from_mapping(values, where="here"), RunFolder(finished)
    (run,), (target,) = recipe.resolve().runs, recipe.resolve().targets
    corrector = Corrector(recipe, folder, target, run, {})
    asked = corrector.readers.asked(recipe, folder, run, None)
    settings = {"top_k": 1, "batch_tokens": 512, "head_rows": None}
    pivot = make_teacher(load_model(recipe.pivot), **settings)
    return corrector.correct(
        asked.prompts,
        drawn,
        lambda some, names: believe(pivot, some, 0, len(some), names=names),
        False,
    )


@pytest.mark.parametrize(
    ("form", "beyond"), [("distribution", 1), ("policy_gradient", 1), ("policy_gradient", 1.5)]
)
def test_another_token_that_stops_the_pivot_is_not_taken_for_its_usual_end(
    finished: Path, form: str, beyond: float
) -> None:
    """A source that is sure that the turn ends says so of the usual end alone. beyond: extrapolate;
    the pivot here is the one before training."""
    rendered = load_rendered(RunFolder(finished).rendered(PIVOT, "train"))
    gold = gold_ids(rendered)[: rendered.row_N1[1]].tolist()
    usual, other = gold[-1], 7
    rows = []
    for last in (usual, other):
        drawn = [Drawn(0, [*gold[:-1], last], finished=True)]
        made = corrected(finished, drawn, form=form, extrapolate=beyond)
        rows.append(made.rows)
        assert made.rows.ids_L[-1] == last
    ended, stopped = rows
    np.testing.assert_array_equal(ended.ids_TK[-1], stopped.ids_TK[-1])
    np.testing.assert_allclose(ended.prob_TK[-1], stopped.prob_TK[-1], atol=1e-6)
    sure = float(ended.prob_TK[-1][ended.ids_TK[-1] == usual].sum())
    assert sure > 0.5 and other not in ended.ids_TK[-1][:1]
    if form == "policy_gradient":
        given = float(stopped.prob_TK[-1][stopped.ids_TK[-1] == other].sum())
        expected = beyond * (np.log(max(given, 1e-6)) - stopped.before_T[-1])
        assert stopped.advantage_T[-1] == pytest.approx(expected, abs=1e-4)
        assert stopped.advantage_T[-1] < ended.advantage_T[-1]


def test_a_given_text_has_the_rows_of_the_cached_road(finished: Path) -> None:
    """The training responses, as if the pivot had written them, against the fused target."""
    folder = RunFolder(finished)
    rendered = load_rendered(folder.rendered(PIVOT, "train"))
    gold, row_N1 = gold_ids(rendered), rendered.row_N1
    drawn = [
        Drawn(n, gold[row_N1[n] : row_N1[n + 1]].tolist(), finished=True)
        for n in range(len(rendered))
    ]
    made = corrected(finished, drawn)
    kept = load_target(folder.fuse("unified"))
    assert (made.rows.ids_L == rendered.ids_L).all()
    assert (made.rows.learnt_T == kept.taught_T).all() and kept.taught_T.any()
    np.testing.assert_allclose(made.rows.weight_ST, kept.weight_ST, atol=1e-3)
    for t in range(len(gold)):  # the cache has float16 log-probabilities
        row = dict(zip(made.rows.ids_TK[t].tolist(), made.rows.prob_TK[t].tolist(), strict=True))
        other = dict(zip(kept.ids_TK[t].tolist(), kept.prob_TK[t].tolist(), strict=True))
        row.pop(-1, None), other.pop(-1, None)
        large = {key: value for key, value in other.items() if value > 1e-3}
        assert large == pytest.approx({key: row.get(key, 0) for key in large}, abs=2e-3)


def test_a_share_of_nothing_is_the_run_without(taught: Path, tmp_path: Path) -> None:
    values = values_of(taught)
    values["distill"] = {"own": {"target": "unified"}}
    plain = until_distill(values, tmp_path / "plain")
    values["distill"] = {"own": {"target": "unified", "on_policy": {"share": 0}}}
    nothing = until_distill(values, tmp_path / "nothing")
    name = "distill/own/model/model.safetensors"
    assert (plain / name).read_bytes() == (nothing / name).read_bytes()
    one, other = (read_json(run / "distill/own/manifest.json") for run in (plain, nothing))
    assert one["fingerprint"] == other["fingerprint"]
    for manifest in (one, other):
        del manifest["files"]["history.json"]  # which says how long it took
    assert one["files"] == other["files"]


def test_answers_that_were_cut_off_are_learnt_only_where_asked(
    taught: Path, tmp_path: Path
) -> None:
    for keep, learnt in (("drop", False), ("keep", True)):
        values = values_of(taught, distill={"own": run_of(max_new_tokens=3, cut_off=keep)})
        run = until_distill(values, tmp_path / keep)
        (rows, _), sheet = rounds(run), read_json(run / "distill/own/rounds/round-000000.json")
        assert any(not one["finished"] for one in sheet["answers"])
        cut = [n for n, one in enumerate(sheet["answers"]) if not one["finished"]]
        assert bool({*rows.of_N.tolist()} & {*cut}) == learnt
        if learnt:  # not that it ends where it was cut
            for place, n in enumerate(rows.of_N.tolist()):
                last = int(rows.row_N1[place + 1]) - 1
                assert not (n in cut and rows.learnt_T[last])
        else:
            assert {sheet["answers"][n]["fault"] for n in cut} == {"cut_off"}


def test_prompts_without_answers_are_read_from_the_data(taught: Path, tmp_path: Path) -> None:
    asked = [{"prompt": arithmetic(n)["prompt"]} for n in range(60, 66)]
    write_jsonl(tmp_path / "asked.jsonl", asked)
    values = values_of(taught)
    values["data"]["prompts"] = [{"path": str(tmp_path / "asked.jsonl"), "domain": "new"}]
    run = until_distill(values, tmp_path)
    sheet = read_json(run / "distill/own/rounds/round-000000.json")
    assert {one["domain"] for one in sheet["answers"]} == {"new"}
    changed = ("--set", "distill.own.on_policy.stop_at_growth=5", "--until", "distill")
    again = command("run", tmp_path / "recipe.yaml", "--run-dir", run, *changed)
    assert again.exit_code == 0, again.output
    # Other prompts, another run.
    write_jsonl(tmp_path / "asked.jsonl", asked[:3])
    again = command("run", tmp_path / "recipe.yaml", "--run-dir", run, "--until", "distill")
    assert "corrected" in repr(again.exception)


def test_prompts_that_overlap_an_evaluation_are_not_asked(taught: Path, tmp_path: Path) -> None:
    shown = [arithmetic(n) for n in range(60, 66)]
    write_jsonl(tmp_path / "asked.jsonl", [{"prompt": one["prompt"]} for one in shown])
    write_jsonl(tmp_path / "test.jsonl", shown[:5])
    values = values_of(taught)
    values["data"] |= {
        "prompts": [{"path": str(tmp_path / "asked.jsonl"), "domain": "sums"}],
        "decontaminate": [{"path": str(tmp_path / "test.jsonl"), "domain": "sums"}],
        "decontaminate_ngram": 40,
    }
    recipe, folder = Recipe.from_mapping(values, where="here"), RunFolder(tmp_path)
    (run,) = recipe.resolve().runs
    asked = open_readers(recipe, [], run).asked(recipe, folder, run, None)
    assert [one.messages[0]["content"] for one in asked.prompts] == [shown[5]["prompt"]]
    write_jsonl(tmp_path / "test.jsonl", shown)
    with pytest.raises(DataError, match="Every one of data.prompts overlaps"):
        open_readers(recipe, [], run).asked(recipe, folder, run, None)


def test_a_source_speaks_in_its_domains_alone(taught: Path, finished: Path) -> None:
    """The gate of the target: both sources beat the pivot on sums, or do not."""
    log = (finished / "log.txt").read_text()
    weight_S = sum(rows.weight_ST.sum(axis=1) for rows in rounds(finished))
    for name, weight in zip("ab", weight_S, strict=True):
        assert (weight > 0) == (f"{name} teaches sums" in log)


def test_prompts_of_which_nobody_speaks_are_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a gate that compares on the training examples."""
    monkeypatch.setattr(logging.getLogger("infifusion"), "propagate", True)
    values = {"name": "u", "sources": ["a", "b"], "function": "mean", "params": {}, "keep": 2}
    values |= {"gate": "domain", "pivot_as_source": True, "alignment": "bytes", "gold_path": True}
    target = FuseTarget(**values, teacher="cached")
    open_of = {"math": np.array([False, True, True]), "code": np.array([False, False, True])}
    require_speakers(target, open_of, {"math": 3})
    with pytest.raises(DataError, match="prepare left none of law"):
        require_speakers(target, open_of, {"math": 3, "law": 1})
    with pytest.raises(DataError, match="lets no source speak: .* of code better than the pivot"):
        require_speakers(target, open_of, {"code": 2})
    require_speakers(target, open_of, {"math": 3, "code": 2})
    assert "lets no source speak of code: 2 prompts in vain" in caplog.text


def test_prompts_that_are_left_out_are_counted_and_named(
    taught: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("infifusion"), "propagate", True)
    asked = [{"prompt": "?"}, {"prompt": "?"}, {"prompt": " "}, {"prompt": "long " * 300}]
    write_jsonl(tmp_path / "asked.jsonl", asked)
    values = values_of(taught)
    values["data"]["prompts"] = [{"path": str(tmp_path / "asked.jsonl"), "domain": "sums"}]
    recipe, folder = Recipe.from_mapping(values, where="here"), RunFolder(tmp_path)
    (run,) = recipe.resolve().runs
    caplog.set_level("INFO")
    assert len(open_readers(recipe, [], run).asked(recipe, folder, run, None).prompts) == 1
    for said in ("1 left out: empty prompt", "1 left out: duplicate prompt", "128 tokens or more"):
        assert said in caplog.text
    other = run.model_copy(update={"domains": ["law"]})
    with pytest.raises(DataError, match="own.domains: data.prompts holds none of law"):
        open_readers(recipe, [], other).asked(recipe, folder, other, None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": None, "loss": "kl"}, "nobody corrects the pivot"),
        ({"loss": "uld"}, "expected a loss of kl, reverse_kl, jsd; found uld"),
        ({"packing": True}, "remove packing"),
        ({"gate": "pivot"}, "compares on labels, which such text has not; remove it"),
        ({"parallel": "fsdp"}, "needs the whole model: parallel: ddp; found fsdp"),
        ({"training": {"train_sampling_strategy": "group_by_length"}}, "an order of its own"),
        ({"on_policy": {"share": 2}}, "share"),
        ({"on_policy": {"clip": 0.2}}, "clip needs form: policy_gradient"),
        ({"on_policy": {"extrapolate": 1.5}}, "extrapolate needs form: policy_gradient"),
        (
            {"on_policy": {"form": "policy_gradient", "temperature": 0.7}},
            "needs temperature: 1 and top_p: 1",
        ),
        ({"on_policy": {"max_new_tokens": 128}}, "no room for a prompt"),
        ({"on_policy": {"sharee": 1}}, "sharee"),
    ],
)
def test_what_does_not_go_together_is_named(taught: Path, changes: dict, said: str) -> None:
    values = values_of(taught, distill={"own": {**run_of(), **changes}})
    with pytest.raises(RecipeError, match=said):
        Recipe.from_mapping(values, where="here")


@pytest.mark.parametrize(
    ("fuse", "own", "said"),
    [
        ({"gate": "bits_per_byte"}, {}, "would let nobody speak"),
        ({"alignment": "min_ed"}, {"form": "policy_gradient"}, "needs alignment: bytes"),
    ],
)
def test_targets_that_cannot_correct_are_named(
    taught: Path, fuse: dict, own: dict, said: str
) -> None:
    values = values_of(taught, distill={"own": run_of(**own)})
    values["fuse"] = {"unified": {"gate": "none", **fuse}}
    with pytest.raises(RecipeError, match=said):
        Recipe.from_mapping(values, where="here")


def test_prompts_that_nobody_reads_or_no_gate_knows_are_named(taught: Path) -> None:
    values = values_of(taught, fuse={"unified": {"gate": "domain"}})
    values["data"]["prompts"] = [{"path": "asked.jsonl", "domain": "new"}]
    with pytest.raises(RecipeError, match="which has no new of data.prompts"):
        Recipe.from_mapping(values, where="here")
    values["distill"] = {"own": {"target": "unified"}}
    with pytest.raises(RecipeError, match="no run in distill has on_policy"):
        Recipe.from_mapping(values, where="here")
    values["data"]["prompts"][0]["tests"] = "tests"
    with pytest.raises(RecipeError, match="only the prompts of write_responses"):
        Recipe.from_mapping(values, where="here")


def test_check_and_plan_know_of_it(taught: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    costs = []
    for distill in ({"own": run_of()}, {"own": {"target": "unified", "loss": "reverse_kl"}}):
        path.write_text(yaml.safe_dump(values_of(taught, distill=distill)))
        planned = command("plan", path, "--json")
        assert planned.exit_code == 0, planned.output
        rows = json.loads(planned.stdout)["rows"]
        costs.append(next(row for row in rows if row["stage"] == "distill"))
    own, plain = costs
    assert own["flops"] > plain["flops"] and own["bytes"] > plain["bytes"]
    values = values_of(taught)
    path.write_text(yaml.safe_dump(values))
    said = command("check", path).output
    assert "the pivot writes 100 %" in said and "only 2 optimizer steps" in said
    # How many steps data.prompts make is not known before they are read.
    write_jsonl(tmp_path / "asked.jsonl", [{"prompt": "?"}])
    values["data"]["prompts"] = [{"path": str(tmp_path / "asked.jsonl"), "domain": "sums"}]
    values["training"] = {k: v for k, v in TRAINING.items() if k != "max_steps"}
    path.write_text(yaml.safe_dump(values))
    assert "optimizer steps on" not in command("check", path).output
