from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from infifusion.errors import RecipeError
from infifusion.recipe import Recipe, anchor, load_recipe, require_stage
from infifusion.registry import look_up


def make(**changes: object) -> Recipe:
    values = {
        "name": "r",
        "pivot": {"model": "p"},
        "sources": {"a": {"model": "a"}, "b": {"model": "b"}},
        "data": {"train": [{"path": "x.jsonl", "domain": "d"}]},
        "fuse": {"unified": {}, "pair": {"each": True, "gate": "bits_per_byte"}},
        "distill": {
            "sft": {},
            "unified": {"target": "unified"},
            "pair": {"target": "pair", "each": True},
        },
        "merge": {"pairwise": {"models": ["pair"]}},
    }
    return Recipe.from_mapping({**values, **changes}, where="r.yaml")


def asked(**changes: object) -> dict[str, object]:
    """A section write_responses."""
    return {"prompts": [{"path": "p.jsonl", "domain": "d"}], **changes}


MATH_AND_CODE = {
    "data": {"train": [{"path": f"{d}.jsonl", "domain": d} for d in ("math", "code")]},
    "write_responses": asked(prompts=[{"path": "p.jsonl", "domain": "chat"}]),
}


def test_every_name_that_stands_for_nothing_has_a_line_of_its_own() -> None:
    with pytest.raises(RecipeError) as error:
        make(distill={"u": {"target": "v"}}, merge={"m": {"models": ["w"]}})
    assert str(error.value).splitlines() == [
        "r.yaml has 2 problems:",
        "  distill.u.target: there is no fused target 'v'.",
        "  merge.m.models: there is no run 'w' in distill. Known: pivot, source:a, source:b, u; a "
        "folder is written ./w, a hub model org/name.",
    ]


def test_each_is_written_out_one_per_source_in_order() -> None:
    resolved = make().resolve()
    assert [t.name for t in resolved.targets] == ["unified", "pair-a", "pair-b"]
    assert [t.sources for t in resolved.targets] == [["a", "b"], ["a"], ["b"]]
    assert [r.name for r in resolved.runs] == ["sft", "unified", "pair-a", "pair-b"]
    assert [r.target for r in resolved.runs] == [None, "unified", "pair-a", "pair-b"]
    assert resolved.merges[0].models == ["pair-a", "pair-b"]
    assert resolved.scored == ["pivot", "source:a", "source:b", "sft", "unified", "pairwise"]
    assert ("pivot", "pairwise") in resolved.compared and ("sft", "unified") in resolved.compared
    assert resolved.taught == ["a", "b", "pivot"]


def test_a_merge_takes_runs_members_merges_sources_and_models_from_elsewhere(tmp_path) -> None:
    """Paths are anchored at the recipe, parts of model+adapter too; names and the hub's are not."""
    (tmp_path / "here").mkdir()
    (tmp_path / "ad").mkdir()
    listed = ["pair", "unified", "source:a", "pivot", "./here", "./here+./ad", "org/model@main"]
    recipe = make(merge={"one": {"models": ["pair-b"]}, "two": {"models": ["one", *listed]}})
    one, two = anchor(recipe, tmp_path).resolve().merges
    assert one.models == ["pair-b"]
    here, adapter = tmp_path / "here", tmp_path / "ad"
    assert two.models[:7] == ["one", "pair-a", "pair-b", "unified", "source:a", "pivot", str(here)]
    assert two.models[7:] == [f"{here}+{adapter}", "org/model@main"]


def test_fine_tuning_without_a_target_is_plain_cross_entropy() -> None:
    run = make().resolve().runs[0]
    assert (run.loss, run.gold_weight, run.target) == ("cross_entropy", 1.0, None)


def test_a_star_starts_at_the_pivot_and_a_chain_at_the_run_before() -> None:
    assert [r.start for r in make().resolve().runs[2:]] == ["pivot", "pivot"]
    chain = make(distill={"pair": {"target": "pair", "each": True, "start": "previous"}})
    assert [r.start for r in chain.resolve().runs] == ["pivot", "pair-a"]


def test_own_domains_are_those_with_the_names_of_the_sources() -> None:
    train = [{"path": "x.jsonl", "domain": domain} for domain in ("a", "b", "c")]
    own = {"target": "pair", "each": True, "domains": "own"}
    some = {"domains": ["c", "a"]}
    runs = make(data={"train": train}, distill={"own": own, "some": some, "all": {}}, merge={})
    assert [(run.name, run.domains) for run in runs.resolve().runs] == [
        ("own-a", ["a"]),
        ("own-b", ["b"]),
        ("some", ["c", "a"]),
        ("all", None),
    ]


def test_a_target_row_keeps_twice_k_by_default() -> None:
    assert make(teach={"top_k": 7}).resolve().targets[0].keep == 14


def test_training_settings_of_a_run_go_over_those_of_the_recipe() -> None:
    recipe = make(
        training={"max_steps": 5, "learning_rate": 1.0},
        distill={"sft": {"training": {"max_steps": 9}}},
        merge={},
    )
    assert recipe.resolve().runs[0].training == {"max_steps": 9, "learning_rate": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pivto": {}}, "pivto: there is no such key. Did you mean 'pivot'"),
        ({"teach": {"topk": 3}}, "teach.topk: there is no such key. Did you mean 'top_k'"),
        ({"pivot": {"model": "p", "dtype": "fp32"}}, "pivot.dtype.*'float32'.*found 'fp32'"),
        ({"pivot": {}}, "pivot.model: this key is required"),
        ({"pivot": "./p"}, "pivot: expected a mapping of keys such as model, revision, .*'./p'"),
        ({"sources": {}}, "sources: .*at least 1"),
        ({"teach": {"top_k": 0}}, "teach.top_k: .*greater than or equal to 1.*found 0"),
        ({"name": "a/b"}, "name: "),
        ({"fuse": {"u": {"sources": ["c"]}}, "distill": {}, "merge": {}}, "no source 'c'"),
        ({"distill": {"u": {"target": "unifed"}}, "merge": {}}, "Did you mean 'unified'"),
        ({"distill": {"u": {"target": "pair"}}, "merge": {}}, "each .*must be the same"),
        ({"distill": {"u": {"loss": "kl"}}, "merge": {}}, "the loss 'kl' needs a target"),
        (
            {"distill": {"u": {"gate": "pivot"}}, "merge": {}},
            "u.gate: pivot compares with a target",
        ),
        (
            {"distill": {"u": {"target": "unified", "doubt": 0.2}}, "merge": {}},
            "u.doubt: belongs to `gate: pivot`",
        ),
        ({"distill": {"u": {"gate": "domain"}}, "merge": {}}, "gate: expected 'none' or 'pivot'"),
        ({"distill": {"u": {"start": "v"}}, "merge": {}}, "'v' is not pivot, previous"),
        ({"merge": {"m": {"models": ["unifid"]}}}, "Did you mean 'unified'"),
        (
            {"merge": {"m": {"models": ["pair"], "dtype": "auto"}}},
            "merge.m.dtype: expected 'float32'",
        ),
        ({"merge": {"m": {"models": ["pair", "pair"]}}}, "merge.m.models: 'pair' is named twice"),
        ({"merge": {"m": {"models": ["pair", "pair-a"]}}}, "'pair-a' is named twice"),
        (
            {"merge": {"m": {"models": ["n"]}, "n": {"models": ["pair"]}}},
            "'n' is a merge that does not stand before this one",
        ),
        ({"merge": {"m": {"models": ["m"]}}}, "'m' is a merge that does not stand before"),
        ({"merge": {"m": {"models": ["source:c"]}}}, "no run 'source:c' .*source:a"),
        ({"merge": {"pair-a": {"models": ["pair"]}}}, "'pair-a' names two models"),
        ({"merge": {"pair": {"models": ["pair"]}}}, "'pair' names two models"),
        ({"merge": {"pivot": {"models": ["pair"]}}}, "'pivot' names two models"),
        (
            {"fuse": {"t": {"each": True}, "t-b": {}}, "distill": {}, "merge": {}},
            "'t-b' names two f",
        ),
        (
            {"fuse": {"t": {"sources": []}}, "distill": {}, "merge": {}},
            "fuse.t.sources: name a source",
        ),
        (
            {"fuse": {"t": {"sources": ["a", "a"]}}, "distill": {}, "merge": {}},
            "a source is named tw",
        ),
        ({"sources": {"pivot": {"model": "x"}}}, "sources.pivot: the name is taken"),
        ({"evaluate": {"models": ["sft", "sft"]}}, "evaluate.models: 'sft' is named twice"),
        ({"evaluate": {"tasks": ["math", "math"]}}, "evaluate.tasks: 'math' is named twice"),
        ({"merge": {"sft": {"models": ["pair"]}}}, "'sft' names two models"),
        (
            {"merge": {"m": {"models": ["pair"], "params": {"tau0": "validate"}}}},
            "validation_share",
        ),
        ({"evaluate": {"models": ["pair"]}}, "there is no model 'pair'"),
        ({"evaluate": {"compare": [["sft"]]}}, "expected pairs"),
        (
            {"evaluate": {"models": ["sft"], "compare": [["sft", "unified"]]}},
            "evaluate.compare: 'unified' is not scored",
        ),
        ({"write_responses": {"prompts": []}}, "write_responses.prompts: .*at least 1"),
        ({"write_responses": asked(sources=["c"])}, "write_responses.sources: .*no source 'c'"),
        ({"write_responses": asked(sources=["a", "a"])}, "a source is named twice"),
        ({"write_responses": asked(sources=[])}, "name a source"),
        ({"write_responses": asked(samples=2)}, "samples above 1 .*temperature 0"),
        ({"write_responses": asked(top_p=0.5)}, "top_p below 1 has no effect"),
        ({"write_responses": asked(choose="unit_tests")}, "unit_tests needs this field"),
        ({"write_responses": asked(chose="x")}, "chose: there is no such key. Did you mean 'choo"),
        (
            {"write_responses": {"prompts": [{"path": "x", "domain": "d", "params": {"a": 1}}]}},
            "params: needs prompts.0.choose",
        ),
        ({"data": {"train": [], "plain_template": "{response}"}}, "plain_template"),
        ({"pivot": {"model": "p", "temperature": 2}}, "pivot.temperature: only sources have one"),
        (
            {"sources": {"a": {"model": "x", "temperature": 0}, "b": {"model": "b"}}},
            "sources.a.temperature: expected a number above 0, or fit .found 0",
        ),
        (
            {"sources": {"a": {"model": "x", "temperature": "fti"}, "b": {"model": "b"}}},
            "expected a number above 0, or fit .found 'fti'",
        ),
        (
            {"sources": {"a": {"model": "x", "temperature": "fit"}, "b": {"model": "b"}}},
            "sources.a.temperature: fit needs data.validation_share above 0",
        ),
        ({"distill": {"s": {"domains": []}}, "merge": {}}, "distill.s.domains: name a domain"),
        (
            {"distill": {"s": {"written": "only"}}, "merge": {}},
            "distill.s.written: only needs write_responses; remove it",
        ),
        (
            {"distill": {"s": {"written": False}}, "merge": {}},
            "distill.s.written: false needs write_responses; remove it",
        ),
        (
            {"distill": {"s": {"domains": ["mth"]}}, "merge": {}, **MATH_AND_CODE},
            "no domain 'mth'. Did you mean 'math'.* Known: math, code, chat",
        ),
        ({"distill": {"s": {"domains": ["d", "d"]}}, "merge": {}}, "domain is named twice"),
        ({"distill": {"s": {"domains": "own"}}, "merge": {}}, "domains: own needs each: true"),
        ({"distill": {"s": {"domains": "math"}}, "merge": {}}, "distill.s.domains"),
        (
            {"distill": {"p": {"target": "pair", "each": True, "domains": "own"}}, "merge": {}},
            "(?s)name of the source 'a'. Known: d.\n.*name of the source 'b'. Known: d.$",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(changes: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make(**changes)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        make(teach={"top_k": 0, "oops": 1}, seed=-1)
    assert "3 problems" in str(caught.value)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_relative_paths_are_taken_from_the_recipes_folder(tmp_path: Path) -> None:
    (tmp_path / "models" / "p").mkdir(parents=True)
    (tmp_path / "x.jsonl").touch()
    (tmp_path / "p.jsonl").touch()
    values = {
        "name": "r",
        "pivot": {"model": "models/p"},
        "sources": {"a": {"model": "org/on-the-hub"}},
        "write_responses": asked(),
        "data": {"train": [{"path": "x.jsonl", "domain": "d"}]},
    }
    loaded = load_recipe(write(tmp_path / "r.yaml", yaml.safe_dump(values)))
    assert loaded.pivot.model == str(tmp_path / "models" / "p")
    assert loaded.sources["a"].model == "org/on-the-hub"
    # A mistyped folder beside the recipe is no hub name.
    values["sources"]["a"]["model"] = "models/typo"
    loaded = load_recipe(write(tmp_path / "r.yaml", yaml.safe_dump(values)))
    assert loaded.sources["a"].model == str(tmp_path / "models" / "typo")
    assert loaded.data.train[0].path == str(tmp_path / "x.jsonl")
    assert loaded.write_responses is not None
    assert loaded.write_responses.prompts[0].path == str(tmp_path / "p.jsonl")


def test_set_overrides_one_key_and_says_when_it_cannot(tmp_path: Path) -> None:
    values = {
        "name": "r",
        "pivot": {"model": "p"},
        "sources": {"a": {"model": "a"}},
        "data": {"train": [{"path": "x", "domain": "d"}]},
    }
    path = write(tmp_path / "r.yaml", yaml.safe_dump(values))
    assert load_recipe(path, ["teach.top_k=3", "seed=4"]).teach.top_k == 3
    with pytest.raises(RecipeError, match="not of the form a.b=c"):
        load_recipe(path, ["teach.top_k"])
    with pytest.raises(RecipeError, match="'name' is not a mapping"):
        load_recipe(path, ["name.x=3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "'a' is written twice .second time in line 2"),
        ("a: [1\n", "not valid YAML"),
        ("- a\n", "holds a list; expected a mapping"),
        ("", "holds nothing"),
    ],
)
def test_a_broken_recipe_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path / "r.yaml", text))


def test_a_missing_recipe_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="There is no file .*none.yaml"):
        load_recipe(tmp_path / "none.yaml")


def test_an_unknown_stage_gets_the_nearest_spelling() -> None:
    assert require_stage("fuse") == "fuse"
    with pytest.raises(RecipeError, match="Did you mean 'distill'"):
        require_stage("distil")


def test_look_up_knows_tables_and_outside_functions() -> None:
    assert look_up({"a": 1}, "a", kind="thing") == 1
    assert look_up({}, "math:sqrt", kind="thing") is __import__("math").sqrt
    with pytest.raises(RecipeError, match="no thing called 'ab'. Did you mean 'abc'"):
        look_up({"abc": 1}, "ab", kind="thing")
    with pytest.raises(RecipeError, match="cannot be imported"):
        look_up({}, "math:none", kind="thing")


def test_a_chat_template_may_lie_in_a_file_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    values = {
        "name": "r",
        "pivot": {"model": "p", "chat_template": "own.jinja"},
        "sources": {"a": {"model": "a", "chat_template": "{{ x }}"}},
        "data": {"train": [{"path": "x.jsonl", "domain": "d"}]},
    }
    loaded = load_recipe(write(tmp_path / "r.yaml", yaml.safe_dump(values)))
    assert loaded.pivot.chat_template == "{{ messages }}"
    assert loaded.sources["a"].chat_template == "{{ x }}"
    values["pivot"]["chat_template"] = "owm.jinja"
    with pytest.raises(RecipeError, match=r"neither a Jinja template nor .*owm\.jinja"):
        load_recipe(write(tmp_path / "r.yaml", yaml.safe_dump(values)))


def test_variables_of_a_chat_template_have_names_that_jinja_knows() -> None:
    kept = make(pivot={"model": "p", "chat_template_kwargs": {"enable_thinking": False}})
    assert kept.pivot.chat_template_kwargs == {"enable_thinking": False}
    with pytest.raises(RecipeError, match="'no-name' is no name of a template's variable"):
        make(pivot={"model": "p", "chat_template_kwargs": {"no-name": 1}})
