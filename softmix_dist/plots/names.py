"""One picture of a fitted mixture of names: styles, their typical names, their share over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from softmix_dist.plots.style import COLOURS, FAINT, GREY, INK, apart


def names_figure(
    weights: ArrayLike,
    typical_names: Sequence[Sequence[str]],
    decades: ArrayLike,
    shares: Mapping[str, ArrayLike],
    effective_numbers: ArrayLike,
    *,
    share_of_girls: ArrayLike | None = None,
    traits: Sequence[Sequence[tuple[str, float, float]]] | None = None,
    title: str | None = None,
    footnote: str = (
        "In brackets: the share among all births. The last point is the year 2010 alone. "
        "Births: US Social Security Administration."
    ),
    path: str | Path | None = None,
) -> Figure:
    """Draw one row per component: what it is on the left, its share by decade on the right.

    Parameters
    ----------
    weights : array_like, shape (K,)
        Mixing weights.
    typical_names : sequence of K sequences of str
        Names to print, the most typical first.
    decades : array_like of int, shape (S,)
        First year of each decade.
    shares : mapping of str to array_like, shape (S, K)
        Lines to draw, at most three, by the word to put beside each, such as girls and boys:
        shares of each decade's draws, so that rows add up to one.
    effective_numbers : array_like, shape (K,)
        Effective number of candidates of each component.
    share_of_girls : array_like, shape (K,), optional
        Share of girls among the component's draws.
    traits : sequence of K sequences of (str, float, float), optional
        What the component has more often than all draws, its share there and overall.
    title, footnote : str
        Headline and the small print below.
    path : str or Path, optional
        Where to save the figure; the ending decides the format (300 dots per inch for png).

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot, so there is nothing to close.
    """
    weights, effective = np.asarray(weights), np.asarray(effective_numbers)
    years, by_decade = np.asarray(decades), {w: np.asarray(v) for w, v in shares.items()}
    n_components = weights.size
    girls = None if share_of_girls is None else np.asarray(share_of_girls)

    figure = Figure(figsize=(11.0, 1.35 + 1.6 * n_components), facecolor="white")
    # Inches, so that the head and the foot keep their size whatever the number of rows.
    height = figure.get_figheight()
    grid = figure.add_gridspec(
        n_components,
        2,
        width_ratios=(1.35, 1.0),
        left=0.035,
        right=0.925,
        top=1 - 0.95 / height,
        bottom=0.62 / height,
        wspace=0.04,
        hspace=0.16,
    )
    headline = title or f"{_in_words(n_components)} spelling styles in US first names"
    figure.text(0.035, 1 - 0.42 / height, headline, size=18, weight="bold", color=INK)
    subtitle = "A softmax mixture that sees only the letters, fitted to all decades together"
    figure.text(0.035, 1 - 0.70 / height, subtitle, size=11, color=GREY)
    figure.text(0.035, 0.14 / height, footnote, size=8, color=GREY)

    # One scale, from zero, in all rows: heights compare, and no change is inflated.
    top = 1.1 * max(float(share.max()) for share in by_decade.values())
    for k in range(n_components):
        colour = COLOURS[k % len(COLOURS)]
        facts = [f"{_percent(weights[k])} of births"]
        if girls is not None:
            facts.append(f"{_percent(girls[k])} girls")
        facts.append(f"as spread out as {_rounded(effective[k])} names equally likely")
        telling = [] if traits is None else [_trait(*trait) for trait in traits[k]]
        _describe(figure.add_subplot(grid[k, 0]), typical_names[k], facts, telling, colour)
        axes = figure.add_subplot(grid[k, 1])
        _share_over_time(axes, years, {w: v[:, k] for w, v in by_decade.items()}, top, colour)
        if k == 0:
            axes.set_title(
                "share of the decade's girls and boys, one scale from 0",
                size=9.5,
                color=GREY,
                loc="left",
                x=0.17,
            )
        if k < n_components - 1:
            axes.tick_params(labelbottom=False)
    if path is not None:
        figure.savefig(path, dpi=300)
    return figure


def _describe(
    axes: Axes, names: Sequence[str], facts: list[str], traits: list[str], colour: str
) -> None:
    """Write a component's leading names large, then more names, its facts and its traits."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.plot([0, 0], [0.06, 0.97], color=colour, linewidth=4, solid_capstyle="butt", clip_on=False)
    style: dict[str, Any] = {"va": "top", "color": INK, "transform": axes.transAxes}
    leading = "  ".join(names[:5])
    axes.text(0.025, 0.99, leading, **{**style, "color": colour}, size=16, weight="bold")
    axes.text(0.025, 0.72, fill(", ".join(names[5:]), 72), **style, size=10.5, linespacing=1.3)
    axes.text(0.025, 0.37, ", ".join(facts), **{**style, "color": GREY}, size=9.5)
    axes.text(0.025, 0.20, ", ".join(traits), **{**style, "color": GREY}, size=9.5)


def _share_over_time(
    axes: Axes,
    years: NDArray[np.int64],
    shares: Mapping[str, NDArray[np.float64]],
    top: float,
    colour: str,
) -> None:
    """Draw a component's shares by decade, each line with its word and its two end values."""
    words = list(shares)
    for word, dashes in zip(shares, ("-", (0, (3, 1.2)), (0, (1, 1))), strict=False):
        axes.plot(years, shares[word], linestyle=dashes, color=colour, linewidth=2.2)
    style: dict[str, Any] = {"textcoords": "offset points", "va": "center", "color": colour}
    for row, side, shift in ((0, "right", -6), (-1, "left", 6)):
        at = apart([float(shares[word][row]) for word in words], 0.11 * top)
        for word, height in zip(words, at, strict=True):
            label = f"{word} {_percent(shares[word][row])}".strip()
            where = (float(years[row]), height)
            axes.annotate(label, where, xytext=(shift, 0), ha=side, size=9.5, **style)
    axes.set_ylim(0, top)
    margin = 0.21 * float(years[-1] - years[0])
    axes.set_xlim(years[0] - margin, years[-1] + margin / 4)
    axes.set_yticks([])
    axes.set_xticks([year for year in years if year % 20 == 0])
    axes.tick_params(length=2.5, color=FAINT, labelsize=8.5, labelcolor=GREY)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.spines["bottom"].set_bounds(float(years[0]), float(years[-1]))


def _trait(what: str, share: float, overall: float) -> str:
    return f"{what} {_percent(share)} (all {_percent(overall)})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _rounded(number: float) -> str:
    """Return two significant digits, thousands apart: 42348 gives 42 000."""
    digits = max(int(np.floor(np.log10(max(number, 1.0)))) - 1, 0)
    return f"{round(number, -digits):,.0f}".replace(",", "\N{NO-BREAK SPACE}")


def _in_words(number: int) -> str:
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")
    return words[number] if number < len(words) else str(number)
