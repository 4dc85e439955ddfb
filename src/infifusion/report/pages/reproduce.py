"""How to make the same run again: commands, versions, every setting."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from infifusion.report.run_folder import Run


def settings_view(run: Run) -> dict[str, Any]:
    """The resolved recipe, the plan, the versions and the commands that make this run again."""
    given = run.folder / "recipe.yaml"
    folder = shlex.quote(run.folder.resolve().name)
    return {
        "recipe": _as_yaml(run.resolved.get("recipe")),
        "plan": _as_yaml(run.resolved.get("plan")),
        "given": given.read_text(encoding="utf-8", errors="replace") if given.exists() else None,
        "trusted": run.resolved.get("trust_remote_code", []),
        "versions": run.resolved.get("versions", {}),
        "commands": [
            *([run.resolved["command"]] if run.resolved.get("command") else []),
            f"infifusion report {folder}",
        ],
    }


def _as_yaml(value: object) -> str | None:
    if not value:
        return None
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
