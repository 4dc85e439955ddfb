"""A run whose files are JSON but not what a run writes: an error of the run, not of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jinja2

from infifusion.errors import ArtifactError, InfiFusionError


@contextmanager
def run_as_written(where: str) -> Iterator[None]:
    """ArtifactError in place of what a missing or mistyped field raises; `where` names the run."""
    try:
        yield
    except InfiFusionError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, jinja2.TemplateError) as error:
        raise ArtifactError(
            f"{where}: a file of the run does not hold what a run writes ({error!r:.200}): it is "
            "damaged, or of another version. Run the recipe again with --redo."
        ) from error
