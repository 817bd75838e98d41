"""An evaluated point: what one pass tells about one mixture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softmix_dist.model import Array, Coordinates, Mixture
from softmix_dist.sums import ScoreSums


@dataclass(frozen=True)
class Point:
    """A mixture in standard coordinates with its likelihood and the sums that solvers use.

    Attributes
    ----------
    mixture : Mixture
    weights : (K,) array
        alpha, as realised: Z~_k / sum of Z~.
    log_normalisers : (K,) array
        log Z_k of the standardised atoms.
    log_likelihood : float
        Nats per draw; -inf where the pass overflowed.
    objective : float
        The log-likelihood less the penalty (l2 / 2) sum_k |eta_k|^2.
    resp : (K,) array
        R_k, mean responsibility over draws.
    resp_sums : (K, L) array
        S_k, mean over draws of r_jk z_j.
    means : (K, L) array
        m_k, mean of z under the k-th softmax.
    entropies : (K,) array
        Entropy of each softmax over candidates, nats.
    l2 : float
    """

    mixture: Mixture
    weights: Array
    log_normalisers: Array
    log_likelihood: float
    objective: float
    resp: Array
    resp_sums: Array
    means: Array
    entropies: Array
    l2: float

    @property
    def gradient(self) -> tuple[Array, Array]:
        """Derivatives of the objective by b, (K,), and by the atoms, (K, L)."""
        atoms = self.resp_sums - self.weights[:, None] * self.means - self.l2 * self.mixture.atoms
        return self.resp - self.weights, atoms


def evaluate(
    mixture: Mixture, sums: ScoreSums, coordinates: Coordinates, n_draws: int, l2: float
) -> Point:
    """Turn the sums of one pass into a point.

    Parameters
    ----------
    mixture : Mixture
        In standard coordinates; the pass was made with ``coordinates.to_frame(mixture)``.
    sums : ScoreSums
    coordinates : Coordinates
    n_draws : int
    l2 : float

    Returns
    -------
    Point
    """
    mass = sums.candidates[:, 0]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_mass = np.log(mass)
        means = coordinates.standardise(sums.candidates) / mass[:, None]
        log_normalisers = log_mass - mixture.offsets
        entropies = log_normalisers - np.sum(mixture.atoms * means, axis=1) - sums.log_base / mass
        log_likelihood = sums.log_density / n_draws - float(np.log(mass.sum()))
    finite = all(np.isfinite(values).all() for values in (log_likelihood, mass, means))
    if not (finite and mass.all()):
        log_likelihood = -np.inf
    return Point(
        mixture=mixture,
        weights=mass / mass.sum() if np.isfinite(log_likelihood) else np.full_like(mass, np.nan),
        log_normalisers=log_normalisers,
        log_likelihood=log_likelihood,
        objective=log_likelihood - l2 / 2 * float(np.sum(mixture.atoms**2)),
        resp=sums.draws[:, 0] / n_draws,
        resp_sums=coordinates.standardise(sums.draws) / n_draws,
        means=means,
        entropies=entropies,
        l2=l2,
    )
