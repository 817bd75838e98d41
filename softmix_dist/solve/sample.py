"""The sketch on the driver: a small weighted problem, in standard coordinates.

Everything that searches works here; the cluster only ever evaluates exact sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from softmix_dist.blocks import Array, Block, Findings
from softmix_dist.kernels import layout, score, slice_rows
from softmix_dist.model import Coordinates, Frame, Mixture
from softmix_dist.solve.point import Point, evaluate

# Up to this many coefficients, K (L + 1), a matrix of them is formed on the driver.
LARGEST_MATRIX = 2000
_TINY = float(np.finfo(np.float64).tiny)
# Smallest density, relative to the largest: nothing is divided by less.
_THINNEST = np.float32(1e-30)
# Rows of a slice of (rows x candidate atoms), which then stays in cache.
_TILT_ROWS = 2048
# Rows with draws that a part of the rows must be expected to hold.
_FEWEST_SEEN = 4


class _Standard(Coordinates):
    """Coordinates of rows that are standardised already."""

    def standardise(self, sums: Array) -> Array:
        return sums[:, 1:]


@dataclass(frozen=True)
class Joined:
    """What each of M candidates for one more component would be, see `Sample.joined`.

    Attributes
    ----------
    mass : (M,) array
        Its weight, relative to 1 of the others.
    means : (M, L) array
        Mean of z under its softmax.
    resp : (M,) array
        Its mean responsibility over draws.
    resp_means : (M, L) array
        Mean of z over draws, by responsibility.
    gains : (M,) array
        Of the log-likelihood, nats per draw.
    """

    mass: Array
    means: Array
    resp: Array
    resp_means: Array
    gains: Array

    def where(self, chosen: Array, other: Joined) -> Joined:
        """Take the chosen candidates from another."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Joined(
            *(np.where(chosen[:, None] if a.ndim == 2 else chosen, b, a) for a, b in pairs)
        )


@dataclass(frozen=True)
class Sample:
    """Weighted rows that stand for all candidates and all draws.

    Attributes
    ----------
    z : (m, L + 1) array of float32
        Homogeneous features (1, z), standardised.
    base : (m,) array of float32
        Share of the base measure that each row stands for; sums to 1.
    share : (m,) array of float32
        Share of the draws; sums to 1.
    blocks : dict of dtype to Block
        The same rows as the kernels see them.
    coordinates : Coordinates
        The identity, with this sample's entropy of the base measure.
    n_draws : int
    l2 : float
        Penalty, nats per draw.
    chance : (m,) array
        With which each row came into the sample.
    """

    z: Array
    base: Array
    share: Array
    blocks: dict[np.dtype[Any], Block]
    coordinates: Coordinates
    n_draws: int
    l2: float
    chance: Array

    @property
    def is_all(self) -> bool:
        """Whether it is the whole data."""
        return bool((self.chance == 1).all())

    @classmethod
    def of(
        cls,
        z: Array,
        base: Array,
        draws: Array,
        n_draws: int,
        n_components: int,
        base_entropy: float,
        l2: float = 0.0,
        log_base: Array | None = None,
        chance: Array | None = None,
    ) -> Sample:
        """Sample from its rows.

        Parameters
        ----------
        z : (m, L) array of float64
            Standardised features.
        base, draws : (m,) arrays
            Weighted base measure and weighted draws; scaled here to sum to 1.
        n_draws : int
            Of the whole data.
        n_components : int
            Decides the memory order.
        base_entropy : float
            Of the whole data, nats.
        l2 : float
        log_base : (m,) array, optional
            Log of the base measure itself, -inf for rows that are not available.
        chance : (m,) array, optional
            With which each row was drawn; default 1.
        """
        homogeneous = np.column_stack([np.ones(len(z)), z])
        return cls.of_homogeneous(
            homogeneous, base, draws, n_draws, n_components, base_entropy, l2, log_base, chance
        )

    @classmethod
    def of_homogeneous(
        cls,
        homogeneous: Array,
        base: Array,
        draws: Array,
        n_draws: int,
        n_components: int,
        base_entropy: float,
        l2: float = 0.0,
        log_base: Array | None = None,
        chance: Array | None = None,
    ) -> Sample:
        """Sample from rows (1, z), (m, L + 1).

        Of rows in double precision the kernels get copies in both precisions; of rows in
        single precision none, for there may be gigabytes of them.
        """
        base, share = base / base.sum(), draws / draws.sum()
        n_features = homogeneous.shape[1] - 1
        # The kernel weighs both sums by the multiplicity: here the base measure's share.
        times = base
        if log_base is not None:
            there = log_base > -np.inf
            times = np.ones(len(homogeneous))
            times[there] = base[there] * np.exp(-log_base[there])
        blocks = {}
        shared = homogeneous.dtype == np.float32
        for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
            step = slice_rows(n_features + 1, n_components, dtype.itemsize)
            slices = tuple(
                homogeneous[i : i + step]
                if shared
                else np.asarray(homogeneous[i : i + step], dtype, order=layout(n_components))
                for i in range(0, len(homogeneous), step)
            )
            blocks[dtype] = Block(
                slices, n_draws * share / times, log_base, times, None, Findings()
            )
        frame = Frame(np.zeros(n_features), np.ones(n_features))
        identity = _Standard(frame, np.zeros(n_features), np.eye(n_features), 0.0, base_entropy)
        single = np.float32
        chance = np.ones(len(homogeneous)) if chance is None else chance
        return cls(
            homogeneous.astype(single, copy=False), base.astype(single), share.astype(single),
            blocks, identity, n_draws, l2, chance,
        )  # fmt: skip

    def points(self, mixtures: Sequence[Mixture], dtype: Any = np.float32) -> list[Point]:
        """Evaluate mixtures in standard coordinates."""
        kind = np.dtype(dtype)
        sums = score(self.blocks[kind], mixtures, kind)
        return [
            evaluate(mixture, s, self.coordinates, self.n_draws, self.l2)
            for mixture, s in zip(mixtures, sums, strict=True)
        ]

    def density(self, mixture: Mixture) -> Array:
        """Density of a mixture relative to the base measure, (m,) float32, up to a constant."""
        coefficients = mixture.coefficients.astype(np.float32)
        logs = np.empty(len(self.z), np.float32)
        for part in self._parts():
            logits = self.z[part] @ coefficients
            top = logits.max(axis=1)
            logits -= top[:, None]
            logs[part] = top + np.log(np.exp(logits, out=logits).sum(axis=1))
        density = np.maximum(np.exp(logs - logs.max()), _THINNEST)
        return np.asarray(density / float(density @ self.base))

    def tilts(
        self, atoms: Array, density: Array, n_rows: int | None = None
    ) -> tuple[Array, Array, Array]:
        """Lindsay's gradient function at many atoms, and where it rises.

        Parameters
        ----------
        atoms : (M, L) array
        density : (m,) array
            Of the current mixture, see `density`.
        n_rows : int, optional
            About so many rows are enough.

        Returns
        -------
        D : (M,) array
            sum_j q_j A_j(theta) / pi_j; a mixture that gains from an atom has D > 1 there.
        mean, tilted : (M, L) arrays
            Mean of z under the softmax, and under the softmax reweighted by q / pi; their
            difference is the gradient of log D.
        """
        excess = self.share / density
        theta = np.column_stack([np.zeros(len(atoms)), atoms]).T.astype(np.float32)
        plain = np.zeros((len(atoms), self.z.shape[1]))
        raised = np.zeros_like(plain)
        # exp(z.theta - |theta|^2 / 2) is near 1 in the mean for Gaussian features.
        theta[0] = -0.5 * np.sum(atoms**2, axis=1)
        stride = max(1, len(self.z) // (n_rows or len(self.z)))
        # An atom whose sums overflow is none to go on from: its D is 0, its means are too.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for part in self._parts(stride):
                z = np.ascontiguousarray(self.z[part])
                e = z @ theta
                np.exp(e, out=e)
                plain += np.dot((e * self.base[part, None]).T, z)
                e *= excess[part, None]
                raised += np.dot(e.T, z)
            d = raised[:, 0] / plain[:, 0]
            mean, tilted = (sums[:, 1:] / sums[:, :1] for sums in (plain, raised))
        d, mean, tilted = (np.nan_to_num(f, posinf=0.0, neginf=0.0) for f in (d, mean, tilted))
        return d, mean, tilted

    def highest(self, atoms: Array, n_rows: int) -> Array:
        """Largest logit z.theta of each atom, over about so many rows, (M,)."""
        theta = atoms.T.astype(np.float32)
        stride = max(1, len(self.z) // n_rows)
        parts = [(self.z[part, 1:] @ theta).max(axis=0) for part in self._parts(stride)]
        return np.max(parts, axis=0).astype(np.float64)

    def joined(self, atoms: Array, offsets: Array, density: Array, n_rows: int) -> Joined:
        """Join one component to a mixture: the sums of its EM, for many candidates at once.

        Parameters
        ----------
        atoms : (M, L) array
        offsets : (M,) array
            Candidate m adds exp(offset_m + z.theta_m) to the density.
        density : (m,) array
            Of the mixture, which stays as it is.
        n_rows : int
            About so many rows are enough.
        """
        coefficients = np.column_stack([offsets, atoms]).T.astype(np.float32)
        plain = np.zeros((len(atoms), self.z.shape[1]))
        resp = np.zeros_like(plain)
        gains = np.zeros(len(atoms))
        base, share = 0.0, 0.0
        stride = max(1, len(self.z) // n_rows)
        if np.count_nonzero(self.share) < _FEWEST_SEEN * stride:
            # Where few rows have draws a part of the rows may have none.
            stride = 1
        with np.errstate(over="ignore", invalid="ignore"):
            for part in self._parts(stride):
                z = np.ascontiguousarray(self.z[part])
                e = z @ coefficients
                np.exp(e, out=e)
                u, q = self.base[part], self.share[part]
                plain += np.dot((e * u[:, None]).T, z)
                seen = np.flatnonzero(q)
                q = q[seen]
                ratio = e[seen] / density[part][seen, None]
                ratio += 1
                gains += q @ np.log(ratio)
                np.divide(-q[:, None], ratio, out=ratio)
                ratio += q[:, None]
                resp += np.dot(ratio.T, z[seen])
                base, share = base + float(u.sum()), share + float(q.sum())
            mass = plain[:, 0] / base
            share = max(share, _TINY)
            gains = gains / share - np.log1p(mass)
            means, resp_means = (
                np.nan_to_num(sums[:, 1:] / np.maximum(sums[:, :1], _TINY), posinf=0.0, neginf=0.0)
                for sums in (plain, resp)
            )
        # A candidate whose sums overflow gains nothing.
        gains = np.where(np.isfinite(gains), gains, -np.inf)
        return Joined(np.maximum(mass, _TINY), means, resp[:, 0] / share, resp_means, gains)

    def noise(self, a: Mixture, b: Mixture) -> float:
        """Return the standard deviation, by the sampling, of a difference of log-likelihoods.

        By the influence of each row on l(a) - l(b), whose Poisson sampling has the variance
        sum (1 - c) (influence)^2; nats per draw.
        """
        here, there = (self.density(mixture).astype(np.float64) for mixture in (a, b))
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.where(self.share > 0, np.log(here) - np.log(there), 0.0)
        influence = self.share * (gain - self.share @ gain) - self.base * (here - there)
        return float(np.sqrt(np.sum((1 - self.chance) * influence**2)))

    def component(self, atom: Array) -> Array:
        """Density of one softmax relative to the base measure, (m,)."""
        logits = self.z[:, 1:] @ atom.astype(np.float32)
        values = np.exp(logits - logits.max())
        return np.asarray(values / max(float(values @ self.base), float(_THINNEST)))

    def _parts(self, stride: int = 1) -> Iterator[slice]:
        step = stride * _TILT_ROWS
        for start in range(0, len(self.z), step):
            yield slice(start, start + step, stride)
