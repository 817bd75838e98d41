"""The model's values: parameters, and the coordinates in which they are computed.

Three coordinate systems of the features, each an affine image of the one before:

1. *features*: as the user gave them;
2. *frame*: shifted and scaled column by column, exactly, when a block is loaded
   (so that a year or a price costs no digits); the kernels work here;
3. *standard*: whitened by the design's mean and covariance; the solvers work
   here, so that steps, radii, penalties and tolerances mean the same on every
   data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

Array = np.ndarray[Any, np.dtype[Any]]

# Of a scale at most, by the bytes of a number: the ratio of two of them is in range.
_EXPONENTS = {4: 100, 8: 500}


@dataclass(frozen=True)
class Mixture:
    """A softmax mixture as the pair (b, atoms).

    Stands for the weights alpha_k proportional to exp(b_k) Z_k, where Z_k is the
    normaliser of the k-th softmax; so it can be evaluated without knowing Z_k.

    Attributes
    ----------
    offsets : (K,) array
        b_k.
    atoms : (K, L) array
        theta_k, in the coordinates that the context says.
    """

    offsets: Array
    atoms: Array

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return len(self.offsets)

    @property
    def n_coefficients(self) -> int:
        """K (L + 1): offsets and coordinates of the atoms."""
        return self.offsets.size + self.atoms.size

    @property
    def coefficients(self) -> Array:
        """(L + 1, K): what the homogeneous features (1, x) are multiplied with."""
        return np.column_stack([self.offsets, self.atoms]).T


@dataclass(frozen=True)
class Frame:
    """Provisional centre and scale of the features, and level of the log base measure.

    Attributes
    ----------
    centre : (L,) array, in the dtype of the blocks
        Zero unless the offset of a column is large against its spread: then the
        subtraction is exact in the stored precision (Sterbenz), and needed.
    scale : (L,) array, in the dtype of the blocks
        Powers of two, so that dividing by them is exact.
    log_base_level : float
        Subtracted from the log base measure; without effect on the model.
    """

    centre: Array
    scale: Array
    log_base_level: float = 0.0

    @classmethod
    def of(cls, features: Array, log_base: Array | None = None) -> Frame:
        """Frame of a data set, from its first block.

        Parameters
        ----------
        features : (rows, L) array
        log_base : (rows,) array or None
            Candidates that are not available do not matter, unless none is.

        Returns
        -------
        Frame
        """
        dtype = block_dtype(features.dtype)
        values = features.astype(np.float64)
        if log_base is not None and (log_base > -np.inf).any():
            values = values[log_base > -np.inf]
        values[~np.isfinite(values)] = 0.0
        if not len(values):
            values = np.zeros((1, features.shape[1]))
        # What overflows here does so in the design's sums, where it is found.
        with np.errstate(over="ignore", invalid="ignore"):
            low, high = values.min(axis=0), values.max(axis=0)
            centre = np.zeros(features.shape[1], dtype)
            # x - c is exact for c/2 <= x <= 2c; a smaller offset needs no centring. A column that
            # is wider than it is far from 0 has none, and needs no median, which takes time.
            far = np.flatnonzero(np.maximum(-low, high) >= 0.9 * (high - low))
            middle = np.median(values[:, far], axis=0).astype(dtype)
            reach = np.maximum(high[far] - middle, middle - low[far])
            centre[far] = np.where(np.abs(middle) >= 2 * reach, middle, 0)
            # In units of the largest, whose square may be out of range.
            most = np.maximum(high - centre, centre - low)
            unit = np.exp2(np.rint(np.log2(most, where=most > 0, out=np.zeros_like(most))))
            spread = unit * np.sqrt(np.mean(((values - centre) / unit) ** 2, axis=0))
        known = (spread > 0) & np.isfinite(spread)
        exponent = np.log2(spread, where=known, out=np.zeros_like(spread))
        limit = _EXPONENTS[dtype.itemsize]
        scale = np.exp2(np.clip(np.rint(exponent), -limit, limit)).astype(dtype)
        level = 0.0
        if log_base is not None and np.isfinite(log_base).any():
            level = float(log_base[np.isfinite(log_base)].max())
        return cls(centre, scale, level)


def block_dtype(stored: np.dtype[Any]) -> np.dtype[Any]:
    """Precision of a block in memory: float16 is read as float32, others as they are."""
    return np.dtype(np.float64) if stored.itemsize == 8 else np.dtype(np.float32)


@dataclass(frozen=True)
class Coordinates:
    """Maps between the frame and the standard coordinates z = C^-1 (x - mean).

    Attributes
    ----------
    frame : Frame
    mean : (L,) array
        Base-weighted mean of the features over candidates, in the frame.
    factor : (L, L) array
        Lower Cholesky factor C of their covariance, in the frame.
    log_candidates : float
        Log of the total base measure over candidates.
    base_entropy : float
        Entropy of the normalised base measure, nats.
    """

    frame: Frame
    mean: Array
    factor: Array
    log_candidates: float
    base_entropy: float

    @property
    def radius(self) -> float:
        """Norm beyond which an atom condenses on few candidates, sqrt(2 log p)."""
        return float(np.sqrt(2 * max(self.base_entropy, np.log(2))))

    def to_frame(self, mixture: Mixture) -> Mixture:
        """Map a mixture from standard to frame coordinates."""
        atoms = solve_triangular(self.factor, mixture.atoms.T, lower=True, trans="T").T
        return Mixture(mixture.offsets - atoms @ self.mean, atoms)

    def to_features(self, atoms: Array) -> Array:
        """Map atoms (K, L) from standard coordinates to the features' own."""
        inner = solve_triangular(self.factor, atoms.T, lower=True, trans="T").T
        return inner / self.frame.scale.astype(np.float64)

    def from_features(self, atoms: Array) -> Array:
        """Map atoms (K, L) from the features' own coordinates to standard ones."""
        return (atoms * self.frame.scale.astype(np.float64)) @ self.factor

    def homogeneous(self) -> Array:
        """Matrix that maps (1, x) in the frame to (1, z), (L + 1, L + 1)."""
        size = len(self.mean) + 1
        matrix = np.eye(size)
        inverse = solve_triangular(self.factor, np.eye(size - 1), lower=True)
        matrix[1:, 1:] = inverse
        matrix[1:, 0] = -inverse @ self.mean
        return matrix

    def standardise(self, sums: Array) -> Array:
        """Map sums of (1, x) over rows, (K, L + 1), to sums of z, (K, L)."""
        centred = sums[:, 1:] - sums[:, :1] * self.mean
        # Sums that overflowed are for the caller to find: here they only pass through.
        return solve_triangular(self.factor, centred.T, lower=True, check_finite=False).T
