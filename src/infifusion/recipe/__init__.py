"""Every field of a recipe, with its documentation. A recipe names everything that a run does.

`Recipe.from_mapping` validates one YAML file; `Recipe.resolve` writes out what `each: true`
abbreviates and returns a `Resolved`. models.py, data.py and steps.py hold the fields.
"""

from infifusion.recipe.data import Data, DataFile, DataSource, PromptSource, WriteResponses
from infifusion.recipe.engine import Engine
from infifusion.recipe.fields import LONGEST_NAME
from infifusion.recipe.models import Dtype, Model, SystemPlace
from infifusion.recipe.recipe import (
    STAGES,
    Recipe,
    anchor,
    load_recipe,
    require_stage,
)
from infifusion.recipe.resolved import FuseTarget, MergeRun, Resolved, TrainingRun
from infifusion.recipe.runs import split_of_scores
from infifusion.recipe.steps import (
    Distill,
    Evaluate,
    Fuse,
    Lora,
    Merge,
    OnPolicy,
    Teach,
    sampling_problems,
)
from infifusion.strict import as_json, as_written

__all__ = [
    "LONGEST_NAME",
    "STAGES",
    "Data",
    "DataFile",
    "DataSource",
    "Distill",
    "Dtype",
    "Engine",
    "Evaluate",
    "Fuse",
    "FuseTarget",
    "Lora",
    "Merge",
    "MergeRun",
    "Model",
    "OnPolicy",
    "PromptSource",
    "Recipe",
    "Resolved",
    "SystemPlace",
    "Teach",
    "TrainingRun",
    "WriteResponses",
    "anchor",
    "as_json",
    "as_written",
    "load_recipe",
    "require_stage",
    "sampling_problems",
    "split_of_scores",
]
