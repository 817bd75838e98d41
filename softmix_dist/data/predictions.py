"""Predictions for all candidates of a data set, written in parallel, and how well they fit."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import zarr
from scipy.special import logsumexp

from softmix_dist.blocks import Array, RawBlock, candidate_totals, whole_total
from softmix_dist.data.blockwise import Dataset
from softmix_dist.data.predict import Predictor
from softmix_dist.data.store import (
    arrays_at,
    check_target,
    member,
    new_array,
    new_group,
    open_group,
    place_of,
    read,
)
from softmix_dist.errors import InputError, StoreError
from softmix_dist.residuals import FitSums, deviance_residuals, fit_sums, pearson_residuals
from softmix_dist.sums import Node, merge, total

Visit = Callable[[Dataset, Callable[[RawBlock], Any]], list[Any]]

MARK = "softmix_predictions"
RESIDUALS = ("pearson_residuals", "deviance_residuals")


@dataclass(frozen=True)
class Totals:
    """What a first pass over a data set tells of a mixture there.

    Attributes
    ----------
    predictor : Predictor
        With its normalisers.
    n_draws : int
    log_base : float
        log sum_j u_j.
    """

    predictor: Predictor
    n_draws: int
    log_base: float


def totals(dataset: Dataset, predictor: Predictor, visit: Visit) -> Totals:
    """Normalise a predictor over all candidates, and count the draws, in one pass.

    Parameters
    ----------
    dataset : Dataset
    predictor : Predictor
    visit : callable
        Calls a task with every stored block of a data set, as engines do.

    Raises
    ------
    InputError, StoreError
        If blocks cannot be read, or hold other draws than the data set says.
    """
    answers = visit(dataset, _Masses(predictor))
    masses, log_bases, draws = zip(*answers, strict=True)
    n_draws = sum(draws)
    if dataset.n_draws is not None and n_draws != dataset.n_draws:
        raise InputError(
            f"{dataset.name!r}: the total of counts is {n_draws}, but attribute n_draws says "
            f"{dataset.n_draws}; a lost chunk of counts reads as zeros: write the counts again"
        )
    log_base = float(logsumexp(log_bases))
    if log_base == -np.inf:
        raise InputError(f"{dataset.name!r}: log_base: no candidate is available")
    return Totals(predictor.normalised(masses), n_draws, log_base)


@dataclass(frozen=True)
class _Masses:
    """Task: log masses of the components, log mass of the base measure, draws of a block."""

    predictor: Predictor

    def __call__(self, raw: RawBlock) -> tuple[Array, float, int]:
        masses = self.predictor.log_masses(raw)
        base = np.zeros(len(raw.features)) if raw.log_base is None else raw.log_base
        return masses, float(logsumexp(base)), whole_total(candidate_totals(raw.counts))


@dataclass(frozen=True)
class Output:
    """Arrays to write to, by the place of their group.

    Each process opens them itself: open ones would carry credentials.

    Attributes
    ----------
    place : str
    token : str
        Tells them from what was written to the same place before.
    """

    place: str
    token: str

    @property
    def arrays(self) -> dict[str, Any]:
        """Open arrays by name; chunks are the data set's blocks: tasks do not share one."""
        return _arrays(self.place, self.token)


@lru_cache(maxsize=16)
def _arrays(place: str, token: str) -> dict[str, Any]:
    return arrays_at(place)


@dataclass(frozen=True)
class Predict:
    """Task: what the mixture says of one block, and how well it fits there.

    Attributes
    ----------
    totals : Totals
    n_worst : int
    by : {"deviance", "pearson"}
        The worst-fitting candidates to keep, and what decides.
    output : Output or None
    """

    totals: Totals
    n_worst: int
    by: str
    output: Output | None = None

    def __call__(self, raw: RawBlock) -> FitSums | None:
        """Write the rows of one block; return its sums, or None without draws."""
        predictor, n_draws = self.totals.predictor, self.totals.n_draws
        log_prob = predictor.log_prob(raw)
        values = {"log_prob": log_prob}
        arrays = self.output.arrays if self.output else {}
        if "responsibilities" in arrays:
            values["responsibilities"] = predictor.responsibilities(raw)
        sums = None
        if n_draws:
            draws, log_expected = candidate_totals(raw.counts), log_prob + np.log(float(n_draws))
            residuals = (
                pearson_residuals(draws, log_expected),
                deviance_residuals(draws, log_expected),
            )
            values |= dict(zip(RESIDUALS, residuals, strict=True))
            sums = fit_sums(
                draws, log_prob, raw.log_base, residuals, n_draws, raw.start, self.n_worst, self.by
            )
        rows = slice(raw.start, raw.start + len(raw.features))
        for name, array in arrays.items():
            array[rows] = values[name]
        return sums


def measure_fit(
    dataset: Dataset,
    found: Totals,
    visit: Visit,
    n_worst: int,
    by: str,
    output: Output | None = None,
) -> FitSums | None:
    """Predict every block in one pass; return the sums of all, or None without draws."""
    blocks = visit(dataset, Predict(found, n_worst, by, output))
    if not found.n_draws:
        return None
    # The canonical order of addition: the same bits on every engine.
    sums: FitSums = total(merge(Node(0, i, block) for i, block in enumerate(blocks)))
    return sums


def write_predictions(
    dataset: Dataset,
    predictor: Predictor,
    visit: Visit,
    path: str | os.PathLike[str],
    overwrite: bool = False,
    n_worst: int = 10,
    by: str = "deviance",
) -> tuple[Totals, FitSums | None]:
    """Write what the mixture says of all candidates, in two passes.

    Log-probabilities and responsibilities; where there are draws, Pearson and deviance
    residuals as well.

    Parameters
    ----------
    dataset : Dataset
    predictor : Predictor
    visit : callable
        Calls a task with every stored block of a data set, as engines do.
    path : path
    overwrite : bool
    n_worst : int
    by : {"deviance", "pearson"}
        The worst-fitting candidates to keep, and the residual that decides.

    Returns
    -------
    Totals
    FitSums or None
        None without draws.

    Raises
    ------
    InputError, StoreError
        If blocks cannot be read or the path written.
    """
    check_target(path, MARK, overwrite)
    n_components = len(predictor.weights)
    p, rows = dataset.n_candidates, min(dataset.block_rows, dataset.n_candidates)
    found = totals(dataset, predictor, visit)
    names = ("log_prob", *(RESIDUALS if found.n_draws else ()))
    with new_group(path, MARK, overwrite) as group:
        for name in names:
            new_array(group, name, (p,), ("candidate",), float, (rows,), np.nan)
        new_array(
            group,
            "responsibilities",
            (p, n_components),
            ("candidate", "component"),
            float,
            (rows, n_components),
            np.nan,
        )
        output = Output(place_of(group), uuid.uuid4().hex)
        sums = measure_fit(dataset, found, visit, n_worst, by, output)
        group.attrs[MARK] = 1
    return found, sums


def read_responsibilities(path: str | os.PathLike[str]) -> Array:
    """Read all responsibilities that were predicted, (p, K).

    Raises
    ------
    StoreError
        If there are none at ``path``, or they cannot be read.
    """
    group = open_group(path, "folder of predictions")
    array = member(group, "responsibilities")
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{str(path)!r} holds no responsibilities; write them by softmix predict")
    return np.asarray(read(array, slice(None), "all candidates"))
