"""Merge methods: S checkpoints and the base in, one set of weights out.

Each file defines a method, or two that differ in a step, and its record (`method.Method`), which
is all that anything else knows of it.
"""

from infifusion.merge.methods.arcee_fusion import ARCEE_FUSION
from infifusion.merge.methods.breadcrumbs import BREADCRUMBS, BREADCRUMBS_TIES
from infifusion.merge.methods.dare import DARE_LINEAR, DARE_TIES
from infifusion.merge.methods.della import DELLA, DELLA_LINEAR
from infifusion.merge.methods.karcher import KARCHER
from infifusion.merge.methods.linear import LINEAR
from infifusion.merge.methods.method import Method
from infifusion.merge.methods.model_stock import MODEL_STOCK
from infifusion.merge.methods.multislerp import MULTISLERP
from infifusion.merge.methods.nearswap import NEARSWAP
from infifusion.merge.methods.nuslerp import NUSLERP
from infifusion.merge.methods.passthrough import PASSTHROUGH
from infifusion.merge.methods.ram import RAM, RAMPLUS_TL
from infifusion.merge.methods.rsaf import RSAF
from infifusion.merge.methods.sce import SCE, SCE_FUSECHAT
from infifusion.merge.methods.slerp import SLERP
from infifusion.merge.methods.task_arithmetic import TASK_ARITHMETIC
from infifusion.merge.methods.ties import TIES

METHODS: dict[str, Method] = {
    "rsaf": RSAF,
    "sce": SCE,
    "sce_fusechat": SCE_FUSECHAT,
    "ties": TIES,
    "dare_ties": DARE_TIES,
    "dare_linear": DARE_LINEAR,
    "della": DELLA,
    "della_linear": DELLA_LINEAR,
    "breadcrumbs": BREADCRUMBS,
    "breadcrumbs_ties": BREADCRUMBS_TIES,
    "task_arithmetic": TASK_ARITHMETIC,
    "linear": LINEAR,
    "slerp": SLERP,
    "multislerp": MULTISLERP,
    "nuslerp": NUSLERP,
    "karcher": KARCHER,
    "model_stock": MODEL_STOCK,
    "nearswap": NEARSWAP,
    "arcee_fusion": ARCEE_FUSION,
    "ram": RAM,
    "ramplus_tl": RAMPLUS_TL,
    "passthrough": PASSTHROUGH,
}
