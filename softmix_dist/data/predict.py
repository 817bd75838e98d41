"""What a fitted mixture says of candidates, block by block."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logsumexp

from softmix_dist.blocks import Array, RawBlock, inspect
from softmix_dist.data.blockwise import Dataset
from softmix_dist.errors import InputError, StoreError


@dataclass(frozen=True)
class Predictor:
    """A mixture in the features' own coordinates, applied to blocks as they are stored.

    Attributes
    ----------
    weights : (K,) array
    atoms : (K, L) array
    centre : (L,) array
        Subtracted from the features: without effect on the probabilities, but a large
        offset (a year) then costs no digits.
    log_normalisers : (K,) array or None
        log Z_k over all candidates, once they are known.
    """

    weights: Array
    atoms: Array
    centre: Array
    log_normalisers: Array | None = None

    @classmethod
    def of(cls, weights: Array, atoms: Array, features: Array) -> Predictor:
        """Take the centre from the first features: the median, which no outlier moves."""
        return cls(weights, atoms, np.nan_to_num(np.median(features.astype(np.float64), axis=0)))

    def logits(self, raw: RawBlock) -> Array:
        """Return log u_j + x_j.theta_k, (rows, K).

        Raises
        ------
        InputError, StoreError
            If the block cannot be read or its values are not those of a data set.
        """
        if findings := inspect(raw):
            kind = StoreError if findings.lost else InputError
            raise kind(f"these candidates cannot be predicted:\n{findings}")
        x = raw.features.astype(np.float64) - self.centre
        if raw.log_base is not None:
            # What is not available must not overflow, however far off it is.
            x[raw.log_base == -np.inf] = 0
        logits = x @ self.atoms.T
        if raw.log_base is not None:
            logits += raw.log_base[:, None]
        return np.asarray(logits)

    def log_masses(self, raw: RawBlock) -> Array:
        """Log of each component's unnormalised mass in the block, (K,)."""
        return np.asarray(logsumexp(self.logits(raw), axis=0))

    def normalised(self, log_masses: Iterable[Array]) -> Predictor:
        """Return the predictor with normalisers from the masses of all blocks, in order."""
        return replace(self, log_normalisers=logsumexp(np.stack(list(log_masses)), axis=0))

    def log_joint(self, raw: RawBlock) -> Array:
        """log(alpha_k A_j(theta_k)), (rows, K)."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.weights) + self.logits(raw) - self.log_normalisers)

    def log_prob(self, raw: RawBlock) -> Array:
        """Log pi_j, (rows,)."""
        return np.asarray(logsumexp(self.log_joint(raw), axis=1))

    def responsibilities(self, raw: RawBlock) -> Array:
        """Posterior of the component given the candidate, (rows, K).

        A candidate that is not available, or has no mass, has the weights as posterior.
        """
        joint = self.log_joint(raw)
        top = joint.max(axis=1, keepdims=True)
        joint = np.where(np.isfinite(top), joint - np.where(np.isfinite(top), top, 0.0), 0.0)
        resp = np.where(np.isfinite(top), np.exp(joint), self.weights)
        return np.asarray(resp / resp.sum(axis=1, keepdims=True))


def draw_blocks(rates: Iterable[Array], n_draws: Array, rng: np.random.Generator) -> Array:
    """Split draws over blocks by their total rates.

    Parameters
    ----------
    rates : iterable of (S,) arrays
        Total rate of each block in each sample.
    n_draws : (S,) array of int
    rng : Generator

    Returns
    -------
    (S, n_blocks) array of int
    """
    table = np.stack(list(rates), axis=1)
    shares = table / table.sum(axis=1, keepdims=True)
    return np.stack([rng.multinomial(n, row) for n, row in zip(n_draws, shares, strict=True)])


def sample_candidates(
    dataset: Dataset, predictor: Predictor, n: int, rng: np.random.Generator
) -> Array:
    """Draw ``n`` times among all candidates of a data set, (p,) array of int.

    Raises
    ------
    InputError
        If no candidate is available.
    """
    indices = range(dataset.n_blocks)
    predictor = predictor.normalised(predictor.log_masses(dataset.read_block(i)) for i in indices)

    def rates(i: int) -> Array:
        return np.exp(predictor.log_prob(dataset.read_block(i)))

    if not np.isfinite(predictor.log_normalisers).all():  # type: ignore[arg-type]
        raise InputError("log_base: no candidate is available, so there is nothing to draw from")
    split = draw_blocks((np.atleast_1d(rates(i).sum()) for i in indices), np.array([n]), rng)
    parts = []
    for i in indices:
        rate = rates(i)
        total = rate.sum()
        shares = rate / total if total > 0 else np.full(len(rate), 1 / len(rate))
        parts.append(rng.multinomial(split[0, i], shares))
    return np.concatenate(parts)
