"""Predicted shares of candidates or groups, and what a change does to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from softmix_dist.blocks import Array
from softmix_dist.errors import InputError
from softmix_dist.scenario import Rows, Scenario, chosen, standard_errors
from softmix_dist.tables import html_table, text_table

# Rows that a table shows.
_MOST_ROWS = 20


class _Table:
    """Columns of equal length that print as a table."""

    def __str__(self) -> str:
        head, columns = list(vars(self)), list(vars(self).values())
        left = len(columns[0]) - _MOST_ROWS
        more = f"\n... {left:,} more" if left > 0 else ""
        return text_table([name.replace("_", " ") for name in head], _cells(columns)) + more

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = [name.replace("_", " ") for name in vars(self)]
        return html_table(head, _cells(list(vars(self).values())))


def _cells(columns: list[Array]) -> Iterator[list[str]]:
    for name, *numbers in zip(*(column[:_MOST_ROWS] for column in columns), strict=True):
        yield [str(name), *(f"{number:.6g}" for number in numbers)]


@dataclass(frozen=True, eq=False, repr=False)
class Shares(_Table):
    """Predicted shares; prints as a table.

    Attributes
    ----------
    name : (n,) array
        Row numbers of candidates, or the labels that they were asked for by; or labels of groups.
    share : (n,) array
        Probability of being chosen.
    standard_error : (n,) array
        By the delta method; NaN without a covariance.
    """

    name: Array
    share: Array
    standard_error: Array


@dataclass(frozen=True, eq=False, repr=False)
class ShareChanges(_Table):
    """Predicted shares before and after a change; prints as a table.

    Attributes
    ----------
    name : (n,) array
        Row numbers of candidates, or the labels that they were asked for by; or labels of groups.
    before, after : (n,) arrays
        Shares.
    change : (n,) array
        ``after - before``.
    standard_error : (n,) array
        Of the change, by the delta method: both shares move with the same parameters.
    """

    name: Array
    before: Array
    after: Array
    change: Array
    standard_error: Array


@dataclass(frozen=True)
class Units:
    """Whose shares: each candidate's own, or groups of candidates.

    Attributes
    ----------
    names : (n,) array
    codes : (p,) array of int or None
        The number of each candidate's unit, -1 for none; None: each is its own.
    """

    names: Array
    codes: Array | None

    @classmethod
    def of(cls, n_candidates: int, candidates: Sequence[int] | Array | None, groups: Any) -> Units:
        """Units as a user names them.

        Raises
        ------
        InputError
            If candidates are not row numbers, groups not one label a candidate, or both given.
        """
        if candidates is not None and groups is not None:
            raise InputError("give candidates or groups, not both")
        if candidates is not None:
            rows = chosen(candidates, n_candidates)
            codes = np.full(n_candidates, -1)
            codes[rows] = np.arange(len(rows))
            return cls(rows, codes)
        if groups is None:
            return cls(np.arange(n_candidates), None)
        labels = np.asarray(groups)
        if labels.shape != (n_candidates,):
            raise InputError(
                f"groups: expected a label for each candidate, shape ({n_candidates},), "
                f"found {labels.shape}"
            )
        try:
            names, codes = np.unique(labels, return_inverse=True)
        except TypeError as error:
            raise InputError(f"groups: labels of one kind are needed: {error}") from error
        return cls(names, codes)


def shares(
    scenarios: Sequence[Scenario], units: Units, covariance: Array | None
) -> tuple[list[Array], Array]:
    """Shares under one scenario, or under two with their difference.

    Parameters
    ----------
    scenarios : sequence of one or two Scenario
        Over the same number of candidates.
    units : Units
    covariance : (K (L + 1), K (L + 1)) array or None
        Of the weights, then the atoms row by row.

    Returns
    -------
    list of (n,) arrays
        The shares under each scenario.
    (n,) array
        Standard error of the last share less the first, of the only one where it is alone.

    Raises
    ------
    InputError
        If the scenarios' blocks do not match, where each candidate is a unit.
    """
    sizes = {scenario.dataset.block_rows for scenario in scenarios}
    if units.codes is None and len(sizes) > 1:
        raise InputError(
            f"the two data sets have blocks of {' and '.join(map(str, sorted(sizes)))} rows; "
            "name candidates or groups"
        )
    parts = [_parts(scenario, units) for scenario in scenarios]
    found, errors = [], []
    for several in zip(*parts, strict=True):
        found.append([share for share, _ in several])
        slopes = several[-1][1] - several[0][1] if len(several) > 1 else several[0][1]
        errors.append(standard_errors(slopes, covariance))
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    return columns, np.concatenate(errors)


def _parts(scenario: Scenario, units: Units) -> Iterator[tuple[Array, Array]]:
    """Yield shares (m,) and their derivatives by the parameters (m, d), unit after unit.

    d pi_j / d alpha_k = A_jk, without the constraint, which the covariance of the weights
    carries; d pi_j / d theta_k = alpha_k A_jk (x_j - m_k).
    """
    if units.codes is None:
        for rows in scenario.slices():
            moments = rows.softmaxes[:, :, None] * rows.x[:, None, :]
            yield _shares_of(scenario, rows.softmaxes, moments)
        return
    n_components, n_features = scenario.predictor.atoms.shape
    sums = np.zeros((len(units.names), n_components))
    moments = np.zeros((len(units.names), n_components, n_features))
    for rows in scenario.slices():
        member = _membership(rows, units)
        sums += member @ rows.softmaxes
        for k in range(n_components):
            moments[:, k] += member @ (rows.softmaxes[:, k, None] * rows.x)
    yield _shares_of(scenario, sums, moments)


def _shares_of(scenario: Scenario, sums: Array, moments: Array) -> tuple[Array, Array]:
    """Shares and derivatives from sums of A_jk, (m, K), and of A_jk x_j, (m, K, L)."""
    weights = scenario.predictor.weights
    by_atoms = weights[:, None] * (moments - sums[:, :, None] * scenario.means)
    return sums @ weights, np.concatenate([sums, by_atoms.reshape(len(sums), -1)], axis=1)


def _membership(rows: Rows, units: Units) -> csr_array:
    assert units.codes is not None
    codes = units.codes[rows.places]
    inside = np.flatnonzero(codes >= 0)
    shape = len(units.names), len(rows.places)
    return csr_array((np.ones(len(inside)), (codes[inside], inside)), shape=shape)
