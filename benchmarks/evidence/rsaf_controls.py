"""RSAF with controls for experiments: `method: "rsaf_controls:rsaf_controls"` in a sweep.

What a sweep compares RSAF with, to find out which of its parts matters. The folder of this file has
to be on PYTHONPATH (benchmarks/evidence.py puts it there):

    PYTHONPATH=benchmarks/evidence infifusion sweep benchmarks/evidence/merging.yaml
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from infifusion.merge.blocks.blocks import Blocks
from infifusion.merge.blocks.result import Merged
from infifusion.merge.methods import rsaf
from infifusion.merge.methods.method import Method
from infifusion.merge.methods.rsaf import Measured, clip_tau, keep, raw_powers, skewness


class Params(rsaf.Params):
    """Parameters of `rsaf`, and the controls."""

    rule: Literal[  # type: ignore[override]
        "adaptive", "variation_rate", "energy", "rate_only", "skewness_only"
    ] = "adaptive"
    """rate_only: tau = tau0, so the ratio follows the rate alone. skewness_only: tau of adaptive,
    of all P positions. The others as in `rsaf`."""
    granularity: Literal["tensor", "global"] = "tensor"
    """global: one tau for all tensors, from their skewness together."""
    control: Literal["none", "budget_matched", "shuffled"] = "none"
    """budget_matched: every tensor's tau is rescaled so that as many positions are kept in all as
    `sce` keeps at tau0. shuffled: the taus change places at random among the tensors."""
    seed: int = 0
    """Decides how `control: shuffled` shuffles."""


def rsaf_controls(blocks: Blocks, params: Params) -> Merged:
    """RSAF by these rules; `granularity` and `control` have settled `tau` before."""
    if params.rule != "skewness_only":
        return rsaf.rsaf(blocks, _as_rsaf(params))
    found = measure(blocks, params)
    if found.survey.positive == 0 or found.tau >= 1:
        return keep(blocks, params, found, None)
    return keep(blocks, params, found, int(found.tau * found.size))


def measure(blocks: Blocks, params: Params) -> Measured:
    """The statistics of a tensor and the share its rule gives."""
    return rsaf.measure(blocks, _as_rsaf(params))


def settle(measured: dict[str, Measured], params: Params) -> dict[str, Params]:
    """Every tensor's parameters, with the tau that `granularity` and `control` lead to."""
    if params.granularity == "tensor" and params.control == "none":
        return {}
    taus = {name: one.tau for name, one in measured.items()}
    if params.granularity == "global":
        total = sum((raw_powers(one.survey) for one in measured.values()), np.zeros(4))
        models = max((one.models for one in measured.values()), default=1)
        shared = clip_tau(_as_rsaf(params), skewness(total), models)
        taus = dict.fromkeys(taus, shared)
    if params.control == "shuffled":
        names = list(taus)
        order = np.random.default_rng(params.seed).permutation(len(names))
        taus = {name: taus[names[int(n)]] for name, n in zip(names, order, strict=True)}
    if params.control == "budget_matched":
        positive = {name: one.survey.positive for name, one in measured.items()}
        taus = _budget_matched(taus, positive, min(params.tau0, 1.0))
    return {name: params.model_copy(update={"tau": tau}) for name, tau in taus.items()}


def _as_rsaf(params: Params) -> rsaf.Params:
    """The parameters of `rsaf` that give the same tau: without beta the skewness has no say."""
    changed = {
        "rate_only": {"rule": "adaptive", "beta": 0.0},
        "skewness_only": {"rule": "adaptive"},
    }
    return params.model_copy(update=changed.get(params.rule, {}))


def _budget_matched(
    taus: dict[str, float], positive: dict[str, int], share: float
) -> dict[str, float]:
    """taus times one factor, at most 1 each, so that sum tau #{v > 0} is share sum #{v > 0}."""
    target = share * sum(positive.values())
    low, high = 0.0, 1.0 / max(min((t for t in taus.values() if t > 0), default=1.0), 1e-9)

    def scaled(factor: float) -> dict[str, float]:
        return {name: min(1.0, factor * tau) for name, tau in taus.items()}

    for _ in range(60):
        middle = (low + high) / 2
        kept = sum(tau * positive[name] for name, tau in scaled(middle).items())
        low, high = (middle, high) if kept < target else (low, middle)
    return scaled(high)


METHOD = Method(
    rsaf_controls,
    Params,
    line="RSAF with controls for experiments.",
    measure=measure,
    settle=settle,
)
