"""The model card of what `infifusion merge` made. Apart from cards.py, which needs torch."""

from __future__ import annotations

from pathlib import Path

from infifusion.merge.engine.file import MergeFile
from infifusion.merge.engine.plan import MergePlan
from infifusion.recipe import as_written
from infifusion.report.card import write_merge_card


def card_of_merge(folder: Path, name: str, file: MergeFile, plan: MergePlan) -> None:
    """README.md and the merge file beside the weights of a merge."""
    write_merge_card(
        folder,
        name=name,
        recipe=as_written(file),
        base=plan.base.name if plan.base else None,
        models=[model.name for model in plan.models],
        method=plan.method,
    )
