"""Pictures of a fit: how it converged, its starts, its components, how it fits.

Each draws on axes of its own or on those that it is given, and returns them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from softmix_dist.errors import InputError
from softmix_dist.plots.style import COLOURS, FAINT, GREY, label_axes

if TYPE_CHECKING:
    from softmix_dist.fitted import FittedMixture
    from softmix_dist.profile import Profile

# Coefficients and candidates of a component that are drawn at most; longer labels are cut.
_MOST_FEATURES, _MOST_CANDIDATES, _LONGEST = 30, 10, 28


def convergence_plot(fit: FittedMixture, ax: Axes | None = None, tol: float | None = None) -> Axes:
    """Draw the distance to the maximum after each pass, in standard errors.

    Parameters
    ----------
    fit : SoftmaxMixture
        Fitted.
    ax : matplotlib.axes.Axes, optional
    tol : float, optional
        Line below which a fit has converged; default: the ``tol`` of the fit.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> convergence_plot(model).get_ylabel() != ""
    True
    """
    ax = _axes(ax)
    tol = float(getattr(fit, "tol", 0.01)) if tol is None else tol
    # The end was perhaps claimed without a row of its own.
    rows = [*fit.history_, *(row | {"distance": fit.distance_} for row in fit.history_[-1:])]
    rows = [row for row in rows if np.isfinite(row["distance"]) and row["distance"] > 0]
    passes = np.array([row["pass"] for row in rows])
    distances = np.array([row["distance"] for row in rows])
    double = np.array([row["precision"] == "float64" for row in rows], bool)
    ax.axhline(tol, color=FAINT, linewidth=1.2)
    ax.annotate(f"tol = {tol:g}", (1, tol), xycoords=("axes fraction", "data"), xytext=(-2, 3),
                textcoords="offset points", ha="right", size=9, color=GREY)  # fmt: skip
    ax.plot(passes, distances, color=COLOURS[0], linewidth=1.6)
    for chosen, fill, name in ((double, COLOURS[0], "float64"), (~double, "white", "float32")):
        if chosen.any():
            ax.plot(passes[chosen], distances[chosen], linestyle="", marker="o", markersize=5,
                    color=COLOURS[0], markerfacecolor=fill, label=name)  # fmt: skip
    if len(rows):
        ax.set_yscale("log")
        ax.legend(frameon=False, labelcolor=GREY, fontsize=9)
    label_axes(ax, "passes over the data", "distance to the maximum, standard errors")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def starts_plot(fit: FittedMixture, ax: Axes | None = None) -> Axes:
    """Draw how far each start is behind the best, on the sketch and where it ended.

    Parameters
    ----------
    fit : SoftmaxMixture
        Fitted.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        Nats per draw behind, on a scale that is linear below 1e-6. Hollow: did not go on to all
        the data.
    """
    ax = _axes(ax)
    starts, farthest = fit.starts_, 0.0
    for key, marker, name, colour in (
        ("sketch_log_likelihood", "D", "on the sketch", COLOURS[1]),
        ("objective", "o", "on all data, at its end", COLOURS[0]),
    ):
        values = np.array([_number(start.get(key)) for start in starts])
        if not np.isfinite(values).any():
            continue
        behind = np.nanmax(values) - values
        farthest = max(farthest, float(np.nanmax(behind)))
        ended = np.array([start.get("objective") is not None for start in starts])
        for chosen, fill in ((ended, colour), (~ended, "white")):
            there = chosen & np.isfinite(behind)
            ax.plot(behind[there], np.flatnonzero(there), linestyle="", marker=marker,
                    markersize=6, color=colour, markerfacecolor=fill,
                    label=name if fill == colour else None)  # fmt: skip
    ax.set_xscale("symlog", linthresh=1e-6)
    ax.set_xlim(-2e-7, max(1e-5, 2 * farthest))
    names = [start["method"] + (" (best)" if start.get("best") else "") for start in starts]
    ax.set_yticks(range(len(starts)), names)
    ax.invert_yaxis()
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, labelcolor=GREY, fontsize=9)
    label_axes(ax, "behind the best, nats per draw", "")
    return ax


def coefficients_plot(
    fit: FittedMixture, ax: Axes | None = None, level: float = 0.95, components: Any = None
) -> Axes:
    """Draw the coefficients of components, with their intervals where there are any.

    Parameters
    ----------
    fit : SoftmaxMixture
        Fitted.
    ax : matplotlib.axes.Axes, optional
    level : float
        Of the Wald intervals.
    components : sequence of int, optional
        Default: all, up to seven.

    Returns
    -------
    matplotlib.axes.Axes
        In the features' own coordinates; the features with the largest z-values, or
        coefficients, where they are too many.

    Examples
    --------
    >>> ax = coefficients_plot(model)
    """
    ax = _axes(ax)
    atoms = fit.atoms_
    chosen = list(range(min(len(atoms), len(COLOURS)))) if components is None else list(components)
    covered = fit.standard_errors_ is not None
    size = np.abs(atoms[chosen])
    if covered:
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.nan_to_num(size / fit.standard_errors_["atoms"][chosen])  # type: ignore[index]
    features = np.sort(np.argsort(-size.max(axis=0), kind="stable")[:_MOST_FEATURES])
    limits = fit.confidence_intervals(level)["atoms"] if covered else None
    step = 0.7 / max(len(chosen), 1)
    ax.axvline(0, color=FAINT, linewidth=1)
    for i, k in enumerate(chosen):
        at = np.arange(len(features)) + step * (i - (len(chosen) - 1) / 2)
        values = atoms[k, features]
        if limits is not None:
            low, high = limits[k, features].T
            ax.hlines(at, low, high, color=COLOURS[i % len(COLOURS)], linewidth=1.6)
        ax.plot(values, at, linestyle="", marker="o", markersize=4.5,
                color=COLOURS[i % len(COLOURS)],
                label=f"component {k}, weight {fit.weights_[k]:.3g}")  # fmt: skip
    names = fit._result().feature_names
    ax.set_yticks(range(len(features)), [_cut(names[j]) for j in features])
    ax.set_ylim(len(features) - 0.5, -0.5)
    ax.legend(frameon=False, labelcolor=GREY, fontsize=9, loc="best")
    told = f", {level:.0%} intervals" if covered else ", no standard errors"
    if len(features) < atoms.shape[1]:
        told += f"; {len(features)} of {atoms.shape[1]} features"
    label_axes(ax, f"coefficient{told}", "")
    return ax


def candidates_plot(profile: Profile, component: int, ax: Axes | None = None) -> Axes:
    """Draw the candidates that a component favours, and their shares of its draws.

    Parameters
    ----------
    profile : Profile
        As ``fit.profile(data)`` returns it.
    component : int
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        If there is no such component.
    """
    _check_profile(profile)
    if not 0 <= component < len(profile.typical):
        raise InputError(
            f"component: expected 0 to {len(profile.typical) - 1}, found {component!r}"
        )
    ax = _axes(ax)
    typical = profile.typical[component][:_MOST_CANDIDATES]
    shares = [candidate.share for candidate in typical]
    colour = COLOURS[component % len(COLOURS)]
    ax.barh(range(len(typical)), shares, color=colour, height=0.7)
    ax.set_yticks(range(len(typical)), [_cut(candidate.label) for candidate in typical])
    ax.set_ylim(max(len(typical), 1) - 0.5, -0.5)
    label_axes(ax, f"share of the draws of component {component}", "")
    return ax


def _check_profile(profile: Any) -> None:
    if not hasattr(profile, "typical"):
        raise InputError(f"profile: expected fit.profile(data), found {type(profile).__name__}")


def observed_plot(profile: Profile, ax: Axes | None = None) -> Axes:
    """Draw observed against expected draws, on logarithmic scales, in bins of candidates.

    Parameters
    ----------
    profile : Profile
        As ``fit.profile(data)`` returns it.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        One point a bin of expected draws, its mean, with two standard errors of it; larger
        points hold more candidates. Bins without draws are at the lower end, hollow.

    Raises
    ------
    InputError
        If the data have no draws.
    """
    _check_profile(profile)
    if not profile.n_draws:
        raise InputError("the data hold no draws, so there is nothing to compare with")
    ax = _axes(ax)
    expected, observed, number = profile.expected, profile.observed, profile.number
    seen = observed > 0
    low = min(expected.min(), observed[seen].min())
    high = max(expected.max(), observed.max())
    ends = np.array([low / 2, high * 2])
    ax.plot(ends, ends, color=FAINT, linewidth=1.2, zorder=0)
    error = 2 * profile.spread / np.sqrt(number)
    floor = np.maximum(observed - error, ends[0])
    ax.vlines(expected[seen], floor[seen], (observed + error)[seen], color=COLOURS[0],
              linewidth=1.2)  # fmt: skip
    size = 12 + 60 * np.log1p(number) / np.log1p(number.max())
    ax.scatter(expected[seen], observed[seen], size[seen], color=COLOURS[0], zorder=3)
    ax.scatter(expected[~seen], np.full((~seen).sum(), ends[0]), size[~seen], facecolor="white",
               edgecolor=COLOURS[0], zorder=3, clip_on=False)  # fmt: skip
    ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    label_axes(ax, "expected draws of a candidate", "observed draws, mean")
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    figure = Figure(figsize=(6.4, 4.2), facecolor="white", layout="constrained")
    return figure.add_subplot()


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _cut(label: str) -> str:
    # Signs that Matplotlib would take for mathematics.
    plain = label.replace("$", r"\$")
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"
