"""Losses: one value per position; the trainer reduces."""

from infifusion.losses import cross_entropy, jsd, kl, reverse_kl, uld

LOSSES = {
    "kl": kl.kl,
    "reverse_kl": reverse_kl.reverse_kl,
    "jsd": jsd.jsd,
    "uld": uld.uld,
    "cross_entropy": cross_entropy.cross_entropy,
}

PARAMS = {
    "kl": kl.Params,
    "reverse_kl": reverse_kl.Params,
    "jsd": jsd.Params,
    "uld": uld.Params,
    "cross_entropy": cross_entropy.Params,
}

WITHOUT_ZSCORES = frozenset(LOSSES) - {"uld"}
"""Losses that do not read SparseTarget.zscore_RK, so that nobody need bring it to them. A loss from
outside may read it."""
