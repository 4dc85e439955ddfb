"""The recipes that `infifusion init` starts from, and how parts of one are replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from infifusion.errors import RecipeError
from infifusion.registry import nearest

START = "start"
"""What init fills in where no template is asked for."""
MERGE_ONLY = "merge-only"
"""The one template that is a file for `infifusion merge`."""
TEMPLATES = {
    "math-code-general": "three 7 B specialists into an 8 B pivot, adapters, one GPU of 80 GB",
    "pairwise-rsaf": "a copy of the pivot per source, merged with RSAF; models of 1.5 B",
    MERGE_ONLY: "weights alone: a file for `infifusion merge`",
    "laptop": "0.5 B on a CPU with 16 GB",
    "on-policy": "the pivot answers, sources correct it: five minutes on one core with 135 M",
    "8xgpu": "all weights of an 8 B pivot over eight GPUs, both ways of fusion",
    "paper": "the paper's case, with what is unknown marked",
}


def template_text(name: str) -> str:
    """The YAML of a template; RecipeError with the known ones for another name."""
    if name not in TEMPLATES and name != START:
        raise RecipeError(
            f"There is no template '{name}'.{nearest(name, TEMPLATES)} Templates: "
            f"{', '.join(TEMPLATES)}; infifusion init --template list says what each is."
        )
    return files("infifusion.setup").joinpath("recipes", f"{name}.yaml").read_text(encoding="utf-8")


def template_list() -> str:
    """One line each."""
    return "\n".join(f"{name:<18} {line}" for name, line in TEMPLATES.items())


def with_sections(text: str, sections: Mapping[str, str]) -> str:
    """The text with whole top-level keys replaced; their comments above stay.

    sections: key -> its YAML, without a trailing newline, the key itself included. One that the
    text lacks is added at the end.
    """
    for key, new in sections.items():
        block = re.compile(rf"^{re.escape(key)}:.*\n(?:(?: .*|)\n)*", re.MULTILINE)
        found = block.search(text)
        if found is None:
            text = f"{text.rstrip()}\n\n{new}\n"
            continue
        after = text[found.end() :]
        # Blank lines at the end belong to what follows.
        blank = "\n" if found.group().endswith("\n\n") else ""
        text = f"{text[: found.start()]}{new}\n{blank}{after}"
    return text
