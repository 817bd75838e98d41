"""From the design's sums to standard coordinates; which columns are not identified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from softmix_dist.errors import InputError
from softmix_dist.model import Array, Coordinates, Frame
from softmix_dist.sums import DesignSums

# Standard deviations of a feature, and one over them, whose squares are well in range.
_LARGEST = 2.0**480


def standard_coordinates(
    sums: DesignSums, frame: Frame, names: Sequence[str], stored: np.dtype[Any]
) -> Coordinates:
    """Mean and covariance of the features over candidates, base-weighted.

    Parameters
    ----------
    sums : DesignSums
        In the frame.
    frame : Frame
    names : sequence of str
        Feature names, for the message.
    stored : dtype
        Precision in which the features are stored: a column that repeats others up to
        its rounding is collinear.

    Returns
    -------
    Coordinates

    Raises
    ------
    InputError
        If columns are constant, collinear or out of range; the message names each of them.
    """
    gram = sums.gram
    total = gram[0, 0]
    mean = gram[0, 1:] / total
    with np.errstate(over="ignore", invalid="ignore"):
        covariance = gram[1:, 1:] / total - np.outer(mean, mean)
    second = np.diag(gram)[1:] / total
    rounding = max(1e-11, 10 * float(np.finfo(stored).eps) ** 2)
    # 1. Out of range: squares, or those of the coefficients, overflow.
    variance = np.diag(covariance)
    with np.errstate(invalid="ignore"):
        spread = frame.scale.astype(np.float64) * np.sqrt(variance)
        fits = (spread < _LARGEST) & (spread > 1 / _LARGEST)
    far = ~(fits | (variance <= 0))
    problems = [
        f"feature {names[i]!r} has values whose squares are out of range (spread {spread[i]:.2g}); "
        "express it in another unit, or mend the outlier"
        for i in np.flatnonzero(far).tolist()
    ]
    # 2. Constant: no variance beyond the rounding of the values themselves.
    constant = ~far & (variance <= 1e-14 * second)
    problems += [
        f"feature {names[i]!r} is constant over the candidates, so its coefficient is not "
        "identified; drop it"
        for i in np.flatnonzero(constant).tolist()
    ]
    # 3. Collinear: no variance left after the columns before it (Cholesky, column by column).
    factor, kept = np.zeros((0, 0)), np.empty(0, dtype=int)
    for i in np.flatnonzero(~(far | constant)).tolist():
        row = solve_triangular(factor, covariance[kept, i], lower=True) if kept.size else kept
        left = variance[i] - row @ row
        if left <= rounding * variance[i]:
            slopes = solve_triangular(factor, row, lower=True, trans="T")
            sizes = np.abs(slopes) * np.sqrt(variance[kept] / variance[i])
            slopes = slopes * frame.scale[i] / frame.scale[kept]
            before = [names[j] for j in kept.tolist()]
            problems.append(_collinear(names[i], before, slopes, sizes))
            continue
        grown = np.zeros((kept.size + 1, kept.size + 1))
        grown[:-1, :-1] = factor
        grown[-1] = [*row, np.sqrt(left)]
        factor, kept = grown, np.append(kept, i)
    if problems:
        raise InputError("the features do not identify the atoms:\n- " + "\n- ".join(problems))
    log_total = float(np.log(total))
    return Coordinates(frame, mean, factor, log_total, log_total - sums.log_base / total)


def _collinear(name: str, before: Sequence[str], slopes: Array, sizes: Array) -> str:
    """Say of which features before it, with which slopes, one is made."""
    terms = [
        f"{slope:.4g} x {other!r}"
        for slope, other, size in zip(slopes, before, sizes, strict=True)
        if size > 1e-4
    ]
    return (
        f"feature {name!r} is collinear: a constant + {' + '.join(terms)}, so its "
        "coefficient is not identified; drop one of them"
    )


def draws_mean(sums: DesignSums, coordinates: Coordinates) -> Array:
    """Mean over draws of the standardised features, (L,): about sum_k alpha_k eta_k."""
    return coordinates.standardise(sums.draws[None, :])[0] / max(sums.n_draws, 1)
