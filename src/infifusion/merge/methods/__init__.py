"""Merge methods: S checkpoints and the base in, one set of weights out.

A method is `method(blocks, params) -> Merged`: it reads the tensor block by block for what it needs
to know, and gives back the function that merges one block.
"""

from infifusion.merge.methods import (
    arcee_fusion,
    breadcrumbs,
    breadcrumbs_ties,
    dare_linear,
    dare_ties,
    della,
    della_linear,
    karcher,
    linear,
    model_stock,
    multislerp,
    nearswap,
    nuslerp,
    passthrough,
    ram,
    ramplus_tl,
    rsaf,
    sce,
    sce_fusechat,
    slerp,
    task_arithmetic,
    ties,
)

METHODS = {
    "rsaf": rsaf.rsaf,
    "sce": sce.sce,
    "sce_fusechat": sce_fusechat.sce_fusechat,
    "ties": ties.ties,
    "dare_ties": dare_ties.dare_ties,
    "dare_linear": dare_linear.dare_linear,
    "della": della.della,
    "della_linear": della_linear.della_linear,
    "breadcrumbs": breadcrumbs.breadcrumbs,
    "breadcrumbs_ties": breadcrumbs_ties.breadcrumbs_ties,
    "task_arithmetic": task_arithmetic.task_arithmetic,
    "linear": linear.linear,
    "slerp": slerp.slerp,
    "multislerp": multislerp.multislerp,
    "nuslerp": nuslerp.nuslerp,
    "karcher": karcher.karcher,
    "model_stock": model_stock.model_stock,
    "nearswap": nearswap.nearswap,
    "arcee_fusion": arcee_fusion.arcee_fusion,
    "ram": ram.ram,
    "ramplus_tl": ramplus_tl.ramplus_tl,
    "passthrough": passthrough.passthrough,
}

PARAMS = {
    "rsaf": rsaf.Params,
    "sce": sce.Params,
    "sce_fusechat": sce_fusechat.Params,
    "ties": ties.Params,
    "dare_ties": dare_ties.Params,
    "dare_linear": dare_linear.Params,
    "della": della.Params,
    "della_linear": della_linear.Params,
    "breadcrumbs": breadcrumbs.Params,
    "breadcrumbs_ties": breadcrumbs_ties.Params,
    "task_arithmetic": task_arithmetic.Params,
    "linear": linear.Params,
    "slerp": slerp.Params,
    "multislerp": multislerp.Params,
    "nuslerp": nuslerp.Params,
    "karcher": karcher.Params,
    "model_stock": model_stock.Params,
    "nearswap": nearswap.Params,
    "arcee_fusion": arcee_fusion.Params,
    "ram": ram.Params,
    "ramplus_tl": ramplus_tl.Params,
    "passthrough": passthrough.Params,
}

# These merge whole models and have no use for a base, or can do without one.
BASE_UNUSED = frozenset({"linear", "karcher", "passthrough"})
BASE_OPTIONAL = frozenset({"slerp", "multislerp", "nuslerp"})
NEEDS_BASE = frozenset(METHODS) - BASE_UNUSED - BASE_OPTIONAL
