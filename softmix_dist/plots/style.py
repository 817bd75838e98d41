"""What the pictures share: colours, axes, and labels that keep apart."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from scipy.optimize import isotonic_regression

# Okabe and Ito: told apart by colour-blind readers, dark enough for text on white.
COLOURS = ("#0072B2", "#D55E00", "#007A5A", "#A8467F", "#8A6D00", "#3B7EA1", "#555555")
INK, GREY, FAINT = "#222222", "#6B6B6B", "#CFCFCF"


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Return the nearest heights that are a gap from each other at least, for labels to fit.

    >>> apart([0.0, 4.0, 4.0], 2.0)
    [0.0, 3.0, 5.0]
    """
    order = np.argsort(values, kind="stable")
    steps = gap * np.arange(len(order))
    heights = np.empty(len(order))
    heights[order] = isotonic_regression(np.asarray(values)[order] - steps).x + steps
    return [float(height) for height in heights]


def label_axes(ax: Axes, across: str, up: str) -> None:
    """Name two axes, and leave of their frame what is read: faint lines below and left."""
    ax.set_xlabel(across, color=INK)
    ax.set_ylabel(up, color=INK)
    ax.tick_params(color=FAINT, labelcolor=GREY)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)
