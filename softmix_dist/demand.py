"""How choices respond: elasticities, predicted shares, and what a change does to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from softmix_dist.blocks import Array
from softmix_dist.data.dataset import Dataset
from softmix_dist.data.memory import differing
from softmix_dist.elasticities import elasticities
from softmix_dist.errors import InputError
from softmix_dist.fitted import FittedMixture
from softmix_dist.scenario import Scenario, chosen, rows_of
from softmix_dist.shares import ShareChanges, Shares, Units, shares


class DemandModel(FittedMixture):
    """Functions of the parameters that users of choice models ask for.

    The class weights are held, and each component is normalised over the candidates given, as
    by `log_prob`.
    """

    def elasticities(
        self,
        feature: str | int,
        features: Any,
        log_base: Any = None,
        *,
        candidates: Sequence[int] | Sequence[str] | Array,
        semi: bool = False,
    ) -> tuple[Array, Array]:
        """Own- and cross-elasticities of choice probabilities with respect to a feature.

        Parameters
        ----------
        feature : str or int
            Name or number of the feature that changes.
        features : (p, L) array, path or Dataset
            All candidates of the choice.
        log_base : (p,) array, optional
            -inf for candidates that are not available.
        candidates : sequence of c int or str
            Rows, or labels, of the candidates whose elasticities are asked for. A frame's index
            and a data set hold labels; whole numbers are rows, whatever the index.
        semi : bool
            Semi-elasticities, d log pi_j / d x_il, for a change by one unit; else times x_il,
            in per cent for a change of the feature by one per cent. Of a feature that is
            itself a logarithm the semi-elasticity is the elasticity.

        Returns
        -------
        elasticity : (c, c) array
            Of the probability of candidate j (row) with respect to the feature of candidate i
            (column): sum_k r_jk theta_kl x_il (1[i = j] - A_i(theta_k)). Own-elasticities are
            the diagonal.
        standard_error : (c, c) array
            By the delta method; NaN without a covariance.

        Raises
        ------
        InputError, StoreError
            If there is no such feature or candidate, one of them is not available, or the
            candidates cannot be used.

        Examples
        --------
        >>> own_and_cross, errors = model.elasticities("x0", features, candidates=[0, 1])
        >>> own_and_cross.shape
        (2, 2)
        """
        number = self._feature(feature)
        scenario = self._scenario(features, log_base)
        dataset = scenario.dataset
        rows = chosen(rows_of(candidates, dataset), dataset.n_candidates)
        return elasticities(scenario, number, rows, self._result().covariance, semi)

    def predicted_shares(
        self,
        features: Any,
        log_base: Any = None,
        *,
        candidates: Sequence[int] | Sequence[str] | Array | None = None,
        groups: Any = None,
    ) -> Shares:
        """Predicted shares of candidates or groups, with standard errors.

        Parameters
        ----------
        features : (p, L) array, path or Dataset
            All candidates of the choice.
        log_base : (p,) array, optional
            -inf for candidates that are not available.
        candidates : sequence of int or str, optional
            Rows, or labels, of the candidates whose shares are asked for; default: all. A frame's
            index and a data set hold labels; whole numbers are rows, whatever the index.
        groups : (p,) array, optional
            The group of each candidate, such as its brand, for the shares of groups.

        Returns
        -------
        Shares
            Prints as a table.

        Raises
        ------
        InputError, StoreError
            If the candidates cannot be used, or there are none of those rows.

        Examples
        --------
        >>> import numpy as np
        >>> from softmix_dist import SoftmaxMixture
        >>> model = SoftmaxMixture(1).fit([[0.0], [1.0], [2.0]], [500, 300, 200])
        >>> print(model.predicted_shares([[0.0], [1.0]]))
        name     share  standard error
        0     0.614465      0.00967486
        1     0.385535      0.00967486
        """
        scenario = self._scenario(features, log_base)
        units = _units(scenario.dataset, candidates, groups)
        (found,), errors = shares([scenario], units, self._result().covariance)
        return Shares(units.names, found, errors)

    def share_changes(
        self,
        before: Any,
        after: Any,
        *,
        candidates: Sequence[int] | Sequence[str] | Array | None = None,
        groups: Any = None,
    ) -> ShareChanges:
        """Compare shares before and after a change of features or availability.

        Parameters
        ----------
        before, after : (p, L) array, pair (array, log_base), path or Dataset
            The same p candidates in the base scenario and in the changed one. What is taken
            away has a log_base of -inf after, what is new has it before; a data set on disk
            goes with no other log_base than its own, its features as an array do.
        candidates, groups
            As for `predicted_shares`.

        Returns
        -------
        ShareChanges
            Prints as a table.

        Raises
        ------
        InputError, StoreError
            If the candidates cannot be used, are not as many in both, or there are none of
            those rows.

        Examples
        --------
        >>> dearer = features.copy()
        >>> dearer[0, 1] += 1
        >>> changes = model.share_changes(features, dearer, candidates=[0])
        >>> bool(changes.change[0] < 0)
        True
        """
        scenarios = [self._given(before, "before"), self._given(after, "after")]
        first, second = (scenario.dataset.n_candidates for scenario in scenarios)
        if first != second:
            raise InputError(
                f"after: expected {first} candidates as before, found {second}; give what is not "
                "there a log_base of -inf"
            )
        if _differ(scenarios[0].dataset, scenarios[1].dataset):
            raise InputError("after: its labels are not those of before in their order; reindex it")
        units = _units(scenarios[0].dataset, candidates, groups)
        (old, new), errors = shares(scenarios, units, self._result().covariance)
        return ShareChanges(units.names, old, new, new - old, errors)

    def _given(self, given: Any, name: str) -> Scenario:
        if not isinstance(given, tuple):
            return self._scenario(given)
        if len(given) != 2:
            raise InputError(f"{name}: expected features or a pair (features, log_base)")
        return self._scenario(*given)

    def _scenario(self, features: Any, log_base: Any = None) -> Scenario:
        result = self._result()
        scenario = Scenario.of(result.weights, result.atoms, features, log_base)
        self._check_features(features, scenario.dataset)
        return scenario


def _units(dataset: Dataset, candidates: Any, groups: Any) -> Units:
    """Whose shares, named as the user named them."""
    rows = rows_of(candidates, dataset)
    units = Units.of(dataset.n_candidates, rows, groups)
    return units if rows is candidates else replace(units, names=np.asarray(candidates))


def _differ(before: Dataset, after: Dataset) -> bool:
    """Whether two frames hold other candidates, or in another order, by their index."""
    first, second = (getattr(data, "candidate_labels", None) for data in (before, after))
    return first is not None and second is not None and bool(differing(first, second).size)
