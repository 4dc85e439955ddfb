"""The errors a user can meet.

Every message is one paragraph: what was expected, what was found, where (file, tensor, example
id), and what to do. `exit_status` is what the command line returns: 2 when the input is at fault,
1 when the run is.
"""


class InfiFusionError(Exception):
    """Base of every error that InfiFusion raises on purpose."""

    exit_status = 1


class InputError(InfiFusionError, ValueError):
    """What the user gave is at fault: the base of the errors that follow."""

    exit_status = 2


class RecipeError(InputError):
    """A recipe, a merge file or a command-line value is wrong."""


class DataError(InputError):
    """A data set, or one example of it, is wrong."""


class TokenizerError(InputError):
    """A tokenizer cannot be used: missing, not fast, or its tokens do not tile its text."""


class CheckpointError(InputError):
    """Weights or a model folder are wrong: missing, truncated, mis-shaped, NaN."""


class ArtifactError(InputError):
    """A run folder holds something else than this recipe would write, or is damaged."""


class NumericsError(InputError):
    """NaN or Inf where a number was expected."""


class SandboxError(InfiFusionError, RuntimeError):
    """Generated code cannot be run safely on this machine."""


class RunError(InfiFusionError, RuntimeError):
    """A stage failed for a reason that is not the input's."""


class BusyError(RunError):
    """Another process makes what is wanted just now; later it will be there."""
