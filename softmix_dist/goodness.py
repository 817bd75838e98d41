"""How well a mixture fits: perplexity, deviance, and the candidates that it fits worst."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import numpy as np

from softmix_dist.data.blockwise import Dataset
from softmix_dist.data.predict import Predictor
from softmix_dist.data.predictions import Totals, Visit, measure_fit, totals
from softmix_dist.errors import InputError
from softmix_dist.residuals import FitSums, Worst
from softmix_dist.tables import html_table, text_table

RESIDUALS = ("deviance", "pearson")


@dataclass(frozen=True)
class Misfit:
    """A candidate that the mixture fits badly.

    Attributes
    ----------
    row : int
    label : str
        Its label in the data set, or its row number.
    observed, expected : float
        Draws.
    pearson, deviance : float
        Residuals, roughly in standard errors of the draws.
    """

    row: int
    label: str
    observed: float
    expected: float
    pearson: float
    deviance: float


@dataclass(frozen=True)
class GoodnessOfFit:
    """How well a mixture fits the draws of a data set.

    Attributes
    ----------
    n_candidates, n_available, n_observed, n_draws : int
        Candidates, those that are available, those with draws; draws.
    log_likelihood : float
        l = sum_j q_j log pi_j, nats per draw.
    saturated : float
        sum_j q_j log q_j: the log-likelihood that no model exceeds, minus the entropy of the
        draws.
    null : float
        Log-likelihood of the base measure alone.
    deviance, pearson : float
        Sums of the squared residuals; the deviance is 2 N (saturated - log_likelihood).
    degrees_of_freedom : int
        Available candidates less 1, less the parameters of the mixture, as of a fit to these
        draws.
    dispersion : float
        Pearson's statistic over its degrees of freedom where neighbouring candidates are
        joined until each cell expects five draws, as of scaled standard errors: near 1 where
        the model holds; NaN where no degree of freedom is left.
    by : {"deviance", "pearson"}
        The residual that decides which candidates are worst.
    worst : list of Misfit
        By decreasing size of that residual, ties by row number.
    """

    n_candidates: int
    n_available: int
    n_observed: int
    n_draws: int
    log_likelihood: float
    saturated: float
    null: float
    deviance: float
    pearson: float
    degrees_of_freedom: int
    dispersion: float
    by: str
    worst: list[Misfit]

    @property
    def perplexity(self) -> float:
        """exp(-l): as uncertain as a choice among that many candidates equally likely."""
        return float(np.exp(-self.log_likelihood))

    @property
    def entropy_bound(self) -> float:
        """exp(-sum_j q_j log q_j), the perplexity that no model goes below."""
        return float(np.exp(-self.saturated))

    @property
    def null_perplexity(self) -> float:
        """Perplexity of the base measure alone."""
        return float(np.exp(-self.null))

    @property
    def deviance_explained(self) -> float:
        """Part of the base measure's deviance that the mixture takes away; NaN if it has none."""
        gap = self.saturated - self.null
        return (self.log_likelihood - self.null) / gap if gap > 0 else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return every number by name, for JSON."""
        names = ("perplexity", "entropy_bound", "null_perplexity", "deviance_explained")
        derived = {name: getattr(self, name) for name in names}
        return {"log_likelihood": self.log_likelihood, **derived, **asdict(self)}

    def _head(self) -> str:
        return (
            f"Goodness of fit: {self.n_candidates:,} candidates, {self.n_observed:,} of them "
            f"observed, {self.n_draws:,} draws"
        )

    def _levels(self) -> tuple[list[str], list[list[str]]]:
        rows = (
            ("base measure alone", self.null, self.null_perplexity),
            ("the mixture", self.log_likelihood, self.perplexity),
            ("entropy bound", self.saturated, self.entropy_bound),
        )
        head = ["", "nats per draw", "perplexity"]
        return head, [[name, f"{nats:.8f}", f"{size:,.2f}"] for name, nats, size in rows]

    def _tests(self) -> list[str]:
        return [
            (
                f"deviance {self.deviance:,.1f}, Pearson's chi-square {self.pearson:,.1f} on "
                f"{self.degrees_of_freedom:,} degrees of freedom; dispersion "
                f"{self.dispersion:.4g}, of cells with five expected draws"
            ),
            (
                f"the mixture takes away {100 * self.deviance_explained:.2f} % of the deviance of "
                "the base measure alone"
            ),
        ]

    def _worst(self) -> tuple[list[str], list[list[str]]]:
        head = ["worst-fitting candidates", "observed", "expected", "deviance", "Pearson"]
        rows = [
            [
                misfit.label,
                f"{misfit.observed:,.0f}",
                f"{misfit.expected:,.4g}" if misfit.expected < 1000 else f"{misfit.expected:,.0f}",
                f"{misfit.deviance:+.2f}",
                f"{misfit.pearson:+.2f}" if abs(misfit.pearson) < 1e6 else f"{misfit.pearson:+.2g}",
            ]
            for misfit in self.worst
        ]
        return head, rows

    def __str__(self) -> str:
        lines = [self._head(), "", text_table(*self._levels()), "", *self._tests()]
        if self.worst:
            lines += ["", text_table(*self._worst())]
        return "\n".join(lines)

    # Python's own would be a wall of numbers in a session without HTML.
    __repr__ = __str__

    def _repr_html_(self) -> str:
        told = "<br>".join(escape(line) for line in self._tests())
        worst = html_table(*self._worst()) if self.worst else ""
        levels = html_table(*self._levels())
        return f"<div><p>{escape(self._head())}</p>{levels}<p>{told}</p>{worst}</div>"


def check_worst(n_worst: int, by: str) -> None:
    """Raise `InputError` unless so many candidates can be listed by such a residual."""
    whole = isinstance(n_worst, int | np.integer) and not isinstance(n_worst, bool)
    if not whole or n_worst < 0:
        raise InputError(f"n_worst: expected a number of at least 0, found {n_worst!r}")
    if by not in RESIDUALS:
        raise InputError(f"by: expected one of {', '.join(RESIDUALS)}, found {by!r}")


def goodness_of_fit(
    dataset: Dataset, predictor: Predictor, visit: Visit, n_worst: int = 10, by: str = "deviance"
) -> GoodnessOfFit:
    """Measure how well a mixture fits, in two passes over the data set.

    Parameters
    ----------
    dataset : Dataset
    predictor : Predictor
    visit : callable
        Calls a task with every stored block of a data set, as engines do.
    n_worst : int
        Worst-fitting candidates to name.
    by : {"deviance", "pearson"}
        The residual that decides.

    Raises
    ------
    InputError, StoreError
        If the data cannot be used, or hold no draws.
    """
    check_worst(n_worst, by)
    found = totals(dataset, predictor, visit)
    sums = measure_fit(dataset, found, visit, n_worst, by)
    if sums is None:
        raise InputError(f"{dataset.name!r}: counts: no draws, so there is no fit to measure")
    return summarised(dataset, found, sums, by)


def summarised(dataset: Dataset, found: Totals, sums: FitSums, by: str) -> GoodnessOfFit:
    """Measures of fit from the sums over all candidates."""
    n_components, n_features = found.predictor.atoms.shape
    n_parameters = n_components * (n_features + 1) - 1
    n = found.n_draws
    dispersion = sums.cells.dispersion(n_parameters + 1)
    return GoodnessOfFit(
        n_candidates=dataset.n_candidates,
        n_available=sums.n_available,
        n_observed=sums.n_observed,
        n_draws=n,
        log_likelihood=sums.log_prob / n,
        saturated=sums.log_draws / n - float(np.log(float(n))),
        null=sums.log_base / n - found.log_base,
        deviance=sums.deviance,
        pearson=sums.pearson,
        degrees_of_freedom=sums.n_available - 1 - n_parameters,
        dispersion=float("nan") if dispersion is None else dispersion,
        by=by,
        worst=_named(dataset, sums.worst),
    )


def _named(dataset: Dataset, worst: Worst) -> list[Misfit]:
    rows = [int(row) for row in worst.rows]
    labels = dataset.labels(rows) if rows else []
    columns = (worst.observed, worst.expected, worst.pearson, worst.deviance)
    values = zip(*(column.tolist() for column in columns), strict=True)
    return [
        Misfit(row, label, *numbers)
        for row, label, numbers in zip(rows, labels, values, strict=True)
    ]
