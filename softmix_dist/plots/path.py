"""The path over K as a picture: what each number of components is worth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from softmix_dist.plots.style import COLOURS, FAINT, GREY, INK, apart, label_axes

if TYPE_CHECKING:
    from softmix_dist.recommendation import Selection


def selection_plot(
    selection: Selection, ax: Axes | None = None, path: str | Path | None = None
) -> Axes:
    """Draw what each number of components is worth: AIC, BIC and held-out likelihood.

    All in nats per draw behind the best of those that converged: AIC / 2N, BIC / 2N, and the
    held-out log-likelihood with one paired standard error. Fits that did not converge are
    hollow; the recommended number is marked.

    Parameters
    ----------
    selection : Selection
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a figure of its own, not registered with pyplot.
    path : str or Path, optional
        Where to save the figure; the ending decides the format (300 dots per inch for png).

    Returns
    -------
    matplotlib.axes.Axes
    """
    if ax is None:
        figure = Figure(figsize=(6.4, 4.2), facecolor="white", layout="constrained")
        ax = figure.add_subplot()
    numbers = np.array([c.n_components for c in selection.candidates])
    good = np.array([c.converged for c in selection.candidates])
    errors = np.array([c.behind_error for c in selection.candidates])
    curves = _behind(selection, good)
    span = max(float(numbers[-1] - numbers[0]), 1.0)
    unit = _scale_from_best(ax, np.concatenate(list(curves.values())), errors)
    if selection.recommended is not None:
        _mark(ax, selection.recommended, 0.045 * span)
    ax.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
    for i, (name, values) in enumerate(curves.items()):
        # Side by side, for they often coincide.
        at = numbers + 0.02 * span * (i - 1)
        style: dict[str, Any] = {"color": COLOURS[i], "marker": "osD"[i], "markersize": 5}
        if name == "held-out":
            ax.errorbar(at, values, errors, fmt="none", ecolor=COLOURS[i], capsize=3)
        ax.plot(at, values, linewidth=1.6, **style)
        style |= {"markerfacecolor": "white", "markeredgewidth": 1.3}
        ax.plot(at[~good], values[~good], linestyle="", **style)
    _name_curves(ax, {name: float(values[-1]) for name, values in curves.items()})
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    margin = 0.08 * span if len(numbers) > 1 else 0.6
    ax.set_xlim(numbers[0] - margin, numbers[-1] + margin)
    label_axes(ax, "number of components K", "behind the best, nats per draw")
    _small_print(ax, unit, bool(good.all()))
    if path is not None:
        ax.get_figure(root=True).savefig(path, dpi=300)  # type: ignore[union-attr]
    return ax


def _behind(selection: Selection, good: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """Nats per draw behind the best fit that converged, of all where none did."""
    fits, twice = selection.candidates, 2 * selection.n_draws
    values = {
        "held-out": np.array([c.behind for c in fits]),
        "AIC": np.array([c.aic for c in fits]) / twice,
        "BIC": np.array([c.bic for c in fits]) / twice,
    }
    among = good if good.any() else np.ones(len(fits), bool)
    return {name: value - value[among].min() for name, value in values.items()}


def _scale_from_best(ax: Axes, values: NDArray[np.float64], errors: NDArray[np.float64]) -> float:
    """Scale linearly near the best, where errors decide, and by powers of ten beyond."""
    near = errors[errors > 0]
    unit = 10 ** np.ceil(np.log10(2 * near.min())) if near.size else 1e-4
    ax.set_yscale("symlog", linthresh=unit, linscale=1.2)
    top = max(float(values.max()), unit)
    powers = np.arange(np.log10(unit).round(), np.ceil(np.log10(top)) + 1)
    ax.yaxis.set_major_locator(FixedLocator([0.0, *10.0**powers]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    ax.set_ylim(min(-0.5 * unit, 1.3 * float(values.min())), 2 * top)
    return float(unit)


def _power(value: float) -> str:
    return "0" if value == 0 else f"$10^{{{round(np.log10(value))}}}$"


def _mark(ax: Axes, recommended: int, half: float) -> None:
    ax.axvspan(recommended - half, recommended + half, color=FAINT, alpha=0.45, lw=0, zorder=0)
    ax.annotate(
        f"recommended: K = {recommended}", (recommended, 1), xycoords=("data", "axes fraction"),
        xytext=(0, 4), textcoords="offset points", ha="center", va="bottom", size=9.5, color=INK,
    )  # fmt: skip


def _small_print(ax: Axes, unit: float, converged: bool) -> None:
    told = f"Bars: one paired standard error. Linear scale up to {_power(unit)}."
    told += "" if converged else " Hollow: did not converge."
    ax.annotate(
        told, (0, 0), xycoords="axes fraction", xytext=(0, -46), textcoords="offset points",
        va="bottom", size=8, color=GREY, annotation_clip=False,
    )  # fmt: skip


def _name_curves(ax: Axes, ends: Mapping[str, float]) -> None:
    """Write each curve's name beside its last point, apart from the others."""
    to_axes = ax.transData + ax.transAxes.inverted()
    heights = [float(to_axes.transform((0, value))[1]) for value in ends.values()]
    for name, height, colour in zip(ends, apart(heights, 0.06), COLOURS, strict=False):
        ax.annotate(
            name, (1, height), xycoords="axes fraction", xytext=(2, 0),
            textcoords="offset points", va="center", size=10, color=colour, annotation_clip=False,
        )  # fmt: skip
