"""A fit in tables: text for a terminal, HTML for a notebook, rows for a data frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri

from softmix_dist.blocks import Array
from softmix_dist.results import FitResult

# Coefficients up to which the table has a row for each, with errors and intervals.
_MOST_ROWS = 200
LEVEL = 0.95


@dataclass(frozen=True)
class Row:
    """One parameter of a fit.

    Attributes
    ----------
    component : int
    parameter : str
        "weight" or the name of a feature; "weight of the component" beside a feature "weight".
    estimate, standard_error : float
    z, p_value : float
        Of the hypothesis that it is 0, two-sided; NaN for weights.
    low, high : float
        Wald interval; of weights on the logit scale.
    """

    component: int
    parameter: str
    estimate: float
    standard_error: float
    z: float
    p_value: float
    low: float
    high: float


def weight_name(result: FitResult) -> str:
    """Name of the mixing weights among the parameters, which is no feature's name."""
    return "weight of the component" if "weight" in result.feature_names else "weight"


def intervals(result: FitResult, level: float = LEVEL) -> dict[str, Array]:
    """Wald intervals.

    Parameters
    ----------
    result : FitResult
    level : float
        Between 0 and 1.

    Returns
    -------
    dict
        ``weights``, (K, 2), on the logit scale and mapped back; ``atoms``, (K, L, 2). NaN
        without standard errors.
    """
    errors = result.standard_errors
    half = float(ndtri((1 + level) / 2))
    if errors is None:
        errors = {"weights": np.full_like(result.weights, np.nan)}
        errors["atoms"] = np.full_like(result.atoms, np.nan)
    sides = np.array([-half, half])
    # One component has the weight 1, without error.
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = logit(result.weights)
        spread = errors["weights"] / (result.weights * (1 - result.weights))
        weights = expit(middle[:, None] + spread[:, None] * sides)
    weights[result.weights == 1] = np.where(np.isnan(errors["weights"]).any(), np.nan, 1.0)
    return {
        "weights": weights,
        "atoms": result.atoms[..., None] + errors["atoms"][..., None] * sides,
    }


def rows(result: FitResult, level: float = LEVEL) -> Iterator[Row]:
    """Yield every parameter, component by component."""
    nothing = {"weights": np.full_like(result.weights, np.nan)}
    nothing["atoms"] = np.full_like(result.atoms, np.nan)
    errors = result.standard_errors or nothing
    found = intervals(result, level)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = result.atoms / errors["atoms"]
    p_values = 2 * ndtr(-np.abs(z))
    name_of_weights = weight_name(result)
    for k, weight in enumerate(result.weights):
        low, high = found["weights"][k]
        yield Row(k, name_of_weights, weight, errors["weights"][k], np.nan, np.nan, low, high)
        for i, name in enumerate(result.feature_names):
            low, high = found["atoms"][k, i]
            yield Row(
                k, name, result.atoms[k, i], errors["atoms"][k, i], z[k, i], p_values[k, i],
                low, high,
            )  # fmt: skip


def as_text(result: FitResult, l2: float = 0.0) -> str:
    """Table of a fit, for people."""
    lines = _head(result, l2)
    many = result.atoms.size > _MOST_ROWS
    lines += _wide(result) if many or result.covariance is None else _long(result)
    lines += ["", *(f"warning: {text}" for text in result.warnings)] if result.warnings else []
    return "\n".join(lines)


def as_html(result: FitResult, l2: float = 0.0) -> str:
    """Return the same as HTML, with names escaped."""
    head = "<br>".join(escape(line) for line in _head(result, l2))
    columns = ("", "", "estimate", "std. error", "z", "P&gt;|z|", "2.5 %", "97.5 %")
    cells = "".join(f"<th>{name}</th>" for name in columns)
    body = [f"<tr>{cells}</tr>"]
    shown = list(rows(result))[:_MOST_ROWS]
    first_of_each = weight_name(result)
    for row in shown:
        first = f"component {row.component}" if row.parameter == first_of_each else ""
        values = "".join(f"<td>{text}</td>" for text in _cells(row))
        body.append(f"<tr><th>{first}</th><th>{escape(row.parameter)}</th>{values}</tr>")
    left = result.atoms.size + len(result.weights) - len(shown)
    more = f"<p>{left:,} more: to_dataframe()</p>" if left else ""
    told = "".join(f"<p>warning: {escape(text)}</p>" for text in result.warnings)
    return f"<div><p>{head}</p><table>{''.join(body)}</table>{more}{told}</div>"


def _cells(row: Row) -> list[str]:
    values = (row.estimate, row.standard_error, row.z, row.p_value, row.low, row.high)
    formats = ("{:.6g}", "{:.3g}", "{:.2f}", "{:.3f}", "{:.6g}", "{:.6g}")
    return [
        "" if np.isnan(value) else text.format(value)
        for text, value in zip(formats, values, strict=True)
    ]


def _head(result: FitResult, l2: float) -> list[str]:
    state = "converged" if result.converged else "NOT CONVERGED"
    starts = _starts_in_words(result)
    lines = [
        (
            f"Softmax mixture: {len(result.weights)} components, "
            f"{len(result.feature_names)} features, {result.n_candidates:,} candidates, "
            f"{result.n_draws:,} draws"
        ),
        (
            f"log-likelihood {result.log_likelihood:.8f} nats per draw, {state} at "
            f"{result.distance:.2g} standard errors from the maximum"
        ),
        f"{result.n_passes} passes in {result.seconds:.1f} s; {starts}",
    ]
    if result.kurtosis is not None:
        lines.append(
            f"kurtosis of the whitened features {min(result.kurtosis):.2g} to "
            f"{max(result.kurtosis):.2g} (moment estimators assume 3, Gaussian)"
        )
    if result.gap is not None:
        lines += _gap_in_words(result)
    if l2:
        lines.append(f"penalised objective {result.objective:.8f} (l2 = {l2:g})")
    if result.covariance is not None:
        lines.append(_errors_in_words(result))
        if l2:
            lines.append("of the penalised estimate, biased towards 0: intervals leave that out")
    return lines


def _errors_in_words(result: FitResult) -> str:
    words = {
        "sketch": "from the information on the sketch",
        "exact": "from the information on all data",
        "clustered": "clustered over samples (sandwich)",
        "scaled": "from the information, dispersion not known",
    }
    how = words.get(result.errors_from)
    if result.dispersion is not None:
        how = (
            "from the information, scaled by the root of the dispersion "
            f"{result.dispersion:.4g} (Pearson)"
        )
    return f"standard errors {how}, Wald intervals"


def _long(result: FitResult) -> list[str]:
    """One table a component, with errors and intervals."""
    first_of_each = weight_name(result)
    width = max(len(name) for name in (*result.feature_names, first_of_each))
    names = ("estimate", "std. error", "z", "P>|z|", "[2.5 %", "97.5 %]")
    head = " " * width + "".join(f"{name:>13}" for name in names)
    lines = []
    for row in rows(result):
        if row.parameter == first_of_each:
            effective = result.effective_candidates[row.component]
            title = f"component {row.component}, {effective:,.1f} effective candidates"
            lines += ["", title, head, "-" * len(head)]
        lines.append(f"{row.parameter:<{width}}" + "".join(f"{v:>13}" for v in _cells(row)))
    return lines


def _wide(result: FitResult) -> list[str]:
    """One table, a column for each component."""
    width = max(
        len(name) for name in (*result.feature_names, "effective candidates", weight_name(result))
    )
    columns = [f"component {k}" for k in range(len(result.weights))]
    lines = ["", " " * width + "".join(f"{name:>14}" for name in columns)]
    table = [
        (weight_name(result), [f"{w:.6f}" for w in result.weights]),
        ("effective candidates", [f"{e:,.1f}" for e in result.effective_candidates]),
        *(
            (name, [f"{value:.6g}" for value in column])
            for name, column in zip(result.feature_names, result.atoms.T, strict=True)
        ),
    ]
    return lines + [f"{name:<{width}}" + "".join(f"{v:>14}" for v in row) for name, row in table]


def _starts_in_words(result: FitResult) -> str:
    n_starts = len(result.starts)
    if n_starts == 1:
        return f"one start ({result.starts[0]['method']})"
    if not result.sketch_rows:
        behind = sum(row["stopped"] == "behind" for row in result.starts)
        return f"{n_starts} starts, {behind} dropped while behind"
    agree = sum(row["agrees"] for row in result.starts)
    (best,) = (row["method"] for row in result.starts if row["best"])
    return (
        f"{n_starts} starts on a sketch of {result.sketch_rows:,} candidates, {agree} reached "
        f"its best; the fit began at one by {best}"
    )


def _gap_in_words(result: FitResult) -> list[str]:
    gap, n_components = result.gap, len(result.weights)
    assert gap is not None
    # Of these two alone: fewer components than the fit has were not looked at.
    pair = (n_components, n_components + 1)
    better, other = reversed(pair) if gap["suggests_more"] else pair
    return [
        (
            f"no number of further components within radius {gap['radius']:.1f} was found to "
            f"gain more than {gap['bound']:.2g} nats per draw;"
        ),
        (
            f"one more was found to gain {gap['gain']:.1e}, and BIC prefers {better} components "
            f"to {other}"
        ),
    ]
