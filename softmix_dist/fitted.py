"""What a fitted mixture holds: estimates, standard errors, intervals, ratios, tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from softmix_dist import summary
from softmix_dist.blocks import Array
from softmix_dist.data.blockwise import Dataset, default_names
from softmix_dist.data.memory import ArrayDataset
from softmix_dist.errors import InputError, NotFittedError
from softmix_dist.results import FitResult

if TYPE_CHECKING:
    import pandas
    import xarray


class FittedMixture:
    """Views on the result of a fit; see `SoftmaxMixture` for the attributes."""

    result_: FitResult
    l2: float

    def _result(self) -> FitResult:
        if not hasattr(self, "result_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted; call fit first")
        return self.result_

    @property
    def weights_(self) -> Array:
        """Mixing weights, (K,), decreasing."""
        return self._result().weights

    @property
    def atoms_(self) -> Array:
        """Atoms in the features' own coordinates, (K, L)."""
        return self._result().atoms

    @property
    def log_likelihood_(self) -> float:
        """Log-likelihood, nats per draw."""
        return self._result().log_likelihood

    @property
    def converged_(self) -> bool:
        """Whether the distance to the maximum is below ``tol`` standard errors."""
        return self._result().converged

    @property
    def distance_(self) -> float:
        """Estimated distance to the maximum, in standard errors."""
        return self._result().distance

    @property
    def standard_errors_(self) -> dict[str, Array] | None:
        """Standard errors of the ``weights``, (K,), and ``atoms``, (K, L)."""
        return self._result().standard_errors

    @property
    def covariance_(self) -> Array | None:
        """Covariance of the weights, then the atoms row by row, (K (L + 1), K (L + 1))."""
        return self._result().covariance

    @property
    def n_passes_(self) -> int:
        """Passes over the data, the survey included."""
        return self._result().n_passes

    @property
    def effective_candidates_(self) -> Array:
        """Effective number of candidates of each component, exp(entropy), (K,)."""
        return self._result().effective_candidates

    @property
    def history_(self) -> list[dict[str, Any]]:
        """One row for each pass of the best start."""
        return self._result().history

    @property
    def starts_(self) -> list[dict[str, Any]]:
        """One row for each start."""
        return self._result().starts

    def confidence_intervals(self, level: float = summary.LEVEL) -> dict[str, Array]:
        """Wald intervals.

        Parameters
        ----------
        level : float
            Between 0 and 1.

        Returns
        -------
        dict
            ``weights``, (K, 2), taken on the logit scale; ``atoms``, (K, L, 2), in the
            features' own coordinates.

        Raises
        ------
        InputError
            If the level is not between 0 and 1.

        Examples
        --------
        >>> low, high = model.confidence_intervals(0.99)["atoms"][0, 0]
        >>> bool(low < 1.0 < high)
        True
        """
        if not isinstance(level, float) or not 0 < level < 1:
            raise InputError(f"level: expected a number between 0 and 1, found {level!r}")
        return summary.intervals(self._result(), level)

    def to_dataframe(self) -> pandas.DataFrame:
        """Every parameter with its standard error, z-value and interval, one row each.

        The mixing weights are "weight", or "weight of the component" where a feature has that
        name.

        Raises
        ------
        ImportError
            If pandas is not installed.

        Examples
        --------
        >>> model.to_dataframe().index.tolist()
        [(0, 'weight'), (0, 'x0'), (0, 'x1')]
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_dataframe needs pandas: pip install pandas") from error

        found = summary.rows(self._result())
        return pandas.DataFrame(found).set_index(["component", "parameter"])

    def to_xarray(self) -> xarray.Dataset:
        """Estimates, standard errors and covariance with named dimensions.

        Returns
        -------
        xarray.Dataset
            ``weights`` (component), ``atoms`` (component, feature), ``effective_candidates``, and
            where there are standard errors ``standard_errors_weights``,
            ``standard_errors_atoms`` and ``covariance``; what else was found as attributes.

        Raises
        ------
        ImportError
            If xarray is not installed.

        Examples
        --------
        >>> dict(model.to_xarray().sizes)
        {'component': 1, 'feature': 2, 'parameter': 3, 'parameter_again': 3}
        """
        try:
            import xarray
        except ImportError as error:
            raise ImportError("to_xarray needs xarray: pip install xarray") from error

        result = self._result()
        found: dict[str, Any] = {
            "weights": ("component", result.weights),
            "atoms": (("component", "feature"), result.atoms),
            "effective_candidates": ("component", result.effective_candidates),
        }
        errors = result.standard_errors
        if errors is not None:
            found["standard_errors_weights"] = ("component", errors["weights"])
            found["standard_errors_atoms"] = (("component", "feature"), errors["atoms"])
            found["covariance"] = (("parameter", "parameter_again"), result.covariance)
        names = ("log_likelihood", "converged", "distance", "n_passes", "n_draws", "n_candidates")
        attributes = {name: getattr(result, name) for name in names}
        coordinates = {"feature": list(result.feature_names)}
        return xarray.Dataset(found, coordinates, attributes)

    def ratios(self, numerator: str | int, denominator: str | int) -> tuple[Array, Array]:
        """Ratio of two coefficients in each component, as a willingness to pay.

        What is paid for one more unit of a wanted attribute is minus its ratio to the price; a
        ratio of two costs, such as time to price, has its sign as it stands.

        Parameters
        ----------
        numerator, denominator : str or int
            Name or number of a feature.

        Returns
        -------
        ratio : (K,) array
            theta_k,numerator / theta_k,denominator.
        standard_error : (K,) array
            By the delta method; NaN without a covariance. Of little meaning where the
            denominator is within two standard errors of 0.

        Raises
        ------
        InputError
            If there is no such feature.

        Examples
        --------
        >>> ratio, error = model.ratios("x0", "x1")
        >>> ratio.round(1).tolist()
        [-1.0]
        """
        result = self._result()
        top, below = (self._feature(name) for name in (numerator, denominator))
        n_components, n_features = result.atoms.shape
        ratio = result.atoms[:, top] / result.atoms[:, below]
        errors = np.full(n_components, np.nan)
        if result.covariance is not None:
            for k in range(n_components):
                first = n_components + k * n_features
                places = [first + top, first + below]
                slope = np.array([1.0, -ratio[k]]) / result.atoms[k, below]
                variance = slope @ result.covariance[np.ix_(places, places)] @ slope
                errors[k] = np.sqrt(np.maximum(variance, 0.0))
        return ratio, errors

    def _feature(self, feature: str | int) -> int:
        names = self._result().feature_names
        number = names.index(feature) if feature in names else feature
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if whole and 0 <= int(number) < len(names):
            return int(number)
        raise InputError(f"no feature {feature!r}; there are {_some(names)}")

    def _check_features(self, given: Any, dataset: Dataset) -> None:
        """Refuse features of other names, where both carry names."""
        framed = hasattr(given, "columns")
        if isinstance(dataset, ArrayDataset) and not framed:
            return
        names = [str(name) for name in given.columns] if framed else dataset.feature_names
        fitted = self._result().feature_names
        if names != fitted and fitted != default_names(len(names)):
            raise InputError(
                f"{dataset.name!r} has the features {_some(names)}, but the model was fitted on "
                f"{_some(fitted)}; give them in that order"
            )

    def summary(self) -> str:
        """Table of the fitted components with standard errors, for people."""
        return summary.as_text(self._result(), self.l2)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 5 else shown
