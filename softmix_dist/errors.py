"""Errors and warnings: what went wrong, where, and what to do about it.

Every error takes one positional message, so that it survives the trip between
processes by pickle. The ``softmix`` command maps them to exit codes: bad data
65, numerical failure 70, interrupted, cluster lost or store unavailable 75.
"""


class SoftmixError(Exception):
    """Base class of all errors raised on purpose by this package."""


class InputError(SoftmixError, ValueError):
    """The data or the settings are not what the model needs; retrying will not help."""


class StoreError(SoftmixError, OSError):
    """A data set, model or output cannot be opened, read or written."""


class StoreUnavailableError(StoreError):
    """An object store does not answer, or not now, after retries; the work may be retried."""


class NumericalError(SoftmixError, ArithmeticError):
    """The computation left the range in which its result means something."""


class ClusterError(SoftmixError, RuntimeError):
    """The cluster was lost or cannot do what was asked; the work may be retried."""


class NotFittedError(SoftmixError, AttributeError):
    """A fitted attribute or method was used before ``fit``."""


class SoftmixWarning(UserWarning):
    """Base class of the warnings of this package."""


class ConvergenceWarning(SoftmixWarning):
    """The fit stopped before its convergence criterion was met."""


class CondensedComponentWarning(SoftmixWarning):
    """A component sits on so few candidates that its atom is hardly identified."""


class WarmStartWarning(SoftmixWarning):
    """A start could not be computed as asked and was replaced or dropped."""


class CheckpointWarning(SoftmixWarning):
    """A checkpoint is damaged in part, or was written where bits may differ."""


class StandardErrorWarning(SoftmixWarning):
    """There are no standard errors, for the information is singular, or they are in doubt."""
