"""The errors a user can meet.

Every message is one paragraph: what was expected, what was found, where (file, tensor, example
id), and what to do. `exit_status` is what the command line returns: 2 when the input is at fault,
1 when the run is.
"""


class InfiFusionError(Exception):
    """Base of every error that InfiFusion raises on purpose."""

    exit_status = 1


class RecipeError(InfiFusionError, ValueError):
    """A recipe, a merge file or a command-line value is wrong."""

    exit_status = 2


class DataError(InfiFusionError, ValueError):
    """A data set, or one example of it, is wrong."""

    exit_status = 2


class TokenizerError(InfiFusionError, ValueError):
    """A tokenizer cannot be used: missing, not fast, or its tokens do not tile its text."""

    exit_status = 2


class CheckpointError(InfiFusionError, ValueError):
    """Weights or a model folder are wrong: missing, truncated, mis-shaped, NaN."""

    exit_status = 2


class ArtifactError(InfiFusionError, ValueError):
    """A run folder holds something else than this recipe would write, or is damaged."""

    exit_status = 2


class NumericsError(InfiFusionError, ValueError):
    """NaN or Inf where a number was expected."""

    exit_status = 2


class SandboxError(InfiFusionError, RuntimeError):
    """Generated code cannot be run safely on this machine."""


class RunError(InfiFusionError, RuntimeError):
    """A stage failed for a reason that is not the input's."""


class BusyError(RunError):
    """Another process makes what is wanted just now; later it will be there."""
