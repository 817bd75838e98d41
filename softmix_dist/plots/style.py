"""What the pictures share: colours, and labels that keep apart."""

from collections.abc import Sequence

import numpy as np
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
