"""Elasticities of choice probabilities, with the standard errors of the delta method."""

from __future__ import annotations

import numpy as np

from softmix_dist.blocks import Array
from softmix_dist.errors import InputError
from softmix_dist.scenario import Scenario, standard_errors


def elasticities(
    scenario: Scenario, feature: int, candidates: Array, covariance: Array | None, semi: bool
) -> tuple[Array, Array]:
    """Elasticities of the probabilities of some candidates with respect to their features.

    d log pi_j / d x_il = sum_k r_jk theta_kl (1[i = j] - A_i(theta_k)), times x_il unless ``semi``.

    Parameters
    ----------
    scenario : Scenario
    feature : int
        l.
    candidates : (c,) array of int
        Row numbers.
    covariance : (K (L + 1), K (L + 1)) array or None
        Of the weights, then the atoms row by row.
    semi : bool
        For a change by one unit instead of by one part of the value.

    Returns
    -------
    values, errors : (c, c) arrays
        Of candidate j (row) with respect to the feature of candidate i (column).

    Raises
    ------
    InputError
        If one of the candidates is not available.
    """
    rows = scenario.at(candidates)
    away = candidates[~(rows.softmaxes > 0).any(axis=1)]
    if away.size:
        raise InputError(f"candidates: not available, so without elasticities: {away.tolist()}")
    values, errors = np.empty((2, len(candidates), len(candidates)))
    for j in range(len(candidates)):
        slopes, gradients = _responses_of(j, feature, scenario, rows.x, rows.softmaxes)
        values[j], errors[j] = slopes, standard_errors(gradients, covariance)
    if not semi:
        at = rows.x[:, feature] + scenario.predictor.centre[feature]
        values, errors = values * at, errors * np.abs(at)
    return values, errors


def _responses_of(
    j: int, feature: int, scenario: Scenario, x: Array, softmaxes: Array
) -> tuple[Array, Array]:
    """D log pi_j / d x_il by every i, (c,), and their derivatives by the parameters, (c, d).

    With t_ik = theta_kl (1[i = j] - A_ik) and s_i = sum_k r_jk t_ik, what moves is r, of which
    d r_jk = r_jk sum_m (1[k = m] - r_jm) (d alpha_m / alpha_m + (x_j - m_m) . d theta_m), and t.
    The weights' derivatives are those without the constraint, which their covariance carries.
    """
    weights, atoms, means = scenario.predictor.weights, scenario.predictor.atoms, scenario.means
    ratio = softmaxes[j] / (softmaxes[j] @ weights)  # A_jk / pi_j
    resp = weights * ratio
    own = np.zeros((len(x), 1))
    own[j] = 1.0
    open_ = own - softmaxes  # 1[i = j] - A_ik
    t = atoms[:, feature] * open_
    slopes = t @ resp
    moved = t - slopes[:, None]
    by_atoms = (resp * moved)[:, :, None] * (x[j] - means)
    pulled = resp * atoms[:, feature] * softmaxes
    by_atoms -= pulled[:, :, None] * (x[:, None, :] - means)
    by_atoms[:, :, feature] += resp * open_
    return slopes, np.concatenate([ratio * moved, by_atoms.reshape(len(x), -1)], axis=1)
