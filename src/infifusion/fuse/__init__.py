"""Fusion functions: S aligned beliefs in, one target row per pivot position out."""

from infifusion.fuse import (
    avg_ce,
    bayes,
    max_confidence,
    max_logit,
    mean,
    mean_logit,
    min_ce,
    uncertainty,
    uncertainty_logit,
)

FUSION_FUNCTIONS = {
    "uncertainty": uncertainty.uncertainty,
    "bayes": bayes.bayes,
    "min_ce": min_ce.min_ce,
    "avg_ce": avg_ce.avg_ce,
    "mean": mean.mean,
    "max_confidence": max_confidence.max_confidence,
    "mean_logit": mean_logit.mean_logit,
    "max_logit": max_logit.max_logit,
    "uncertainty_logit": uncertainty_logit.uncertainty_logit,
}

PARAMS = {
    "uncertainty": uncertainty.Params,
    "bayes": bayes.Params,
    "min_ce": min_ce.Params,
    "avg_ce": avg_ce.Params,
    "mean": mean.Params,
    "max_confidence": max_confidence.Params,
    "mean_logit": mean_logit.Params,
    "max_logit": max_logit.Params,
    "uncertainty_logit": uncertainty_logit.Params,
}
