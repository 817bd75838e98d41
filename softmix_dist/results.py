"""What goes into a fit and what comes out of it: settings and result, both frozen."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from softmix_dist.errors import InputError
from softmix_dist.model import Array

INITS = ("auto", "search", "moments", "tensor", "subspace", "random")


@dataclass(frozen=True)
class Settings:
    """Settings of a fit; see `SoftmaxMixture` for their meaning."""

    n_components: int
    init: Any = "auto"
    n_init: int = 8
    solver: str = "auto"
    l2: float = 0.0
    tol: float = 0.01
    max_passes: int = 500
    precision: str = "auto"
    random_state: int | None = 0
    sketch_rows: int | None = None
    standard_errors: str = "sketch"

    def check(self) -> None:
        """Raise `InputError` unless every setting is in its range."""
        choices = {
            "solver": ("auto", "newton", "em", "em-first-order"),
            "precision": ("auto", "single", "double"),
            "standard_errors": ("sketch", "exact", "clustered", "scaled", "none"),
        }
        problems = [
            f"{name}: expected one of {', '.join(allowed)}, found {getattr(self, name)!r}"
            for name, allowed in choices.items()
            if getattr(self, name) not in allowed
        ]
        if isinstance(self.init, str) and self.init not in INITS:
            problems.append(
                f"init: expected one of {', '.join(INITS)} or an array, found {self.init!r}"
            )
        if self.sketch_rows is not None and not _whole(self.sketch_rows, 100):
            problems.append(f"sketch_rows: expected at least 100, found {self.sketch_rows!r}")
        if not _whole(self.n_components, 1):
            problems.append(f"n_components: expected at least 1, found {self.n_components!r}")
        if not _whole(self.n_init, 1):
            problems.append(f"n_init: expected at least 1, found {self.n_init!r}")
        if not _whole(self.max_passes, 1):
            problems.append(f"max_passes: expected at least 1, found {self.max_passes!r}")
        if not (_real(self.tol) and 0 < self.tol < np.inf):
            problems.append(f"tol: expected a positive number, found {self.tol!r}")
        if self.random_state is not None and not _whole(self.random_state, 0):
            problems.append(
                f"random_state: expected None or an integer of at least 0, "
                f"found {self.random_state!r}"
            )
        if not (_real(self.l2) and 0 <= self.l2 < np.inf):
            problems.append(f"l2: expected a number of at least 0, found {self.l2!r}")
        if problems:
            raise InputError("these settings cannot be used:\n- " + "\n- ".join(problems))

    def drawn_seed(self) -> int:
        """Return the seed that was asked for, or one drawn where none was."""
        if self.random_state is None:
            return int(np.random.default_rng().integers(2**63))
        return int(self.random_state)


def _real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _whole(value: Any, least: int) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return bool(whole and value >= least)


@dataclass(frozen=True)
class FitResult:
    """What a fit found; components by decreasing weight.

    Attributes
    ----------
    weights : (K,) array
    atoms : (K, L) array
        In the features' own coordinates.
    standard_atoms : (K, L) array
        In standard coordinates: whitened by the design.
    log_likelihood, objective : float
        Nats per draw; the objective is penalised.
    effective_candidates : (K,) array
        exp(entropy) of each component's softmax.
    converged : bool
    verified : bool
        Whether the information showed it: that of the sketch with its errors, or that of all
        data; never only what the last gains promise.
    distance : float
        Estimated distance to the maximum, in standard errors.
    n_passes : int
        Passes over the data, survey and start included.
    n_draws, n_candidates : int
    history : list of dict
        One row for each step of the best start, a pass each but for checks of a claim by
        products: ``pass`` (the last one), ``log_likelihood`` and ``objective``
        (nats per draw), ``gradient`` (its largest entry), ``distance`` (to the maximum, in
        standard errors), ``step``, ``precision``, ``rounding`` (nats per draw), ``bytes_read``
        (0 where the data stay in memory), ``seconds`` (since the fit began).
    starts : list of dict
        One row for each start.
    gap : dict or None
        What further components could gain, see `softmix_dist.gap.Gap`; None where no
        sketch was drawn or the likelihood was penalised.
    sketch_rows : int
        Rows of the sketch, 0 where none was drawn.
    kurtosis : list of float or None
        Of each whitened feature over candidates; the moment estimators rest on 3, as for
        Gaussian features. None where no sketch was drawn.
    covariance : (K (L + 1), K (L + 1)) array or None
        Of the estimates: the weights, then the atoms row by row, in the features' own
        coordinates. NaN where the information is singular, None where none was asked for.
        With l2 > 0 it is that of the penalised, biased estimate.
    errors_from : {"sketch", "exact", "clustered", "scaled", "none"}
        What the covariance rests on.
    dispersion : float or None
        Pearson's estimate, by which the covariance was multiplied; None where that was not
        asked for.
    warnings : list of str
    seconds : float
    """

    weights: Array
    atoms: Array
    standard_atoms: Array
    log_likelihood: float
    objective: float
    effective_candidates: Array
    converged: bool
    verified: bool
    distance: float
    n_passes: int
    n_draws: int
    n_candidates: int
    feature_names: list[str]
    history: list[dict[str, Any]]
    starts: list[dict[str, Any]]
    gap: dict[str, Any] | None
    sketch_rows: int
    kurtosis: list[float] | None
    covariance: Array | None
    errors_from: str
    dispersion: float | None
    warnings: list[str]
    seconds: float

    @property
    def standard_errors(self) -> dict[str, Array] | None:
        """Standard errors of the ``weights``, (K,), and ``atoms``, (K, L); None if skipped."""
        if self.covariance is None:
            return None
        errors = np.sqrt(np.maximum(np.diag(self.covariance), 0.0))
        n_components = len(self.weights)
        return {
            "weights": errors[:n_components],
            "atoms": errors[n_components:].reshape(self.atoms.shape),
        }
