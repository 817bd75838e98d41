"""What a fitted mixture says of candidates: probabilities, posteriors, scores, samples."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from softmix_dist.blocks import Array, RawBlock, candidate_totals
from softmix_dist.blocks import inspect as inspect_block
from softmix_dist.data.blockwise import Dataset
from softmix_dist.data.dataset import as_dataset
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.data.predict import Predictor, sample_candidates
from softmix_dist.data.predictions import write_predictions
from softmix_dist.engine import engine_for
from softmix_dist.errors import InputError
from softmix_dist.fitted import FittedMixture
from softmix_dist.goodness import GoodnessOfFit, check_worst, goodness_of_fit, summarised
from softmix_dist.profile import Profile, profile

if TYPE_CHECKING:
    from distributed import Client


class ChoiceModel(FittedMixture):
    """A fitted mixture over candidates, those of the fit or others."""

    _dataset: Dataset

    def _predictor(self, features: Array) -> Predictor:
        result = self._result()
        if features.ndim != 2 or features.shape[1] != result.atoms.shape[1] or not len(features):
            raise InputError(
                f"features: expected shape (p, {result.atoms.shape[1]}), found {features.shape}"
            )
        return Predictor.of(result.weights, result.atoms, features)

    def _on(self, features: Any, log_base: Any, counts: Any = None) -> tuple[Predictor, RawBlock]:
        predictor = self._predictor(np.asarray(features))
        dataset = self._candidates(features, log_base, counts, len(features))
        raw = dataset.read_block(0)
        if findings := inspect_block(raw):
            raise InputError(f"these candidates cannot be used:\n{findings}")
        if raw.log_base is not None and not np.isfinite(raw.log_base).any():
            raise InputError("log_base: no candidate is available")
        return predictor.normalised([predictor.log_masses(raw)]), raw

    def _candidates(
        self, features: Any, log_base: Any, counts: Any = None, block_rows: int | None = None
    ) -> ArrayDataset:
        """Return the candidates given, whose features have the names of the fit."""
        framed = hasattr(features, "columns") and not hasattr(features, "compute")
        values = features if framed else np.asarray(features)
        if counts is None:
            counts = np.zeros(len(values), np.uint8)
        dataset = ArrayDataset.of(values, counts, log_base, block_rows=block_rows)
        self._check_features(features, dataset)
        return dataset

    def log_prob(self, features: Any, log_base: Any = None) -> Array:
        """Log-probability of each candidate when the choice is among the rows given.

        Parameters
        ----------
        features : (p, L) array
        log_base : (p,) array, optional

        Returns
        -------
        (p,) array
            log pi_j, nats: the weights are held, each component is normalised over the rows.

        Examples
        --------
        >>> float(np.exp(model.log_prob(features)).sum().round(6))
        1.0
        """
        predictor, raw = self._on(features, log_base)
        return predictor.log_prob(raw)

    def responsibilities(self, features: Any, log_base: Any = None) -> Array:
        """Posterior of the component given a draw of each candidate.

        Parameters
        ----------
        features : (p, L) array
        log_base : (p,) array, optional

        Returns
        -------
        (p, K) array
            Its rows sum to 1.

        Raises
        ------
        InputError
            If the features are not those of the model.

        Examples
        --------
        >>> model.responsibilities(features).shape
        (2000, 1)
        """
        predictor, raw = self._on(features, log_base)
        return predictor.responsibilities(raw)

    def score(self, features: Any, counts: Any, log_base: Any = None) -> float:
        """Mean log-likelihood of draws.

        Parameters
        ----------
        features : (p, L) array
        counts : (p,) or (S, p) array
        log_base : (p,) array, optional

        Returns
        -------
        float
            Nats per draw.

        Raises
        ------
        InputError
            If there are no draws, or the features are not those of the model.

        Examples
        --------
        >>> bool(model.score(features, counts) > -np.log(2000))
        True
        """
        predictor, raw = self._on(features, log_base, counts)
        log_prob, n = predictor.log_prob(raw), candidate_totals(raw.counts)
        seen = n > 0
        if not seen.any():
            raise InputError("counts: no draws, so there is nothing to score")
        return float(n[seen] @ log_prob[seen] / n.sum())

    def sample(
        self,
        n: int,
        features: Any = None,
        log_base: Any = None,
        random_state: int | None = None,
    ) -> Array:
        """Draw from the fitted mixture.

        Parameters
        ----------
        n : int
            Number of draws.
        features : (p, L) array, optional
            Candidates to choose from; default: those of the data set that was fitted.
        log_base : (p,) array, optional
        random_state : int, optional

        Returns
        -------
        (p,) array of int
            How often each candidate was drawn.

        Examples
        --------
        >>> int(model.sample(500, random_state=0).sum())
        500
        """
        self._result()
        if not isinstance(n, int | np.integer) or n < 0:
            raise InputError(f"n: expected a number of draws, at least 0, found {n!r}")
        dataset: Dataset
        if features is not None:
            self._predictor(np.asarray(features))
            dataset = self._candidates(features, log_base)
        elif hasattr(self, "_dataset"):
            dataset = self._dataset
        else:
            raise InputError("a loaded model holds no candidates; pass features")
        predictor = self._predictor(dataset.read_block(0).features)
        return sample_candidates(dataset, predictor, n, np.random.default_rng(random_state))

    def predict(
        self,
        data: Any,
        path: str | os.PathLike[str],
        *,
        client: Client | None = None,
        n_threads: int | None = None,
        overwrite: bool = False,
        n_worst: int = 10,
        by: str = "deviance",
    ) -> GoodnessOfFit | None:
        """Write what the mixture says of all candidates of a data set.

        Two passes over the data, in parallel, block by block.

        Parameters
        ----------
        data : path or Dataset
        path : path
            Of the Zarr group to write: ``log_prob`` (candidate) and ``responsibilities``
            (candidate, component); where the data set has draws, ``pearson_residuals`` and
            ``deviance_residuals`` (candidate). All float64.
        client : distributed.Client, optional
        n_threads : int, optional
            As for `fit`.
        overwrite : bool
        n_worst, by
            As for `goodness_of_fit`.

        Returns
        -------
        GoodnessOfFit or None
            None where the data set has no draws.

        Raises
        ------
        InputError, StoreError
            If the data cannot be read or the path written.
        """
        check_worst(n_worst, by)
        dataset = as_dataset(data)
        self._check_features(data, dataset)
        with closing(engine_for(client, n_threads)) as engine:
            predictor = self._predictor(dataset.read_block(0).features)
            found, sums = write_predictions(
                dataset, predictor, engine.visit, path, overwrite, n_worst, by
            )
        return None if sums is None else summarised(dataset, found, sums, by)

    def goodness_of_fit(
        self,
        data: Any = None,
        counts: Any = None,
        *,
        log_base: Any = None,
        n_worst: int = 10,
        by: str = "deviance",
        client: Client | None = None,
        n_threads: int | None = None,
    ) -> GoodnessOfFit:
        """Measure how well the mixture fits: perplexity, deviance, worst-fitting candidates.

        Two passes over the data, in parallel; the same bits on threads and on a cluster.

        Parameters
        ----------
        data : path, Dataset, or (p, L) array of features, optional
            Default: the data set that was fitted.
        counts : (p,) or (S, p) array, optional
        log_base : (p,) array, optional
            With an array of features, as for `fit`.
        n_worst : int
            Candidates to name, those with the largest residuals.
        by : {"deviance", "pearson"}
            The residual that decides. Pearson's, (n - mu) / sqrt(mu), prefers candidates that
            were drawn where hardly any draw was expected.
        client : distributed.Client, optional
        n_threads : int, optional
            As for `fit`.

        Returns
        -------
        GoodnessOfFit
            Prints as a table.

        Raises
        ------
        InputError, StoreError
            If the data cannot be used, or hold no draws.

        Examples
        --------
        >>> fit = model.goodness_of_fit(features, counts)
        >>> bool(fit.perplexity < 2000)
        True
        """
        check_worst(n_worst, by)
        dataset = self._data(data, counts, log_base)
        with closing(engine_for(client, n_threads)) as engine:
            predictor = self._predictor(dataset.read_block(0).features)
            return goodness_of_fit(dataset, predictor, engine.visit, n_worst, by)

    def profile(
        self,
        data: Any = None,
        counts: Any = None,
        *,
        log_base: Any = None,
        n_typical: int = 10,
        client: Client | None = None,
        n_threads: int | None = None,
    ) -> Profile:
        """Look at all candidates: the typical ones of each component, and how draws fit.

        Two passes over the data, in parallel.

        Parameters
        ----------
        data, counts, log_base
            As for `goodness_of_fit`.
        n_typical : int
            Candidates of each component.
        client : distributed.Client, optional
        n_threads : int, optional
            As for `fit`.

        Returns
        -------
        Profile

        Raises
        ------
        InputError, StoreError
            If the data cannot be used.

        Examples
        --------
        >>> len(model.profile(features, counts, n_typical=3).typical[0])
        3
        """
        dataset = self._data(data, counts, log_base)
        with closing(engine_for(client, n_threads)) as engine:
            predictor = self._predictor(dataset.read_block(0).features)
            return profile(dataset, predictor, engine.visit, n_typical)

    def _data(self, data: Any, counts: Any, log_base: Any) -> Dataset:
        """Return the data set that was given, or the one that was fitted."""
        self._result()
        if data is not None:
            dataset = as_dataset(data, counts, log_base)
            self._check_features(data, dataset)
            return dataset
        if hasattr(self, "_dataset"):
            return self._dataset
        raise InputError("a loaded model holds no draws; pass data")
