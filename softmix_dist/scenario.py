"""Candidates to choose from under a mixture: what its functions of features are made of.

Class weights are held; each component is normalised over the candidates given. Passes go
block by block, so that a million candidates need no array of candidates x components x features.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from softmix_dist.blocks import Array
from softmix_dist.data.blockwise import Dataset, default_block_rows
from softmix_dist.data.dataset import as_dataset
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.data.predict import Predictor
from softmix_dist.errors import InputError

# Numbers in an array of rows x components x features, at most.
_SLICE = 1 << 18


@dataclass(frozen=True)
class Rows:
    """Some candidates of a scenario.

    Attributes
    ----------
    places : (m,) array of int
        Row numbers.
    x : (m, L) array
        Features less the predictor's centre, which no probability feels.
    softmaxes : (m, K) array
        A_j(theta_k).
    """

    places: Array
    x: Array
    softmaxes: Array


@dataclass(frozen=True)
class Scenario:
    """Candidates with their features and availability, and a mixture over them.

    Attributes
    ----------
    dataset : Dataset
        Its counts are not looked at.
    predictor : Predictor
        Normalised over the candidates.
    means : (K, L) array
        m_k = sum_j A_j(theta_k) x_j, less the predictor's centre.
    """

    dataset: Dataset
    predictor: Predictor
    means: Array

    @classmethod
    def of(cls, weights: Array, atoms: Array, features: Any, log_base: Any = None) -> Scenario:
        """Normalise a mixture over candidates, in one pass.

        Parameters
        ----------
        weights, atoms : (K,) and (K, L) arrays
        features : (p, L) array, or path or Dataset
        log_base : (p,) array, optional
            With an array; -inf for candidates that are not available.

        Raises
        ------
        InputError, StoreError
            If these are no candidates for that mixture, or none is available.
        """
        dataset = _candidates(features, log_base)
        if dataset.n_features != atoms.shape[1]:
            shape = (dataset.n_candidates, dataset.n_features)
            raise InputError(f"features: expected shape (p, {atoms.shape[1]}), found {shape}")
        predictor = Predictor.of(weights, atoms, dataset.read_block(0).features)
        masses, means = [], []
        for index in range(dataset.n_blocks):
            raw = dataset.read_block(index)
            logits = predictor.logits(raw)
            mass = logsumexp(logits, axis=0)
            shares = np.exp(logits - np.where(np.isfinite(mass), mass, 0.0))
            masses.append(mass)
            means.append(shares.T @ (raw.features - predictor.centre))
        predictor = predictor.normalised(masses)
        log_normalisers = predictor.log_normalisers
        assert log_normalisers is not None
        if not np.isfinite(log_normalisers).all():
            raise InputError("log_base: no candidate is available")
        parts = np.exp(np.stack(masses) - log_normalisers)
        return cls(dataset, predictor, np.einsum("bk,bkl->kl", parts, np.stack(means)))

    def slices(self) -> Iterator[Rows]:
        """Yield all candidates, so few at a time that rows x K x L stays small."""
        n_components, n_features = self.predictor.atoms.shape
        step = max(_SLICE // (n_components * n_features), 1)
        for index in range(self.dataset.n_blocks):
            rows = self._rows(index)
            for start in range(0, len(rows.places), step):
                part = slice(start, start + step)
                yield Rows(rows.places[part], rows.x[part], rows.softmaxes[part])

    def at(self, candidates: Array) -> Rows:
        """Return some candidates, in the order given; reads the blocks that hold them."""
        n_components, n_features = self.predictor.atoms.shape
        found = Rows(
            candidates,
            np.empty((len(candidates), n_features)),
            np.empty((len(candidates), n_components)),
        )
        blocks = candidates // self.dataset.block_rows
        for index in np.unique(blocks):
            rows, here = self._rows(int(index)), blocks == index
            places = candidates[here] - rows.places[0]
            found.x[here], found.softmaxes[here] = rows.x[places], rows.softmaxes[places]
        return found

    def _rows(self, index: int) -> Rows:
        raw = self.dataset.read_block(index)
        softmaxes = np.exp(self.predictor.logits(raw) - self.predictor.log_normalisers)
        places = np.arange(raw.start, raw.start + len(raw.features))
        return Rows(places, raw.features - self.predictor.centre, softmaxes)


def rows_of(candidates: Any, dataset: Dataset) -> Any:
    """Row numbers of candidates that are named by their labels; what is no text as it is.

    Reads the labels of all candidates.

    Raises
    ------
    InputError
        If no candidate has that label, or several have.
    """
    if not isinstance(candidates, Sequence | np.ndarray) and not hasattr(candidates, "to_numpy"):
        return candidates
    wanted = list(candidates) if np.ndim(candidates) else []
    if not wanted or not all(isinstance(label, str) for label in wanted):
        return candidates
    rows_with: dict[str, list[int]] = {label: [] for label in wanted}
    for row, label in enumerate(dataset.labels(slice(None))):
        if label in rows_with:
            rows_with[label].append(row)
    problems = [
        f"{label!r} is the label of {len(rows) or 'no'} candidate{'s' if rows else ''}"
        for label, rows in rows_with.items()
        if len(rows) != 1
    ]
    if problems:
        more = f"; {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(f"candidates: {'; '.join(problems[:5])}{more}; or give row numbers")
    return np.array([rows_with[label][0] for label in wanted])


def chosen(candidates: Sequence[int] | Array, n_candidates: int) -> Array:
    """Row numbers of candidates, (m,) array of int.

    Raises
    ------
    InputError
        If they are not distinct row numbers.
    """
    rows = np.asarray(candidates)
    if rows.ndim != 1 or not rows.size or rows.dtype.kind not in "iu":
        raise InputError(f"candidates: expected row numbers, or labels, found {candidates!r}")
    if rows.min() < 0 or rows.max() >= n_candidates or len(np.unique(rows)) < len(rows):
        raise InputError(
            f"candidates: expected distinct rows from 0 to {n_candidates - 1}, "
            f"found {rows.tolist()}"
        )
    return rows.astype(np.int64)


def standard_errors(gradients: Array, covariance: Array | None) -> Array:
    """Delta method: roots of g^T C g, (n,), for gradients (n, d); NaN without a covariance."""
    if covariance is None:
        return np.full(len(gradients), np.nan)
    variances = np.einsum("ij,ij->i", gradients @ covariance, gradients)
    return np.asarray(np.sqrt(np.maximum(variances, 0.0)))


def _candidates(features: Any, log_base: Any) -> Dataset:
    if isinstance(features, str | os.PathLike) or hasattr(features, "read_block"):
        if log_base is not None:
            raise InputError("a data set holds its own log_base; pass it alone")
        return as_dataset(features)
    values = np.asarray(features)
    if values.ndim != 2 or not len(values):
        raise InputError(f"features: expected shape (p, L), found {values.shape}")
    # By width alone, so that scenarios in several precisions have the same blocks.
    block_rows = default_block_rows(8 * values.shape[1])
    if hasattr(features, "columns") and not hasattr(features, "compute"):
        values = features
    return ArrayDataset.of(values, np.zeros(len(values), np.uint8), log_base, block_rows=block_rows)
