"""Our merge methods against mergekit 0.1.5 on whole checkpoints, option by option.

mergekit computes in float32 here (dtype: float32) and writes the checkpoints' dtype. The result has
to be equal within one unit in the last place of that dtype. What differs is listed where it is
compared, with the reason:

* TIES and breadcrumbs choose among equal magnitudes at the border as the sort happens to order
  them; we keep the earlier positions. Only positions with a border magnitude may differ.
* DARE and DELLA draw at random: share kept and mean are compared.
* SCE has equal coefficients in mergekit where the mean squares sum to less than 1e-6; that, and
  the L1 rescaling of DARE and DELLA, is done with mergekit_compat: true.
* DELLA crashes in mergekit on one-column tensors.
* Opposite vectors, which tensors of one element often are: karcher divides by the sine of 180
  degrees in mergekit (noise, made large); we leave the opposite model out of the step. multislerp
  refuses them in both.

`make test` runs a third of the cases, `make parity` all of them (INFIFUSION_PARITY=all).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from parity.mergekit_oracle import OUT, make_models, ours, theirs, with_paths
from safetensors.torch import load_file, save_file

LISTED = ["m0", "m1", "m2"]
WEIGHTS = [0.2, 0.5, 1.0, 0.3, 0.7, 0.1, 0.4, 0.6]


def each(models: list[str], **parameters: list) -> list[dict]:
    return [
        {"model": m, "parameters": {k: v[n] for k, v in parameters.items()}} if parameters
        else {"model": m}
        for n, m in enumerate(models)
    ]  # fmt: skip


def methods(models: list[str]) -> dict[str, dict]:
    """Recipes that have to give mergekit's numbers, by name."""
    some = each(models, weight=WEIGHTS)
    signed = each(models, weight=[0.5, -0.3, 1.0, *WEIGHTS])
    dense = each(models, weight=WEIGHTS, density=[0.3, 0.5, 0.9, 1.0, 0.2, 0.6, 0.4, 0.8])
    plain = each(models)
    crumbs = each(
        models,
        weight=WEIGHTS,
        density=[0.9, 0.5, 0.7, 0.95, 0.3, 0.6, 1.0, 0.8],
        gamma=[0.01, 0.1, 0.2, 0.05, 0.0, 0.3, 0.1, 0.02],
    )

    def recipe(method: str, listed: list[dict], **parameters: object) -> dict:
        found: dict = {"merge_method": method, "models": listed, "base_model": "base"}
        return found | ({"parameters": parameters} if parameters else {})

    def without_base(method: str, listed: list[dict], **parameters: object) -> dict:
        found = recipe(method, listed, **parameters)
        del found["base_model"]
        return found

    return {
        "linear": without_base("linear", some),
        "linear-sum": without_base("linear", signed, normalize=False),
        "task_arithmetic": recipe("task_arithmetic", signed),
        "task_arithmetic-lambda": recipe("task_arithmetic", some, **{"lambda": 0.7}),
        "task_arithmetic-normalize": recipe("task_arithmetic", some, normalize=True),
        "ties": recipe("ties", dense),
        "ties-sum": recipe("ties", dense, normalize=False, **{"lambda": 1.5}),
        "ties-rescale": recipe("ties", dense, rescale=True, int8_mask=True),
        "ties-negative": recipe("ties", each(models, weight=[0.5, -0.3, 1.0, *WEIGHTS])),
        "breadcrumbs": recipe("breadcrumbs", crumbs),
        "breadcrumbs-normalize": recipe("breadcrumbs", crumbs, normalize=True),
        "breadcrumbs_ties": recipe("breadcrumbs_ties", crumbs),
        "breadcrumbs_ties-rescale": recipe("breadcrumbs_ties", crumbs, rescale=True),
        "dare_ties-all": recipe("dare_ties", each(models, weight=WEIGHTS, density=[1.0] * 8)),
        "dare_linear-all": recipe("dare_linear", each(models, weight=WEIGHTS, density=[1.0] * 8)),
        "sce": recipe("sce", plain, select_topk=0.3),
        "sce-all": recipe("sce", plain, select_topk=1.0),
        "sce-default": recipe("sce", plain) | {"mergekit_compat": True},
        "karcher": without_base("karcher", plain),
        "karcher-steps": without_base("karcher", plain, max_iter=3, tol=1e-3),
        "multislerp": without_base("multislerp", some),
        "multislerp-base": recipe("multislerp", some),
        "multislerp-sum": recipe("multislerp", some, normalize_weights=False),
        "ram": recipe("ram", plain, epsilon=0.05),
        "ramplus_tl": recipe("ramplus_tl", plain, epsilon=0.05, r=0.4, alpha=0.5),
    }


def of_two() -> dict[str, dict]:
    """Methods of a base and one model, or of two models, or of one."""
    pair = each(["m0", "m1"], weight=[0.4, 0.6])
    one = [{"model": "base"}, {"model": "m0"}]
    based = {"base_model": "base"}
    found: dict[str, dict] = {
        "slerp": {"models": one, **based, "parameters": {"t": 0.3}},
        "slerp-end": {"models": one, **based, "parameters": {"t": 1.0}},
        "nuslerp": {"models": pair},
        "nuslerp-base": {"models": pair, **based},
        "nuslerp-columns": {"models": pair, "parameters": {"nuslerp_flatten": False}},
        "nuslerp-rows": {
            "models": pair,
            **based,
            "parameters": {"nuslerp_flatten": False, "nuslerp_row_wise": True},
        },
        "nearswap": {"models": one, **based, "parameters": {"t": 0.05}},
        "arcee_fusion": {"models": one, **based},
        "model_stock": {"models": each(["m0", "m1", "m2"]), **based},
        "model_stock-rows": {
            "models": each(["m0", "m1"]),
            **based,
            "parameters": {"filter_wise": True},
        },
        "passthrough": {"models": [{"model": "m0"}]},
        "passthrough-scale": {"models": [{"model": "m0", "parameters": {"scale": 0.5}}]},
    }
    return {
        name: {"merge_method": name.partition("-")[0], **recipe} for name, recipe in found.items()
    }


def of_layers() -> dict[str, dict]:
    """Filters, gradients over the layers, stacked layers."""
    mlp = [
        {"filter": "mlp", "value": 0.5},
        {"filter": "o_proj", "value": [0.0, 1.0]},
        {"value": 0.1},
    ]
    return {
        "gradient": {
            "merge_method": "slerp",
            "base_model": "base",
            "models": [{"model": "base"}, {"model": "m0"}],
            "parameters": {
                "t": [
                    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
                    {"filter": "mlp", "value": [1, 0.5, 0]},
                    {"value": 0.5},
                ]
            },
        },
        "filters": {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "models": each(["m0", "m1"], weight=[mlp, [0.0, 0.3, 1.0]]),
        },
        "stack": {
            "merge_method": "passthrough",
            "slices": [
                {"sources": [{"model": "m0", "layer_range": [0, 3]}]},
                {"sources": [{"model": "m1", "layer_range": [1, 4]}]},
            ],
        },
        "stack-merged": {
            "merge_method": "linear",
            "slices": [
                {
                    "sources": [
                        {"model": "m0", "layer_range": [0, 2], "parameters": {"weight": 1.0}},
                        {"model": "m1", "layer_range": [2, 4], "parameters": {"weight": 0.4}},
                    ]
                },
                {
                    "sources": [
                        {"model": "m1", "layer_range": [0, 3]},
                        {"model": "m2", "layer_range": [0, 3]},
                    ],
                    "parameters": {"weight": [0.2, 1.0]},
                },
            ],
            "parameters": {"weight": 0.6},
        },
        "module": {
            "merge_method": "linear",
            "modules": {"default": {"models": each(["m0", "m1"], weight=[0.3, 0.6])}},
        },
    }


def cases() -> list:
    """(shapes, dtype, tied, recipe) by a name that says it all."""
    found = []
    for shapes, dtype, tied in (
        ("odd", "f32", False),
        ("odd", "bf16", True),
        ("even", "bf16", False),
        ("even", "f16", True),
    ):
        recipes = {**methods(LISTED), **of_two(), **of_layers()}
        if shapes == "odd":
            recipes = {n: r for n, r in recipes.items() if not n.startswith("multislerp")}
        if (shapes, dtype) == ("odd", "f32"):
            recipes |= {f"{n}-one": r for n, r in methods(["m0"]).items()}
        if (shapes, dtype) == ("even", "bf16"):
            recipes |= {f"{n}-eight": r for n, r in methods([f"m{n}" for n in range(8)]).items()}
        tying = "tied" if tied else "untied"
        found += [
            pytest.param(shapes, dtype, tied, recipe, id=f"{name}-{shapes}-{dtype}-{tying}")
            for name, recipe in recipes.items()
        ]
    return found


ALL = cases()
RUN = ALL if os.environ.get("INFIFUSION_PARITY") == "all" else ALL[::3]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Models of each kind, made once."""
    made: dict[tuple, Path] = {}

    def get(shapes: str, dtype: str, tied: bool) -> Path:
        key = (shapes, dtype, tied)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("-".join(map(str, key)))
            make_models(made[key], shapes=shapes, dtype=dtype, tied=tied, models=8)
        return made[key]

    return get


def test_there_are_enough_cases():
    assert len(ALL) >= 150


@pytest.mark.parametrize(("shapes", "dtype", "tied", "recipe"), RUN)
def test_the_merge_is_mergekits(folders, tmp_path, shapes, dtype, tied, recipe):
    place = folders(shapes, dtype, tied)
    recipe = {"dtype": "float32", "out_dtype": OUT[dtype], **recipe}
    left = ours(recipe, place, tmp_path)
    right = theirs({k: v for k, v in recipe.items() if k != "mergekit_compat"}, place, tmp_path)
    assert left.keys() == right.keys()
    at_border = recipe["merge_method"] in ("ties", "breadcrumbs", "breadcrumbs_ties")
    for name in right:
        assert left[name].dtype == right[name].dtype
        if at_border and dtype != "f32":
            free = border_positions(place, recipe, name)
            check(left[name][~free], right[name][~free], name, rescaled="rescale" in str(recipe))
            assert free.float().mean() < 0.25 or free.numel() < 20
        elif recipe["merge_method"] == "karcher" and left[name].numel() == 1:
            assert torch.isfinite(left[name]).all()
        else:
            check(left[name], right[name], name)


def check(left: torch.Tensor, right: torch.Tensor, name: str, *, rescaled: bool = False) -> None:
    """Equal within one unit in the last place; float32 within 1e-5 of the largest value, where
    sums of many terms were added up in another order. Rescaling by the kept magnitudes changes a
    little when other positions are kept."""
    tolerance = {torch.bfloat16: 2**-7, torch.float16: 2**-10, torch.float32: 1e-5}[left.dtype]
    if rescaled:
        tolerance = max(tolerance, 2e-2)
    torch.testing.assert_close(
        left.float(), right.float(), rtol=tolerance, atol=2e-6 if not rescaled else 2e-2, msg=name
    )


def border_positions(place: Path, recipe: dict, name: str) -> torch.Tensor:
    """Where some model's |delta| is exactly as large as the last one kept, or left out."""
    base = load_file(place / "base" / "model.safetensors")[name].float()
    free = torch.zeros_like(base, dtype=torch.bool)
    for model in with_paths(recipe, place)["models"]:
        delta = (load_file(Path(model["model"]) / "model.safetensors")[name].float() - base).abs()
        own = model.get("parameters", {})
        size, density = delta.numel(), own.get("density", 1.0)
        ascending = delta.reshape(-1).sort().values
        top = int(own.get("gamma", 0.0) * size) if "gamma" in own else 0
        kept = int(density * size) if "gamma" in own else max(1, int(density * size))
        low = max(0, size - kept - top)
        for place_of_border in (low - 1, low, low + kept - 1, low + kept):
            if density < 1 and 0 <= place_of_border < size:
                border = ascending[place_of_border]
                free |= (delta == border) & (border > 0)
    return free


@pytest.mark.parametrize("method", ["dare_ties", "dare_linear", "della", "della_linear"])
@pytest.mark.parametrize("compat", [False, True])
def test_random_methods_keep_as_many_entries_as_mergekit(folders, tmp_path, method, compat):
    place = folders("even", "f32", False)
    parameters = {"weight": 1.0, "density": 0.4}
    if method.startswith("della"):
        parameters["epsilon"] = 0.2
    recipe = {
        "merge_method": method,
        "base_model": "base",
        "models": [{"model": "m0", "parameters": parameters}],
        "parameters": {"normalize": False},
        "dtype": "float32",
    }
    compat_key = {"mergekit_compat": True} if compat else {}
    found = [ours({**recipe, **compat_key}, place, tmp_path), theirs(recipe, place, tmp_path)]
    base, model = (load_file(place / n / "model.safetensors") for n in ("base", "m0"))
    # Vectors of 16 may lose all their entries, and then no norm can be restored.
    names = [n for n in base if base[n].ndim == 2]
    changed = torch.cat([(model[n] != base[n]).reshape(-1) for n in names])
    kept, mean = [], []
    for merged in found:
        change = torch.cat([(merged[n] - base[n]).reshape(-1) for n in names])[changed]
        kept.append(float((change != 0).float().mean()))
        mean.append(float(change.abs().mean()))
    # About 9,000 changed entries: the share has a standard error of sqrt(.4 * .6 / 9000) = .005.
    # DELLA ranks zeros lowest, so that the changed entries are kept with more than the density.
    assert kept[0] == pytest.approx(kept[1], abs=0.025)
    if not method.startswith("della"):
        assert kept[0] == pytest.approx(0.4, abs=0.02)
    if compat or method.startswith("dare"):
        # The L1 norm is restored exactly per tensor; by 1 / density in the mean.
        assert mean[0] == pytest.approx(mean[1], rel=1e-4 if compat else 0.06)


def test_tiny_deltas_get_uniform_coefficients_only_with_mergekit_compat(tmp_path):
    """mergekit's SCE falls back to equal coefficients for ordinary fine-tuning deltas."""
    make_models(tmp_path, shapes="even", dtype="f32", tied=False, models=2)
    base = load_file(tmp_path / "base" / "model.safetensors")
    for name, scale in (("m0", 1e-4), ("m1", 3e-4)):
        drawn = torch.Generator().manual_seed(5)  # the same direction: nothing is erased
        tensors = {
            k: v + scale * torch.randn(v.shape, generator=drawn).abs() for k, v in base.items()
        }
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    recipe = {
        "merge_method": "sce",
        "base_model": "base",
        "models": [{"model": "m0"}, {"model": "m1"}],
        "parameters": {"select_topk": 1.0},
        "dtype": "float32",
    }
    right = theirs(recipe, tmp_path, tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    compat = ours({**recipe, "mergekit_compat": True}, tmp_path, tmp_path / "a")
    exact = ours(recipe, tmp_path, tmp_path / "b")
    name = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(compat[name], right[name], rtol=1e-5, atol=1e-6)
    # Uniform: the mean of 1 and 3 parts, 2; by squares, (1 * 1 + 9 * 3) / 10 = 2.8.
    step = (compat[name] - base[name]).mean()
    assert float((exact[name] - base[name]).mean() / step) == pytest.approx(1.4, rel=1e-3)
